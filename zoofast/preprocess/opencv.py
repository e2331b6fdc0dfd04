"""OpenCV's resize (cv2.resize with IPP off) in NumPy, for the check of the C core.

The formulas are those of OpenCV's modules/imgproc/src/resize.cpp. `taps` stands for the source
pixels that one output pixel reads, along one side.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]
# Of one side: the source index and the weight of each tap of each output, both (outputs, taps).
Taps = tuple[NDArray[np.intp], NDArray[Any]]

F = np.float32


def resize(pixels: Pixels, height: int, width: int, filter: str) -> Pixels:
    """`pixels`, (H, W, channels), resized by one of the filters `cv2-*` of recipes.

    uint8 pixels, or float32 for "cv2-linear-float32"; the result has their dtype. The channels'
    order counts for "cv2-cubic", see `_cubic`.
    """
    old_h, old_w = pixels.shape[:2]
    if (old_h, old_w) == (height, width):
        return pixels.copy()
    if filter == "cv2-nearest":
        rows = _nearest(old_h, height, _scale(old_h, height))
        return pixels[rows[:, None], _nearest(old_w, width, _scale(old_w, width))]
    if filter == "cv2-linear-exact":
        return _exact(pixels, height, width)
    if filter == "cv2-cubic":
        return _cubic(pixels, height, width)
    if filter == "cv2-area":
        return _area(pixels, height, width)
    across, down = _linear(old_w, width, True), _linear(old_h, height, False)
    if filter == "cv2-linear-float32":
        return _sum(_sum(pixels, across, 1), down, 0)
    if (old_h, old_w) == (2 * height, 2 * width):
        return _block_means(pixels, 2, 2)
    return _fixed_point(pixels, across, down)


def nearest_by_factor(pixels: Pixels, height: int, width: int, factor: float) -> Pixels:
    """`pixels` resized as by cv2.resize with fx = fy = factor and INTER_NEAREST."""
    old_h, old_w = pixels.shape[:2]
    return pixels[_nearest(old_h, height, 1 / factor)[:, None], _nearest(old_w, width, 1 / factor)]


def _scale(old: int, new: int) -> float:
    return 1 / (new / old)


def _nearest(old: int, new: int, scale: float) -> NDArray[np.intp]:
    left: NDArray[np.intp] = np.floor(np.arange(new) * scale).astype(np.intp)
    return np.minimum(left, np.intp(old - 1))


def _positions(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The source pixel on the left of each output pixel's centre, and the fraction beyond it."""
    x = ((np.arange(new) + 0.5) * _scale(old, new) - 0.5).astype(F)
    left = np.floor(x)
    return left.astype(np.intp), x - left


def _linear(old: int, new: int, is_across: bool) -> Taps:
    return _pairs(*_positions(old, new), old, is_across)


def _pairs(left: NDArray[np.intp], part: NDArray[np.float32], old: int, is_across: bool) -> Taps:
    """Two taps. Outside the image the border pixel counts: across alone, down with both weights."""
    if is_across:
        part = np.where((left < 0) | (left >= old - 1), F(0), part)
    index = np.clip(np.stack([left, left + 1], 1), 0, old - 1)
    return index, np.stack([F(1) - part, part], 1)


def _sum(pixels: Pixels, taps: Taps, axis: int) -> Pixels:
    """The taps' products, added one after the other, along an axis (0: down, 1: across)."""
    index, weights = taps
    shape = (1, -1, 1) if axis else (-1, 1, 1)
    total = None
    for k in range(index.shape[1]):
        product = pixels.take(index[:, k], axis) * weights[:, k].reshape(shape)
        total = product if total is None else total + product
    assert total is not None
    return total


def _whole(taps: Taps) -> Taps:
    """The weights in 1/2048."""
    return taps[0], np.rint(taps[1] * F(2048)).astype(np.int64)


def _fixed_point(pixels: Pixels, across: Taps, down: Taps) -> Pixels:
    rows = _sum(pixels.astype(np.int64), _whole(across), 1) >> 4
    index, weights = _whole(down)
    parts = [(rows[index[:, k]] * weights[:, k, None, None]) >> 16 for k in range(2)]
    return _uint8((parts[0] + parts[1] + 2) >> 2)


