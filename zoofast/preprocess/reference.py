"""Preprocessing with Pillow and NumPy alone, one step after the other, as in the guides' scripts.

Every tensor must equal this module's, byte for byte. `prep --verify` and the tests compare them.
"""

from __future__ import annotations

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
    elif recipe.resize == "short":
        side = recipe.resize_size[0]
        if min(width, height) != side:
            if width < height:
                size = (side, int(side * height / width))
            else:
                size = (int(side * width / height), side)
            image = image.resize(size, method)
    if recipe.crop is not None:
        crop_h, crop_w = recipe.crop
        left, top = (image.width - crop_w) / 2, (image.height - crop_h) / 2
        if recipe.crop_rounding == "half-even":
            left, top = round(left), round(top)
        left, top = int(left), int(top)
        image = image.crop((left, top, left + crop_w, top + crop_h))
    if (image.height, image.width) != recipe.size:
        raise ValueError(recipe.size_mismatch(image.height, image.width))
    pixels = np.asarray(image)
    if recipe.dtype == "uint8":
        tensor = pixels
    else:
        norm = recipe.normalization
        tensor = pixels.astype(np.float32)
        if norm.scale == "0-1":
            tensor = tensor / np.float32(255)
        tensor = tensor - np.array(norm.mean, np.float32)
        tensor = tensor / np.array(norm.std, np.float32)
        tensor = tensor.astype(recipe.dtype)
    if recipe.channels == "BGR":
        tensor = tensor[:, :, ::-1]
    if recipe.layout == "NCHW":
        tensor = tensor.transpose(2, 0, 1)
    return np.ascontiguousarray(tensor)
