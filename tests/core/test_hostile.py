"""Bug classes that other JPEG decoders were caught with: the same verdict and pixels as Pillow.

Each test names a weakness of the past; the file is hostile in that way and otherwise sound. The
sanitized build runs these too.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.support import jpegs, oracle
from zoofast import _core
from zoofast.preprocess.prepare import Refusal, decode_with_pillow

SOF0, DHT, SOS, DQT = 0xC0, 0xC4, 0xDA, 0xDB


def agrees(data: bytes, isa: str) -> bool:
    """No pixels, or Pillow's pixels; and none at all where Pillow refuses."""
    made = _core.Workspace(isa).decode(data)
    wanted = decode_with_pillow(data)
    if made is None:
        return True
    return not isinstance(wanted, Refusal) and bool(np.array_equal(made, wanted))


def with_frame(data: bytes, height: int, width: int) -> bytes:
    at = jpegs.find(data, SOF0) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize(
    ("height", "width"), [(65500, 65500), (65535, 65535), (65500, 1), (1, 65500), (46341, 46341)]
)
def test_sizes_whose_product_overflows(height: int, width: int) -> None:
    """CVE-2018-20330, CVE-2019-2201. What is too large is refused before memory is taken."""
    data = with_frame(jpegs.jpeg(16, 16), height, width)
    if height * width > 2 * (1024**3 // 12):
        assert _core.Workspace().decode(data) is None
        assert isinstance(decode_with_pillow(data), Refusal)
    else:  # the scan ends long before the picture does
        assert _core.Workspace().decode(data) is None


@pytest.mark.parametrize("side", ["height", "width"])
def test_no_size(side: str) -> None:
    """Division by zero."""
    size = (0, 16) if side == "height" else (16, 0)
    assert _core.Workspace().decode(with_frame(jpegs.jpeg(16, 16), *size)) is None


@pytest.mark.parametrize("name", [*jpegs.SAMPLINGS, *jpegs.ODD_SAMPLINGS])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (9, 7), (17, 31)])
def test_odd_sampling_factors(name: str, size: tuple[int, int], isa: str) -> None:
    """CVE-2023-2804 and older: rows and columns beyond what the factors leave room for."""
    factors = {**jpegs.SAMPLINGS, **jpegs.ODD_SAMPLINGS}[name]
    for separate_scans in (False, True):
        assert agrees(jpegs.craft(*size, factors, separate_scans=separate_scans), isa)


@pytest.mark.parametrize("factor", [0x00, 0x01, 0x10, 0x51, 0x15, 0xFF, 0x44])
def test_factors_out_of_range(factor: int, isa: str) -> None:
    data = jpegs.jpeg(24, 24)
    assert agrees(jpegs.edit(data, jpegs.find(data, SOF0) + 11, factor), isa)


@pytest.mark.parametrize("width", range(1, 10))
def test_narrow_progressive(width: int, isa: str) -> None:
    """CVE-2021-29390: smoothing of planes up to 8 wide."""
    assert agrees(jpegs.jpeg(40, width, progressive=True), isa)


@pytest.mark.parametrize("components", [0, 2, 4, 5, 255])
def test_numbers_of_components(components: int, isa: str) -> None:
    data = jpegs.jpeg(24, 24)
    assert agrees(jpegs.edit(data, jpegs.find(data, SOF0) + 9, components), isa)


@pytest.mark.parametrize("tables", [0x02, 0x20, 0x33, 0x44, 0xFF])
def test_scan_with_tables_that_are_not_there(tables: int, isa: str) -> None:
    """Uninitialised tables: CVE-2013-6629, CVE-2013-6630."""
    data = jpegs.jpeg(24, 24)
    assert agrees(jpegs.edit(data, jpegs.find(data, SOS) + 6, tables), isa)


@pytest.mark.parametrize("number", [0x04, 0x0F, 0x14, 0x20, 0xFF])
def test_table_numbers_out_of_range(number: int, isa: str) -> None:
    data = jpegs.jpeg(24, 24)
    for marker in (DHT, DQT):
        assert agrees(jpegs.edit(data, jpegs.find(data, marker) + 4, number), isa)


@pytest.mark.parametrize("fill", [0x00, 0x01, 0x0F, 0xF0, 0xFF])
@pytest.mark.parametrize(
    "counts", [[0] * 16, [2] + [0] * 15, [0] * 15 + [255], [255] * 16, [1] * 16]
)
def test_impossible_huffman_tables(counts: list[int], fill: int, isa: str) -> None:
    """Empty (as messengers write them), overfull, longer than their segment, bad symbols."""
    for number in (0x00, 0x10):
        symbols = bytes([fill]) * min(sum(counts), 256)
        extra = jpegs.segment(DHT, bytes([number, *counts]) + symbols)
        data = jpegs.jpeg(24, 24)
        assert agrees(jpegs.insert(data, extra, jpegs.find(data, SOS)), isa)
        assert agrees(jpegs.insert(data, extra), isa)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 65535])
@pytest.mark.parametrize("marker", [SOF0, DHT, SOS, DQT, 0xDD, 0xE0, 0xED, 0xFE])
def test_segment_lengths(marker: int, length: int, isa: str) -> None:
    data = jpegs.jpeg(24, 24)
    if marker == 0xDD:  # older Pillows write none
        data = jpegs.craft(24, 24, jpegs.SAMPLINGS["4:2:0"], restart=1)
    if marker in (0xED, 0xFE):
        data = jpegs.insert(data, jpegs.segment(marker, b"Photoshop 3.0\x008BIM\x03\xed\x00"))
    at = jpegs.find(data, marker) + 2
    assert agrees(data[:at] + struct.pack(">H", length) + data[at + 2 :], isa)


@pytest.mark.parametrize("tail", [b"", b"\xff", b"\xff\x00", b"\xff\xd0", b"\xff\xff", b"\xff\xd8"])
def test_data_that_never_ends(tail: bytes, isa: str) -> None:
    """Truncation: libjpeg 1.5.90 looped for ever while skipping rows."""
    data = jpegs.jpeg(64, 64, restart_marker_blocks=3)
    for cut in range(jpegs.find(data, SOS) + 10, len(data) - 2, 37):
        assert agrees(data[:cut] + tail, isa)


def test_scan_bomb(isa: str) -> None:
    """A sound progressive file whose last scan comes a thousand times."""
    data = jpegs.jpeg(16, 16, progressive=True)
    last = data.rindex(b"\xff\xda")
    assert agrees(data[:last] + data[last:-2] * 1000 + b"\xff\xd9", isa)


@pytest.mark.parametrize("interval", [1, 2, 7, 65535])
def test_restart_interval_that_is_a_lie(interval: int, isa: str) -> None:
    data = jpegs.jpeg(40, 40)
    extra = jpegs.segment(0xDD, struct.pack(">H", interval))
    assert agrees(jpegs.insert(data, extra, jpegs.find(data, SOS)), isa)


@pytest.mark.parametrize("window", [(0, 0, 1, 1), (15, 15, 16, 16), (7, 8, 9, 40), (39, 0, 40, 40)])
def test_windows_at_the_edges(window: tuple[int, int, int, int], isa: str) -> None:
    """CVE-2017-15232, CVE-2020-35538: crafted cropping and skipping."""
    for factors in jpegs.SAMPLINGS.values():
        data = jpegs.craft(40, 40, factors)
        made = _core.Workspace(isa).decode(data, window)
        x0, y0, x1, y1 = window
        assert made is not None
        assert np.array_equal(made, oracle.pixels(data)[y0:y1, x0:x1])
