"""The sample name, which joins an image, its tensor and its results."""

from __future__ import annotations

import os


def stem(path: str) -> str:
    """The sample name of a path: its last component up to the FIRST dot.

    The guides' scripts and ais_bench name samples in this way.
    `val/ILSVRC2012_val_00000001.JPEG` -> `ILSVRC2012_val_00000001`; `a.1.bin` -> `a`.
    """
    return os.path.basename(path).split(".", 1)[0]
