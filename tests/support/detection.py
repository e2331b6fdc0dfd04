"""Pictures for comparisons with the scripts of detection guides, the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Odd and even sides; at 97, 149, 161 and 263 pixels, `side * (target / side)` is below the target
# 800, 1333 or 1216, so that a script that rounds down makes a side of one pixel less.
SIZES = [(375, 500), (501, 334), (97, 149), (640, 481), (263, 161)]


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """(height, width, 3): waves and noise, in integers."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3].astype(np.uint32)
    noise = x * np.uint32(73856093) ^ y * np.uint32(19349663) ^ c * np.uint32(83492791)
    noise = (noise ^ noise >> 13) * np.uint32(1274126177) >> 26  # 0 to 63
    wave = (x * (c + 1) + y * (4 - c)) % 384
    wave = np.minimum(wave, 384 - wave)  # 0 to 192
    return (wave + noise).astype(np.uint8)
