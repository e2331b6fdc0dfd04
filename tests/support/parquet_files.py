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
