"""Damaged files give what Pillow gives: its pixels, or a refusal, for every recipe.

Pillow reads on after the last MCU, so a wrong marker there makes it refuse a picture whose pixels
are all there. If the file just ends, its answer depends on how many bits of the last MCU it has
read. `fuzz/against_pillow.py` tries many more files.
"""

from __future__ import annotations

import numpy as np
import pytest

from fuzz import against_pillow
from tests.support import jpegs, oracle
from zoofast import _core, prepare
from zoofast.errors import ImageError
from zoofast.preprocess.recipe_file import parse_recipe

EOI = b"\xff\xd9"
PICTURES = {
    "one scan": jpegs.jpeg(40, 56, 2),
    "restarts": jpegs.jpeg(40, 56, 2, restart_marker_blocks=3),
    "gray": jpegs.gray_jpeg(40, 56, 2),
    "progressive": jpegs.jpeg(40, 56, 2, progressive=True),
    "a scan for each component": jpegs.craft(
        40, 56, jpegs.SAMPLINGS["4:2:0"], 2, separate_scans=True
    ),
}
SCAN = jpegs.segment(0xDA, b"\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00")
FRAME = jpegs.segment(0xC0, b"\x08\x00\x10\x00\x10\x01\x01\x11\x00")
TAILS = {  # what stands in the place of the end-of-image marker
    "nothing": b"",
    "half a marker": b"\xff",
    "an unknown marker": b"\xff\x99",
    "an unknown marker, then the end": b"\xff\x99" + EOI,
    "a second beginning": b"\xff\xd8" + EOI,
    "a scan": SCAN + EOI,
    "a frame": FRAME + EOI,
    "half a frame": FRAME[:7],
    "a restart marker": b"\xff\xd3" + EOI,
    "a comment": jpegs.segment(0xFE, b"hello") + EOI,
    "a comment without the end": jpegs.segment(0xFE, b"hello"),
    "tables": jpegs.segment(0xDB, bytes([0, *range(1, 65)])) + EOI,
    "a segment of length 0": b"\xff\xfe\x00\x00" + EOI,
    "a number of lines": jpegs.segment(0xDC, b"\x00\x28") + EOI,
    "fill bytes": b"\xff\xff\xff" + EOI,
    "stuffing": b"\xff\x00" + EOI,
    "some bytes": b"junk" + EOI,
    "many bytes": b"junk" * 500 + EOI,
    "bytes behind the end": EOI + b"\xff\x99junk",
}
READ_TO_THE_END = oracle.Spec(mode="none", crop=(40, 56), dtype="uint8", layout="NHWC")
SPECS = [
    READ_TO_THE_END,
    oracle.Spec(mode="none", crop=None, out=(40, 56), dtype="uint8", layout="NHWC"),
    oracle.Spec(mode="exact", size=(20, 30), crop=None, dtype="uint8", layout="NHWC"),
    oracle.Spec(mode="short", size=(40, 40), crop=(40, 40), dtype="uint8", layout="NHWC"),
    oracle.Spec(mode="none", crop=(8, 8), dtype="uint8", layout="NHWC"),
]


def test_these_tails_make_pillow_refuse() -> None:
    """Else the test below would show nothing."""
    data = PICTURES["one scan"][:-2]
    refused = {name for name, tail in TAILS.items() if refuses(data + tail)}
    assert {"an unknown marker", "a scan", "a frame", "a second beginning"} <= refused
    assert not refused & {"a comment", "fill bytes", "some bytes", "bytes behind the end"}


def refuses(data: bytes) -> bool:
    return against_pillow.pillows_pixels(data) is None


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("tail", TAILS)
def test_tails(tail: str, picture: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOOFAST_ISA", isa)
    data = PICTURES[picture][:-2] + TAILS[tail]
    pixels = against_pillow.pillows_pixels(data)
    for spec in SPECS:
        recipe = parse_recipe(spec.toml(), "test")
        if pixels is None:
            with pytest.raises(ImageError):
                prepare(data, recipe)
        else:
            assert np.array_equal(prepare(data, recipe), oracle.tensor(pixels, spec))
    for window in (None, (0, 0, 56, 40), (3, 5, 30, 20), (10, 39, 11, 40)):
        made = _core.Workspace().decode(data, window)
        if made is not None:
            assert pixels is not None, window
            x0, y0, x1, y1 = window or (0, 0, 56, 40)
            assert np.array_equal(made, pixels[y0:y1, x0:x1]), window


def test_intact_pictures_are_decoded_here(isa: str) -> None:
    """The core itself makes these pixels; it does not leave them to Pillow."""
    workspace = _core.Workspace(isa)
    for name, data in PICTURES.items():
        for x0, y0, x1, y1 in ((0, 0, 56, 40), (41, 33, 56, 40)):
            made = workspace.decode(data, (x0, y0, x1, y1))
            assert made is not None, name
            assert np.array_equal(made, oracle.pixels(data)[y0:y1, x0:x1]), name


def test_a_window_of_scans_with_restarts(isa: str) -> None:
    """Each restart interval of a skipped row ends elsewhere."""
    factors = jpegs.SAMPLINGS["4:2:0"]
    data = jpegs.craft(48, 400, factors, separate_scans=True, restart=3)
    made = _core.Workspace(isa).decode(data, (350, 32, 400, 48))
    assert made is not None
    assert np.array_equal(made, oracle.pixels(data)[32:, 350:])


def test_a_wide_picture_that_ends_early(isa: str) -> None:
    """Skipped rows of 1024 blocks and no data: only a sanitizer sees a read behind the buffer."""
    for options in ({}, {"restart_marker_rows": 1}, {"progressive": True}):
        data = jpegs.gray_jpeg(64, 8192, 2, **options)
        begin = data.rindex(b"\xff\xda", 0, 2000)
        cut = data[: begin + 60] + EOI
        assert _core.Workspace(isa).decode(cut, (0, 56, 8192, 64)) is None, options
        assert _core.Workspace(isa).decode(data, (0, 56, 8192, 64)) is not None, options


def test_damaged_files(isa: str) -> None:
    """A few of fuzz/against_pillow.py's files: bodies, headers and tails."""
    counts, wrong = against_pillow.check_some(250, len(isa), [], None, [isa])
    assert wrong == []
    assert counts["files that Pillow refuses"] > 50
    assert counts["files that Pillow accepts"] > 50
    assert counts["baseline"] > 20 and counts["progressive"] > 20
