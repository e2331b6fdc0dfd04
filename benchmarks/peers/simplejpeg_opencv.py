"""simplejpeg's decoding (libjpeg-turbo), OpenCV's resizing."""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from peers.opencv import normalize, resize_and_crop

LABEL = "simplejpeg + OpenCV"
EXACT = False
PACKAGES = ("simplejpeg", "opencv-python-headless")


def prepare(data: bytes) -> NDArray[np.float32]:
    return normalize(resize_and_crop(simplejpeg.decode_jpeg(data, colorspace="RGB")))
