"""Preprocessing with Pillow and NumPy alone, one step after the other, as in the guides' scripts.

Every tensor must equal this module's, byte for byte. `prep --verify` and the tests compare them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoofast.preprocess import opencv
from zoofast.preprocess.recipe import BY_FACTOR, Recipe


def prepare_image(image: Image.Image, recipe: Recipe) -> NDArray[Any]:
    """One tensor of recipe.shape and recipe.dtype from an open image.

    A recipe with decoder "cv2" wants an image that is turned by its EXIF orientation already.
    """
    image = image.convert("RGB")
    size = _resized(*image.size, recipe)
    if recipe.filter.startswith("cv2-"):
        pixels = _resize_as_opencv(np.asarray(image), size, recipe)
        return _finished(_cropped(pixels, recipe), recipe, size)
    if size != image.size:
        image = image.resize(size, Image.Resampling[recipe.filter.upper()])
    if recipe.crop is not None:
        crop_h, crop_w = recipe.crop
        left = _crop_origin((image.width - crop_w) / 2, recipe.crop_rounding)
        top = _crop_origin((image.height - crop_h) / 2, recipe.crop_rounding)
        image = image.crop((left, top, left + crop_w, top + crop_h))
    elif recipe.pad is not None:
        return _finished(_cropped(np.asarray(image), recipe), recipe, size)
    if (image.height, image.width) != recipe.size:
        raise ValueError(recipe.size_mismatch(image.height, image.width))
    return _finished(np.asarray(image), recipe, size)


def _resized(width: int, height: int, recipe: Recipe) -> tuple[int, int]:
    """The width and height of the resized image."""
    if recipe.resize == "exact":
        return recipe.resize_size[1], recipe.resize_size[0]
    if recipe.resize == "none":
        return width, height
    if recipe.resize == "fit":
        return _fitted(width, height, recipe)
    side = recipe.resize_size[0]
    if recipe.resize == "short" and width < height:
        return side, _proportional(height, width, side, recipe.resize_rounding)
    return _proportional(width, height, side, recipe.resize_rounding), side


def _fitted(width: int, height: int, recipe: Recipe) -> tuple[int, int]:
    """The largest size of the same proportion in recipe.resize_size."""
    if recipe.resize_rounding == "timm":
        ratio = max(height / recipe.resize_size[0], width / recipe.resize_size[1])
        return round(width / ratio), round(height / ratio)
    scale = min(recipe.resize_size[1] / width, recipe.resize_size[0] / height)
    if recipe.resize_rounding in ("half-even", BY_FACTOR):
        return round(width * scale), round(height * scale)
    half = 0.5 if recipe.resize_rounding == "half-up" else 0.0
    return int(width * scale + half), int(height * scale + half)


def _resize_as_opencv(
    pixels: NDArray[np.uint8], size: tuple[int, int], recipe: Recipe
) -> NDArray[Any]:
    """The resized RGB pixels: uint8, or float32 with the filter cv2-linear-float32."""
    source: NDArray[Any] = pixels
    if recipe.filter == "cv2-linear-float32":
        source = pixels.astype(np.float32)
        if recipe.normalization.scale == "0-1":
            source = source / np.float32(255)
    if recipe.resize_rounding == BY_FACTOR:
        factor = min(
            new / old for new, old in zip(recipe.resize_size, source.shape[:2], strict=True)
        )
        return opencv.nearest_by_factor(source, size[1], size[0], factor)
    order = ["RGB".index(c) for c in recipe.channels]
    return opencv.resize(source[:, :, order], size[1], size[0], recipe.filter)[:, :, order]


def _cropped(pixels: NDArray[Any], recipe: Recipe) -> NDArray[Any]:
    """The centre crop, with zeros outside the image."""
    height, width = pixels.shape[:2]
    if recipe.crop is not None:
        crop_h, crop_w = recipe.crop
        left = _crop_origin((width - crop_w) / 2, recipe.crop_rounding)
        top = _crop_origin((height - crop_h) / 2, recipe.crop_rounding)
        around = [
            (max(-top, 0), max(top + crop_h - height, 0)),
            (max(-left, 0), max(left + crop_w - width, 0)),
            (0, 0),
        ]
        pixels = np.pad(pixels, around)[max(top, 0) :, max(left, 0) :][:crop_h, :crop_w]
    if recipe.pad is not None and height <= recipe.pad[0] and width <= recipe.pad[1]:
        canvas = np.empty((*recipe.pad, 3), pixels.dtype)
        canvas[:] = recipe.pad_value if recipe.pad_stage == "pixels" else 0
        if pixels.dtype == np.float32 and recipe.normalization.scale == "0-1":
            canvas /= np.float32(255)
        canvas[_image_in_pad(height, width, recipe)] = pixels
        pixels = canvas
    if pixels.shape[:2] != recipe.size:
        raise ValueError(recipe.size_mismatch(*pixels.shape[:2]))
    return pixels


def _image_in_pad(height: int, width: int, recipe: Recipe) -> tuple[slice, slice]:
    """Where the resized image lies in the padded one."""
    assert recipe.pad is not None
    is_centred = recipe.pad_position == "centre"
    top = (recipe.pad[0] - height) // 2 if is_centred else 0
    left = (recipe.pad[1] - width) // 2 if is_centred else 0
    return slice(top, top + height), slice(left, left + width)


def _finished(pixels: NDArray[Any], recipe: Recipe, size: tuple[int, int]) -> NDArray[Any]:
    """The tensor of the cropped or padded pixels; `size` is that of the resized image."""
    norm = recipe.normalization
    tensor: NDArray[Any]
    if recipe.dtype == "uint8":
        tensor = pixels.astype(np.uint8)
    else:
        tensor = pixels.astype(norm.precision)
        if isinstance(norm.scale, float):
            tensor = (pixels * np.float64(norm.scale)).astype(norm.precision)
        elif norm.scale == "0-1" and pixels.dtype == np.uint8:
            tensor = tensor / np.array(255, norm.precision)
        for mean in (norm.mean, norm.second_mean):
            tensor = tensor - np.array(mean, norm.precision)
        if norm.reciprocal:
            tensor = tensor * (1 / np.array(norm.std, np.float32).astype(np.float64))
        for std in () if norm.reciprocal else (norm.std, norm.second_std):
            tensor = tensor / np.array(std, norm.precision)
        tensor = tensor.astype(np.float32).astype(recipe.dtype)
    if recipe.pad_stage == "tensor":
        is_outside = np.ones(recipe.size, bool)
        is_outside[_image_in_pad(size[1], size[0], recipe)] = False
        tensor[is_outside] = np.array(recipe.pad_value, recipe.dtype)
    if recipe.channels == "BGR":
        tensor = tensor[:, :, ::-1]
    if recipe.layout == "NCHW":
        tensor = tensor.transpose(2, 0, 1)
    return np.ascontiguousarray(tensor)


def _proportional(side: int, old: int, new: int, rounding: str) -> int:
    """The length of a side of `side` pixels, where the other side goes from `old` to `new`."""
    return int(new / old * side + 0.5) if rounding == "half-up" else int(new * side / old)


def _crop_origin(origin: float, rounding: str) -> int:
    """The crop's first pixel; `origin` is (side - crop) / 2."""
    if rounding == "up":
        return math.ceil(origin)
    if rounding == "down":
        return math.floor(origin)
    if rounding == "truncate" or (rounding == "torchvision" and origin < 0):
        return int(origin)
    return round(origin)
