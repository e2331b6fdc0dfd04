"""Parquet files, by pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write(path: Path, columns: Any, **options: Any) -> Path:
    """Writes a table, or columns by their names, to `path`. options: of write_table."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def varint(number: int) -> bytes:
    """A number as Parquet and Thrift write it: 7 bits in each byte, the lowest first."""
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])
