"""NumPy's .npy files from outside: checked in full before they are mapped.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from zoofast.base.files import opened

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000  # as in NumPy; Python's parser takes long for large texts
NOT_NPY = "not a .npy file of numbers"


def map_npy(path: Path | str) -> NDArray[Any]:
    """The array of a .npy file, mapped read-only; of floats or integers, in C or Fortran order.

    Raises OSError, and ValueError with the reason for a file that is damaged or of another kind.
    (np.load raises EOFError, OverflowError, SyntaxError and TokenError as well.)
    """
    with opened(path) as file:
        dtype, fortran_order, shape = _read_header(file)
        nbytes = math.prod(shape) * dtype.itemsize
        offset = file.tell()
        available = file.seek(0, 2) - offset
        if available != nbytes:
            raise ValueError(f"has {available} bytes of data, not {nbytes} for {list(shape)}")
        if nbytes == 0:  # nothing can be mapped
            return np.empty(shape, dtype)
        return np.memmap(file, dtype, "r", offset, shape, "F" if fortran_order else "C")


def _read_header(file: BinaryIO) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    """(dtype, Fortran order, shape); leaves the file at its data."""
    start = file.read(8)
    if start[:6] != MAGIC or start[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise ValueError(NOT_NPY)
    length = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    text = file.read(min(length, MAX_HEADER_BYTES + 1))
    if not len(text) == length <= MAX_HEADER_BYTES:
        raise ValueError(NOT_NPY)
    try:
        header = ast.literal_eval(text.decode("latin-1"))
        descr, fortran_order, shape = (header[key] for key in ("descr", "fortran_order", "shape"))
        if not isinstance(descr, str) or not isinstance(shape, tuple):
            raise ValueError(NOT_NPY)
        dtype = np.dtype(descr)
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise ValueError(NOT_NPY) from error
    sizes_valid = all(type(size) is int and 0 <= size < 1 << 62 for size in shape)
    if dtype.kind not in "fiu" or not isinstance(fortran_order, bool) or not sizes_valid:
        raise ValueError(NOT_NPY)
    return dtype, fortran_order, shape
