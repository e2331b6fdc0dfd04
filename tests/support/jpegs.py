"""Small images to test on: photos-like pixels, JPEGs through Pillow, and JPEGs written by hand.

Pillow cannot write 4:4:0, 16-bit tables, separate scans or odd sampling factors, so `craft`
writes baseline JPEGs of any shape from random coefficients.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SAMPLINGS = {  # (h, v) of Y, Cb, Cr
    "4:4:4": ((1, 1), (1, 1), (1, 1)),
    "4:2:2": ((2, 1), (1, 1), (1, 1)),
    "4:2:0": ((2, 2), (1, 1), (1, 1)),
    "4:4:0": ((1, 2), (1, 1), (1, 1)),
    "4:1:1": ((4, 1), (1, 1), (1, 1)),
    "4:1:0": ((4, 2), (1, 1), (1, 1)),
    "gray": ((1, 1),),
}
ODD_SAMPLINGS = {
    "gray 2x2": ((2, 2),),
    "all 2x1": ((2, 1), (2, 1), (2, 1)),
    "all 1x2": ((1, 2), (1, 2), (1, 2)),
    "luma 1x1, chroma 2x1": ((1, 1), (2, 1), (2, 1)),
    "chroma 1x2": ((2, 2), (1, 2), (1, 2)),
    "chroma 2x1": ((2, 2), (2, 1), (2, 1)),
    "chroma unlike": ((2, 2), (1, 2), (2, 1)),
    "luma 1x4": ((1, 4), (1, 1), (1, 1)),
    "luma 3x1": ((3, 1), (1, 1), (1, 1)),
}


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """(height, width, 3): gradients, a hard edge and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rgb = np.empty((height, width, 3))
    for c in range(3):
        a, b, phase = [*rng.uniform(0.02, 0.6, 2).tolist(), rng.uniform(0, 6)]
        rgb[:, :, c] = 128 + 90 * np.sin(a * x + b * y + phase)
    edge = x * rng.uniform(-1, 1) + y > rng.uniform(0, height)
    rgb[edge] = 255 - rgb[edge]
    rgb += rng.normal(0, 12, rgb.shape)
    return np.clip(rgb, 0, 255).astype(np.uint8)


def save(pixels: NDArray[np.uint8], format: str = "JPEG", **options: object) -> bytes:
    """The pixels as a file, through Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(height: int, width: int, seed: int = 0, **options: object) -> bytes:
    """A JPEG of photo(height, width, seed); options are Pillow's."""
    return save(photo(height, width, seed), **options)


def gray_jpeg(height: int, width: int, seed: int = 0, **options: object) -> bytes:
    return save(photo(height, width, seed)[:, :, 0], **options)


def segment(marker: int, payload: bytes) -> bytes:
    """A marker segment: 0xFF, the marker, the length, the payload."""
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def insert(data: bytes, extra: bytes, at: int = 2) -> bytes:
    """`extra` put into a file, by default right after SOI."""
    return data[:at] + extra + data[at:]


def find(data: bytes, marker: int) -> int:
    """Offset of the first segment with that marker."""
    at = 2
    while data[at + 1] != marker:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


def edit(data: bytes, at: int, value: int) -> bytes:
    """One byte changed."""
    return data[:at] + bytes([value]) + data[at + 1 :]


# ---- by hand -----------------------------------------------------------------


class _Huffman:
    """A canonical code: the first `short` symbols have 8 bits (4 for few), the others 16."""

    def __init__(self, symbols: Sequence[int], short: int) -> None:
        lengths = [8 if len(symbols) > 12 else 4] * short + [16] * (len(symbols) - short)
        self.counts = [lengths.count(n) for n in range(1, 17)]
        self.symbols = bytes(symbols)
        self.codes: dict[int, str] = {}
        code, previous = 0, lengths[0]
        for symbol, length in zip(symbols, lengths, strict=True):
            code <<= length - previous
            self.codes[symbol] = format(code, f"0{length}b")
            code, previous = code + 1, length

    def segment(self, number: int) -> bytes:
        return segment(0xC4, bytes([number, *self.counts]) + self.symbols)


_DC = _Huffman(range(12), 9)
_AC = _Huffman([r << 4 | s for s in range(1, 11) for r in range(16)] + [0x00, 0xF0], 120)


