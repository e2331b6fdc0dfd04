"""The system's libjpeg-turbo, called from a few lines of C."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LABEL = "decode only: libjpeg-turbo"
EXACT = True
PACKAGES = ()


def _build() -> ctypes.CDLL:
    source = Path(__file__).with_suffix(".c")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libjpeg_turbo.so"
        command = ["cc", "-O2", "-shared", "-fPIC", str(source), "-ljpeg"]
        subprocess.run([*command, "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))


_library = _build()
_library.measure.argtypes = [ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p]
_library.decode.argtypes = [ctypes.c_void_p]
_library.start()
_width, _height = ctypes.c_int(), ctypes.c_int()
_pixels = np.empty(0, np.uint8)


def versions() -> dict[str, str]:
    n = _library.version()
    return {"libjpeg-turbo": f"{n // 1000000}.{n // 1000 % 1000}.{n % 1000}"}


def decode(data: bytes) -> NDArray[np.uint8]:
    """The pixels lie in one buffer that the next call overwrites."""
    global _pixels
    _library.measure(data, len(data), ctypes.byref(_width), ctypes.byref(_height))
    width, height = _width.value, _height.value
    if _pixels.size < 3 * width * height:
        _pixels = np.empty(3 * width * height, np.uint8)
    _library.decode(_pixels.ctypes.data)
    return _pixels[: 3 * width * height].reshape(height, width, 3)
