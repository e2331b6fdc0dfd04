"""Prepares an image as the guides' scripts do: Pillow, then NumPy, one step after the other."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LABEL = "guide's script (Pillow, NumPy)"
EXACT = True
PACKAGES = ("pillow", "numpy")

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def prepare_strided(data: bytes) -> NDArray[np.float32]:
    """The tensor as the scripts have it: a transposed view."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    if min(width, height) != 256:
        if width < height:
            size = (256, int(256 * height / width))
        else:
            size = (int(256 * width / height), 256)
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    image = image.crop((left, top, left + 224, top + 224))
    pixels = np.array(image, dtype=np.float32)
    pixels = pixels / np.float32(255)
    pixels = pixels - MEAN
    pixels = pixels / STD
    return pixels.transpose(2, 0, 1)


def prepare(data: bytes) -> NDArray[np.float32]:
    return np.ascontiguousarray(prepare_strided(data))
