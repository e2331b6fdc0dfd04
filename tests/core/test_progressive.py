"""JPEGs of several scans against Pillow. Random scan scripts are in test_baseline.py."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from tests.support import jpegs, oracle, paths
from zoofast import _core


def scans_of(data: bytes, frame: int = 0xC2) -> list[int]:
    """Offsets of what stands before each scan: its tables and its header."""
    offsets, at = [], jpegs.find(data, frame)
    while data[at + 1] != 0xD9:
        start = at
        while data[at + 1] != 0xDA:  # segments
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        offsets.append(start)
        at += 2
        while data[at] != 0xFF or data[at + 1] == 0 or 0xD0 <= data[at + 1] <= 0xD7:
            at += 1
    return [*offsets, at]


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1", "gray"])
@pytest.mark.parametrize("quality", [20, 75, 96])
def test_what_pillow_writes(isa: str, subsampling: str, quality: int) -> None:
    """Whole and in windows; also wider than what is decoded at a time."""
    workspace, rng = _core.Workspace(isa), np.random.default_rng(quality)
    for i, (height, width) in enumerate(((1, 1), (8, 17), (61, 43), (70, 260), (300, 33))):
        options = {"quality": quality, "progressive": True, "restart_marker_blocks": i * (i % 2)}
        if subsampling == "gray":
            data = jpegs.gray_jpeg(height, width, i, **options)
        else:
            data = jpegs.jpeg(height, width, i, subsampling=subsampling, **options)
        whole = oracle.pixels(data)
        made = workspace.decode(data)
        assert made is not None and np.array_equal(made, whole)
        for _ in range(8):
            x0, y0 = int(rng.integers(width)), int(rng.integers(height))
            x1, y1 = int(rng.integers(x0, width)) + 1, int(rng.integers(y0, height)) + 1
            made = workspace.decode(data, (x0, y0, x1, y1))
            assert made is not None and np.array_equal(made, whole[y0:y1, x0:x1])


def test_sample_encoded_again(isa: str) -> None:
    files = sorted((paths.SHARED / "imagenet-sample/val").rglob("*.JPEG"))[::25]
    if not files:
        pytest.skip("needs the ImageNet sample")
    for i, path in enumerate(files):
        buffer = io.BytesIO()
        with Image.open(path) as image:
            image.convert("RGB").save(
                buffer, "JPEG", quality=(50, 75, 92)[i % 3], subsampling=i % 2 * 2, progressive=True
            )
        made = _core.Workspace(isa).decode(buffer.getvalue())
        assert made is not None and np.array_equal(made, oracle.pixels(buffer.getvalue()))


def test_unusual_scans_are_left_to_pillow(isa: str) -> None:
    """Files of which libjpeg smooths blocks, or of which it would warn."""
    data = jpegs.jpeg(40, 56, 2, progressive=True)
    scans, workspace = scans_of(data), _core.Workspace(isa)
    assert len(scans) == 11
    parts = [data[a:b] for a, b in itertools.pairwise(scans)]
    head, end = data[: scans[0]], data[scans[-1] :]
    assert workspace.decode(head + b"".join(parts) + end) is not None
    comment = jpegs.segment(0xFE, b"hello")
    tables = jpegs.segment(0xDB, bytes([0, *range(1, 65)]))
    for i in range(1, len(parts)):
        for changed in (
            parts[:i] + parts[i + 1 :],  # one is missing
            parts[: i + 1] + parts[i:],  # one comes twice
            [*parts[:i], comment, *parts[i:]],
            [*parts[:i], tables, *parts[i:]],
        ):
            assert workspace.decode(head + b"".join(changed) + end) is None, i
    swapped = [*parts[:5], parts[9], *parts[6:9], parts[5]]  # a bit comes before a higher one
    assert workspace.decode(head + b"".join(swapped) + end) is None
    moved = [*parts[:4], *parts[6:9], parts[4], parts[5], parts[9]]  # allowed, but unusual
    made = workspace.decode(head + b"".join(moved) + end)
    assert made is not None and np.array_equal(made, oracle.pixels(data))


def test_unusual_sequential_scans_are_left_to_pillow(isa: str) -> None:
    """A component may not be missing or come twice; each scan has all bits."""
    data = jpegs.craft(40, 56, jpegs.SAMPLINGS["4:2:0"], 4, separate_scans=True)
    scans, workspace = scans_of(data, 0xC0), _core.Workspace(isa)
    head, end = data[: scans[0]], data[scans[-1] :]
    parts = [data[a:b] for a, b in itertools.pairwise(scans)]
    moved = workspace.decode(head + parts[0] + parts[2] + parts[1] + end)
    assert moved is not None and np.array_equal(moved, oracle.pixels(data))
    for some in ([0, 1], [0, 0, 1, 2], [0, 1, 2, 1], [1, 2], [0, 1, 1]):
        assert workspace.decode(head + b"".join(parts[i] for i in some) + end) is None, some
    bands = scans[1] + 7  # where the second scan's header says which coefficients and bits it has
    assert data[bands : bands + 3] == bytes([0, 63, 0])
    for at, value in ((bands, 1), (bands + 1, 62), (bands + 2, 0x01), (bands + 2, 0x10)):
        assert workspace.decode(jpegs.edit(data, at, value)) is None