def _value_bits(value: int) -> tuple[int, str]:
    size = abs(value).bit_length()
    if size == 0:
        return 0, ""
    return size, format(value if value > 0 else value + (1 << size) - 1, f"0{size}b")


def _block_bits(block: NDArray[np.int64], dc_before: int) -> str:
    size, bits = _value_bits(int(block[0]) - dc_before)
    out = _DC.codes[size] + bits
    run, last = 0, 0
    for k in np.flatnonzero(block[1:]) + 1:
        run = int(k) - last - 1
        while run > 15:
            out += _AC.codes[0xF0]
            run -= 16
        size, bits = _value_bits(int(block[k]))
        out += _AC.codes[run << 4 | size] + bits
        last = int(k)
    return out if last == 63 else out + _AC.codes[0x00]


def _to_bytes(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")


def craft(
    height: int,
    width: int,
    factors: Sequence[tuple[int, int]],
    seed: int = 0,
    *,
    restart: int = 0,
    wide_tables: bool = False,
    ids: Sequence[int] = (1, 2, 3, 4),
    separate_scans: bool = False,
    extra: bytes = b"",
    density: float = 0.08,
) -> bytes:
    """A baseline JPEG of random coefficients with any sampling factors, one per component.

    `restart`: MCUs between restart markers. `wide_tables`: 16-bit quantization (SOF1).
    `extra`: segments after SOI.
    """
    rng = np.random.default_rng(seed)
    ids, n = ids[: len(factors)], len(factors)
    max_h, max_v = max(h for h, _ in factors), max(v for _, v in factors)
    across, down = -(-width // (8 * max_h)), -(-height // (8 * max_v))

    table = rng.integers(3, 12, 64)
    if wide_tables:
        table[rng.integers(1, 64, 20)] = rng.integers(256, 400, 20)
    out = b"\xff\xd8" + extra
    packed = struct.pack(">64H", *table) if wide_tables else bytes(table.tolist())
    out += segment(0xDB, bytes([0x10 if wide_tables else 0]) + packed)
    frame = struct.pack(">BHHB", 8, height, width, n)
    frame += b"".join(bytes([i, h << 4 | v, 0]) for i, (h, v) in zip(ids, factors, strict=True))
    out += segment(0xC1 if wide_tables else 0xC0, frame)
    out += _DC.segment(0x00) + _AC.segment(0x10)
    if restart:
        out += segment(0xDD, struct.pack(">H", restart))

    blocks = []
    for h, v in factors:
        coefficients = np.zeros((down * v, across * h, 64), np.int64)
        coefficients[:, :, 0] = rng.integers(-110, 111, coefficients.shape[:2])
        mask = rng.random((*coefficients.shape[:2], 63)) < density
        # samples stay in the range of the core's decoders
        limit = 1 if wide_tables else 8 if density > 0.3 else 60
        coefficients[:, :, 1:][mask] = rng.integers(-limit, limit + 1, int(mask.sum()))
        blocks.append(coefficients)

    scans = [[c] for c in range(n)] if separate_scans else [list(range(n))]
    for scan in scans:
        header = bytes([len(scan)]) + b"".join(bytes([ids[c], 0x00]) for c in scan)
        out += segment(0xDA, header + bytes([0, 63, 0]))
        if len(scan) == 1:  # not interleaved: only the blocks that hold pixels
            h, v = factors[scan[0]]
            rows = -(-height * v // (8 * max_v))
            columns = -(-width * h // (8 * max_h))
            units = [[(scan[0], y, x)] for y in range(rows) for x in range(columns)]
        else:
            units = [
                [
                    (c, my * v + y, mx * h + x)
                    for c, (h, v) in enumerate(factors)
                    for y in range(v)
                    for x in range(h)
                ]
                for my in range(down)
                for mx in range(across)
            ]
        bits, before, marker = "", dict.fromkeys(scan, 0), 0
        for i, unit in enumerate(units):
            if restart and i and i % restart == 0:
                out += _to_bytes(bits) + bytes([0xFF, 0xD0 + marker])
                bits, before, marker = "", dict.fromkeys(scan, 0), (marker + 1) % 8
            for c, y, x in unit:
                block = blocks[c][y, x]
                bits += _block_bits(block, before[c])
                before[c] = int(block[0])
        out += _to_bytes(bits)
    return out + b"\xff\xd9"
