"""Struct arrays in MATLAB's MAT 5 files: enough for the ILSVRC devkit's meta.mat."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zoofast.base.files import MAX_FILE_BYTES, read_file
from zoofast.errors import LabelError

_HEADER = 128
_COMPRESSED, _MATRIX, _UTF8 = 15, 14, 16
# Element type of the file -> NumPy's.
_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_CELL, _STRUCT, _CHAR, _NUMERIC = 1, 2, 4, range(6, 16)
_DAMAGED = (
    struct.error,
    zlib.error,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    RecursionError,
    OverflowError,
)


def read_struct_array(path: Path | str, name: str) -> list[dict[str, Any]]:
    """The struct array `name` of a MAT 5 file, one dict per element in MATLAB's order.

    Numbers become arrays, one number a float; text becomes str; a nested struct array a list.
    Raises LabelError when the file is unreadable, of another kind, damaged, or without `name`.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise LabelError(f"{path}: cannot be read: {error.strerror}") from error
    if data[:8] == b"\x89HDF\r\n\x1a\n" or data.startswith(b"MATLAB 7.3"):
        raise LabelError(f"{path}: is a MAT 7.3 file; save it with MATLAB's -v7")
    if len(data) < _HEADER or data[126:128] not in (b"IM", b"MI"):
        raise LabelError(f"{path}: not a MAT 5 file")
    try:
        reader = _Reader("<" if data[126:128] == b"IM" else ">")
        for variable, value in reader.variables(data[_HEADER:]):
            if variable == name and isinstance(value, list):
                return value
    except _DAMAGED as error:
        raise LabelError(f"{path}: is a damaged MAT 5 file ({error})") from error
    raise LabelError(f"{path}: holds no struct array named {name}")


@dataclass
class _Reader:
    order: Literal["<", ">"]

    def element(self, data: bytes, offset: int) -> tuple[int, bytes, int]:
        """(type, content, offset of the next element)."""
        kind, nbytes = struct.unpack_from(self.order + "II", data, offset)
        if kind >> 16:  # a small element: up to 4 bytes, packed into the tag itself
            kind, nbytes = kind & 0xFFFF, kind >> 16
            start, end = offset + 4, offset + 8
        else:
            start = offset + 8
            end = start + nbytes
            if kind != _COMPRESSED:
                end += -nbytes % 8
        if start + nbytes > len(data):
            raise ValueError(f"{nbytes} bytes at {offset} of {len(data)}")
        return kind, data[start : start + nbytes], end

    def variables(self, data: bytes) -> list[tuple[str, Any]]:
        variables, offset = [], 0
        while offset < len(data):
            kind, content, offset = self.element(data, offset)
            if kind == _COMPRESSED:
                # a few bytes can inflate to gigabytes
                inflated = zlib.decompressobj().decompress(content, MAX_FILE_BYTES)
                kind, content, _ = self.element(inflated, 0)
            if kind == _MATRIX:
                variables.append(self.matrix(content))
        return variables

    def numbers(self, kind: int, content: bytes) -> np.ndarray[Any, Any]:
        return np.frombuffer(content, np.dtype(_NUMBERS[kind]).newbyteorder(self.order))

    def matrix(self, data: bytes) -> tuple[str, Any]:
        """(name, value) of one array."""
        if not data:  # an empty array may be written as nothing at all
            return "", np.empty(0)
        _, flags, offset = self.element(data, 0)
        array_class = struct.unpack_from(self.order + "I", flags)[0] & 0xFF
        kind, content, offset = self.element(data, offset)
        dimensions = self.numbers(kind, content)
        if dimensions.dtype.kind not in "iu":
            raise ValueError("an array's dimensions are no whole numbers")
        count = math.prod(dimensions.tolist())
        if not 0 <= count <= len(data):  # every element takes a byte or more
            raise ValueError(f"{count} elements in {len(data)} bytes")
        _, name, offset = self.element(data, offset)
        return name.decode("ascii"), self.value(array_class, count, data, offset)

    def value(self, array_class: int, count: int, data: bytes, offset: int) -> Any:
        if array_class == _STRUCT:
            kind, content, offset = self.element(data, offset)
            width = int(self.numbers(kind, content)[0])
            _, content, offset = self.element(data, offset)
            fields = [
                content[i : i + width].split(b"\0")[0].decode("ascii")
                for i in range(0, len(content), width)
            ]
            structs = []
            for _ in range(count):
                values, offset = self.matrices(len(fields), data, offset)
                structs.append(dict(zip(fields, values, strict=True)))
            return structs
        if array_class == _CELL:
            return self.matrices(count, data, offset)[0]
        if array_class not in _NUMERIC and array_class != _CHAR:
            raise ValueError(f"array class {array_class} is not supported")
        if count == 0:
            return "" if array_class == _CHAR else np.empty(0)
        kind, content, _ = self.element(data, offset)
        if array_class == _CHAR:
            if kind == _UTF8:
                return content.decode("utf-8")
            return "".join(map(chr, self.numbers(kind, content)))
        numbers = self.numbers(kind, content)
        return float(numbers[0]) if count == 1 else numbers

    def matrices(self, count: int, data: bytes, offset: int) -> tuple[list[Any], int]:
        values = []
        for _ in range(count):
            _, content, offset = self.element(data, offset)
            values.append(self.matrix(content)[1])
        return values, offset
