"""The guides' scripts with their last step: `tofile` of the transposed view, element by element."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peers.guide_script import EXACT, PACKAGES, prepare_strided

__all__ = ["EXACT", "LABEL", "PACKAGES", "prepare"]

LABEL = "guide's script, with its tofile"

_folder = tempfile.TemporaryDirectory(prefix="zoofast-bench-")
_path = Path(_folder.name) / "image.bin"


def prepare(data: bytes) -> NDArray[np.float32]:
    tensor = prepare_strided(data)
    tensor.tofile(_path)
    return tensor
