"""Structs in Thrift's compact protocol, and the footers that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import parquet_files
from zoofast.preprocess.sources import open_source
from zoofast.preprocess.sources.parquet import ParquetSource
from zoofast.preprocess.sources.thrift import read_struct, read_varint

varint = parquet_files.varint


def test_a_struct_of_each_kind() -> None:
    data = b"\x11" + b"\x12"  # true, false
    data += b"\x13\7" + b"\x14\5" + b"\x17" + bytes(8)  # of 8 and 16 bits; a double
    data += b"\5" + varint(200) + b"\x0e"  # a field whose number stands behind its kind
    data += b"\x19\xf5\x0f" + b"\2" * 15 + b"\x19\xe5" + b"\2" * 14  # lists
    data += b"\x19\x21\1\2" + b"\x18\2ab" + b"\x1c\x15\1\0" + b"\0"
    fields: dict[tuple[int, int], Any] = {
        (1, 1): True,
        (2, 1): False,
        (3, 3): None,
        (4, 4): -3,
        (5, 7): None,
        (100, 5): 7,
    }
    fields |= {(101, 9): [1] * 15, (102, 9): [1] * 14, (103, 9): [None, None], (104, 8): b"ab"}
    fields |= {(105, 12): {(1, 5): -1}}
    assert read_struct(data) == (fields, len(data))
    for end in range(len(data)):
        with pytest.raises((ValueError, IndexError)):
            read_struct(data[:end])


def test_numbers_and_depths() -> None:
    for number in (0, 127, 128, 1 << 32, (1 << 64) - 1):
        data = varint(number)
        assert read_varint(data, 0) == (number, len(data))
    for deep in (b"\x1c" * 10_000, b"\x19" + b"\x19" * 10_000, b"\x19\x1c" * 10_000):
        with pytest.raises(ValueError, match="too deep"):
            read_struct(deep)
    with pytest.raises(ValueError, match="more than 64 bits"):
        read_varint(b"\xff" * 10 + b"\1", 0)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [14, 15, 40])
def test_files_of_many_row_groups_are_read_by_pages(tmp_path: Path, groups: int) -> None:
    """Also where what the file tells of itself is long."""
    import pyarrow

    table = pyarrow.table({"image": [b"%d" % i for i in range(groups)]})
    for text in ("", "x" * 100_000):
        table = table.replace_schema_metadata({"text": text})
        path = parquet_files.write(tmp_path / "a.parquet", table, row_group_size=1)
        with open_source(path) as source:
            assert isinstance(source, ParquetSource)
            (file,) = source.files
            assert len(file.chunks) == groups and None not in file.chunks