def _exact(pixels: Pixels, height: int, width: int) -> Pixels:
    def taps(old: int, new: int) -> Taps:
        x = (np.arange(new) + 0.5) * _scale(old, new) - 0.5
        left = np.floor(x).astype(np.intp)
        part = np.rint((x - left) * 256).astype(np.int64)
        part[(left < 0) | (left >= old - 1)] = 0
        index = np.clip(np.stack([left, left + 1], 1), 0, old - 1)
        return index, np.stack([256 - part, part], 1)

    old_h, old_w = pixels.shape[:2]
    rows = _sum(pixels.astype(np.int64), taps(old_w, width), 1)
    return _uint8((_sum(rows, taps(old_h, height), 0) + (1 << 15)) >> 16)


def _cubic(pixels: Pixels, height: int, width: int) -> Pixels:
    """Whole numbers across; down float32, but whole numbers for the last values of a row that are
    no multiple of 8."""

    def taps(old: int, new: int) -> Taps:
        left, x = _positions(old, new)
        a, y = F(-0.75), F(1) - x
        first = ((a * (x + F(1)) - F(5) * a) * (x + F(1)) + F(8) * a) * (x + F(1)) - F(4) * a
        second, third = (((a + F(2)) * z - (a + F(3))) * z * z + F(1) for z in (x, y))
        index = np.clip(left[:, None] + np.arange(-1, 3), 0, old - 1)
        return index, np.stack([first, second, third, F(1) - first - second - third], 1)

    old_h, old_w = pixels.shape[:2]
    rows = _sum(pixels.astype(np.int64), _whole(taps(old_w, width)), 1)
    index, weights = _whole(taps(old_h, height))
    real = rows.astype(F)
    unit = weights.astype(F) * F(1 / 2**22)
    parts = [real[index[:, k]] * unit[:, k, None, None] for k in range(4)]
    result = np.rint(parts[0] + (parts[1] + (parts[2] + parts[3])))
    ends = (_sum(rows, (index, weights), 0) + (1 << 21)) >> 22
    values = width * pixels.shape[2]
    flat = result.reshape(height, values)
    flat[:, values // 8 * 8 :] = ends.reshape(height, values)[:, values // 8 * 8 :]
    return _uint8(flat.reshape(result.shape))


def _area(pixels: Pixels, height: int, width: int) -> Pixels:
    old_h, old_w = pixels.shape[:2]
    scales = _scale(old_h, height), _scale(old_w, width)
    if min(scales) < 1:
        return _fixed_point(pixels, _enlarged(old_w, width, True), _enlarged(old_h, height, False))
    if all(abs(scale - round(scale)) < np.finfo(float).eps for scale in scales):
        return _block_means(pixels, round(scales[0]), round(scales[1]))
    rows = _sum(pixels.astype(F), _shares(old_w, width), 1)
    return _uint8(np.rint(_sum(rows, _shares(old_h, height), 0)))


def _enlarged(old: int, new: int, is_across: bool) -> Taps:
    i, scale = np.arange(new), new / old
    left = np.floor(i * (1 / scale)).astype(np.intp)
    part = ((i + 1) - (left + 1) * scale).astype(F)
    return _pairs(left, np.where(part <= 0, F(0), part - np.floor(part)), old, is_across)


def _block_means(pixels: Pixels, down: int, across: int) -> Pixels:
    height, width, channels = pixels.shape
    blocks = pixels.astype(np.int64).reshape(
        height // down, down, width // across, across, channels
    )
    total = blocks.sum((1, 3))
    if down == across == 2:
        return _uint8((total + 2) >> 2)
    return _uint8(np.rint(total.astype(F) * F(1 / (down * across))))


def _shares(old: int, new: int) -> Taps:
    """The share of each source pixel in [i * scale, (i + 1) * scale), in float32."""
    scale = _scale(old, new)
    outputs: list[list[tuple[int, float]]] = []
    for i in range(new):
        begin = i * scale
        end, cell = begin + scale, min(scale, old - begin)
        last = min(math.floor(end), old - 1)
        first = min(math.ceil(begin), last)
        pairs = [(k, 1 / cell) for k in range(first, last)]
        if first - begin > 1e-3:
            pairs.insert(0, (first - 1, (first - begin) / cell))
        if end - last > 1e-3:
            pairs.append((last, min(end - last, 1, cell) / cell))
        outputs.append(pairs)
    most = max(map(len, outputs))
    filled = [pairs + [(pairs[-1][0], 0.0)] * (most - len(pairs)) for pairs in outputs]
    index = np.array([[k for k, _ in pairs] for pairs in filled], np.intp)
    return index, np.array([[share for _, share in pairs] for pairs in filled], F)


def _uint8(values: Pixels) -> NDArray[np.uint8]:
    return np.clip(values, 0, 255).astype(np.uint8)
