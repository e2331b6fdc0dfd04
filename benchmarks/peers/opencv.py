"""OpenCV alone: imdecode, then INTER_LINEAR, which does not antialias."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

LABEL = "OpenCV"
EXACT = False
PACKAGES = ("opencv-python-headless",)

cv2.setNumThreads(0)
MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
SCALE = 1 / (np.array([0.229, 0.224, 0.225], np.float32) * 255)


def resize_and_crop(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) to (224, 224, 3)."""
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    size = (256 * width // shorter, 256 * height // shorter)
    resized = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    top, left = round((size[1] - 224) / 2), round((size[0] - 224) / 2)
    return resized[top : top + 224, left : left + 224]


def normalize(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(224, 224, 3) to the tensor."""
    tensor = np.empty((3, 224, 224), np.float32)
    for c in range(3):
        np.subtract(rgb[:, :, c], MEAN[c], out=tensor[c], dtype=np.float32)
        tensor[c] *= SCALE[c]
    return tensor


def prepare(data: bytes) -> NDArray[np.float32]:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags), np.uint8)
    return normalize(resize_and_crop(bgr)[:, :, ::-1])
