"""Thrift's compact protocol, in which Parquet writes its metadata.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any

# Kinds of values. A field is known by its number and its kind.
I32, I64, BYTES, LIST, STRUCT = 5, 6, 8, 9, 12
_TRUE, _FALSE, _I8, _I16, _DOUBLE = 1, 2, 3, 4, 7
_MAX_DEPTH = 12  # of structs and lists in each other

Fields = dict[tuple[int, int], Any]


def read_struct(
    data: bytes | memoryview, at: int = 0, depth: int = _MAX_DEPTH
) -> tuple[Fields, int]:
    """The struct at `at`: its fields by number and kind, and where it ends.

    Raises ValueError or IndexError for bytes that are no struct, or have a map.
    """
    if not depth:
        raise ValueError("too deep")
    fields: Fields = {}
    number = 0
    while (byte := data[at]) != 0:
        at += 1
        kind = byte & 15
        if byte >> 4:
            number += byte >> 4
        else:
            number, at = _read_signed(data, at)
        if kind in (_TRUE, _FALSE):
            fields[number, _TRUE] = kind == _TRUE
        else:
            fields[number, kind], at = _read_value(data, at, kind, depth)
    return fields, at + 1


def _read_value(data: bytes | memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """A value of `kind` at `at`, and where it ends. None for numbers of 8 bits and doubles."""
    if kind in (_I16, I32, I64):
        return _read_signed(data, at)
    if kind == BYTES:
        nbytes, at = read_varint(data, at)
        end = at + nbytes
        if end > len(data):
            raise ValueError("it ends too early")
        return data[at:end], end
    if kind == STRUCT:
        return read_struct(data, at, depth - 1)
    if kind == LIST:
        if not depth:
            raise ValueError("too deep")
        count, kind = data[at] >> 4, data[at] & 15
        at += 1
        if count == 15:
            count, at = read_varint(data, at)
        values = []
        for _ in range(count):
            value, at = _read_value(data, at, kind, depth - 1)
            values.append(value)
        return values, at
    size = {_TRUE: 1, _FALSE: 1, _I8: 1, _DOUBLE: 8}.get(kind)
    if size is None or at + size > len(data):
        raise ValueError("a value of an unknown kind, or that ends too early")
    return None, at + size


def _read_signed(data: bytes | memoryview, at: int) -> tuple[int, int]:
    number, at = read_varint(data, at)
    return (number >> 1) ^ -(number & 1), at


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """A number of up to 64 bits at `at`, and where it ends. Raises ValueError; IndexError."""
    number = shift = 0
    while shift < 64:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
    raise ValueError("a number of more than 64 bits")
