"""MATLAB 5 files written by hand, also such as MATLAB never writes."""

from __future__ import annotations

import struct


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def matrix(array_class: int, dims: tuple[int, ...], name: str, *rest: bytes) -> bytes:
    head = element(6, struct.pack("<II", array_class, 0)) + element(
        5, struct.pack(f"<{len(dims)}i", *dims)
    )
    return element(14, head + element(1, name.encode()) + b"".join(rest))


def mat_file(*variables: bytes) -> bytes:
    return (
        b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM" + b"".join(variables)
    )


def struct_array(name: str, fields: list[str], rows: list[list[bytes]]) -> bytes:
    names = b"".join(field.encode().ljust(32, b"\0") for field in fields)
    values = b"".join(b"".join(row) for row in rows)
    small = struct.pack("<HHi", 5, 4, 32)  # the field width, packed into its tag
    return matrix(2, (len(rows), 1), name, small, element(1, names), values)
