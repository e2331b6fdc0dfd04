"""zoofast, one image per call."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import zoofast
from zoofast import _core

LABEL = "zoofast, 1 thread"
EXACT = True
PACKAGES = ("zoofast",)

_recipe = zoofast.load_recipe("alexnet")


def versions() -> dict[str, str]:
    return {"zoofast's CPU level": _core.isa()}


def prepare(data: bytes) -> NDArray[np.float32]:
    return zoofast.prepare(data, _recipe)
