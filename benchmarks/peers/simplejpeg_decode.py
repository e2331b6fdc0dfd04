"""A full decode by simplejpeg, which contains a libjpeg-turbo of its own."""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

LABEL = "decode only: simplejpeg"
EXACT = True
PACKAGES = ("simplejpeg",)


def decode(data: bytes) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB")
    return pixels
