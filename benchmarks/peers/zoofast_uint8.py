"""zoofast, one image per call, to uint8 NHWC, which a model with AIPP normalizes itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import zoofast

LABEL = "zoofast, 1 thread, to uint8"
EXACT = True
PACKAGES = ("zoofast",)

_recipe = zoofast.load_recipe("bilinear256_224_u8")


def prepare_uint8(data: bytes) -> NDArray[np.uint8]:
    return zoofast.prepare(data, _recipe)
