"""Preprocessing with Pillow and NumPy alone, one step after the other, as in the guides' scripts.

Every tensor must equal this module's, byte for byte. `prep --verify` and the tests compare them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoofast.preprocess.recipe import Recipe


def prepare_image(image: Image.Image, recipe: Recipe) -> NDArray[Any]:
    """One tensor of recipe.shape and recipe.dtype from an open image."""
    image = image.convert("RGB")
    width, height = image.size
    method = Image.Resampling[recipe.filter.upper()]
    if recipe.resize == "exact":
        image = image.resize((recipe.resize_size[1], recipe.resize_size[0]), method)
    elif recipe.resize != "none":
        side = recipe.resize_size[0]
        if recipe.resize == "short" and width < height:
            size = (side, _proportional(height, width, side, recipe.resize_rounding))
        else:
            size = (_proportional(width, height, side, recipe.resize_rounding), side)
        if size != image.size:
            image = image.resize(size, method)
    if recipe.crop is not None:
        crop_h, crop_w = recipe.crop
        left = _crop_origin((image.width - crop_w) / 2, recipe.crop_rounding)
        top = _crop_origin((image.height - crop_h) / 2, recipe.crop_rounding)
        image = image.crop((left, top, left + crop_w, top + crop_h))
    if (image.height, image.width) != recipe.size:
        raise ValueError(recipe.size_mismatch(image.height, image.width))
    pixels = np.asarray(image)
    if recipe.dtype == "uint8":
        tensor = pixels
    else:
        norm = recipe.normalization
        tensor = pixels.astype(norm.precision)
        if isinstance(norm.scale, float):
            tensor = (pixels * np.float64(norm.scale)).astype(norm.precision)
        elif norm.scale == "0-1":
            tensor = tensor / np.array(255, norm.precision)
        for mean in (norm.mean, norm.second_mean):
            tensor = tensor - np.array(mean, norm.precision)
        for std in (norm.std, norm.second_std):
            tensor = tensor / np.array(std, norm.precision)
        tensor = tensor.astype(np.float32).astype(recipe.dtype)
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
