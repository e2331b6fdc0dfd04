"""How names of images, bins and results relate, as in the guides and ais_bench."""

from __future__ import annotations

import os


def stem(path: str) -> str:
    """The name up to the FIRST dot of its last component: what the guides call a sample.

    `val/ILSVRC2012_val_00000001.JPEG` -> `ILSVRC2012_val_00000001`; `a.1.bin` -> `a`.
    """
    return os.path.basename(path).split(".", 1)[0]
