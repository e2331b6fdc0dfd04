"""Pages of Parquet files against pyarrow. Needs pyarrow: slow tests."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import parquet_files
from zoofast.preprocess.sources import open_source
from zoofast.preprocess.sources.parquet import ParquetSource
from zoofast.preprocess.sources.parquet_pages import (
    MAX_PAGE_BYTES,
    ColumnChunk,
    UnusualError,
    Values,
    _column_chunk,
    _runs,
    column_chunks,
    pages,
)
from zoofast.preprocess.sources.thrift import BYTES, I64, LIST, STRUCT, read_struct

pytestmark = pytest.mark.slow
varint = parquet_files.varint


def reader(data: bytes) -> Callable[[int, int], memoryview]:
    def read(begin: int, nbytes: int) -> memoryview:
        if begin + nbytes > len(data):
            raise UnusualError
        return memoryview(data)[begin : begin + nbytes]

    return read


def footer_of(data: bytes) -> memoryview:
    return memoryview(data)[-8 - int.from_bytes(data[-8:-4], "little") : -8]


def by_pages(path: Path, column: str) -> list[bytes | None]:
    """All values of a column, by our own reader. Raises UnusualError."""
    from pyarrow import parquet

    metadata, data = parquet.read_metadata(path), path.read_bytes()
    values: list[bytes | None] = []
    for chunk in column_chunks(metadata, footer_of(data), column):
        if chunk is None:
            raise UnusualError
        for some in pages(reader(data), chunk):
            values += [None if value is None else bytes(value) for value in some]
    return values


def by_pyarrow(path: Path, column: str) -> list[bytes | None]:
    """The same, by pyarrow. Raises its errors."""
    from pyarrow import parquet

    with parquet.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
        table = file.read([column], use_threads=False)
    values: list[Any] = table.column(0).to_pylist()
    if "." in column:
        values = [value and value[column.rpartition(".")[2]] for value in values]
    return values


texts = st.binary(max_size=40) | st.binary(min_size=200, max_size=300)
values_of_columns = st.lists(texts | st.none(), min_size=1, max_size=200) | st.lists(
    st.sampled_from([b"", b"a", b"bb" * 9, None]), min_size=1, max_size=200
)


@given(
    values=values_of_columns,
    is_struct=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "compression": st.sampled_from(["none", "snappy"]),
            "use_dictionary": st.booleans(),
            "dictionary_pagesize_limit": st.sampled_from([100, 1 << 20]),
            "data_page_size": st.sampled_from([50, 400, 1 << 20]),
            "write_batch_size": st.sampled_from([1, 7, 1024]),
            "row_group_size": st.sampled_from([3, 64, 1000]),
            "write_page_checksum": st.booleans(),
            "write_statistics": st.booleans(),
        }
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_are_those_of_pyarrow(
    tmp_path: Path, values: list[bytes | None], is_struct: bool, options: dict[str, Any]
) -> None:
    import pyarrow

    column = pyarrow.array(values, pyarrow.binary())
    if is_struct:
        column = pyarrow.StructArray.from_arrays([column], ["bytes"])
    path = parquet_files.write(tmp_path / "a.parquet", {"image": column}, **options)
    name = "image.bytes" if is_struct else "image"
    assert by_pages(path, name) == by_pyarrow(path, name)


def test_chunks_are_those_of_pyarrow(tmp_path: Path) -> None:
    from pyarrow import parquet

    values = [bytes([i]) * i for i in range(90)]
    columns = {"label": range(90), "image": values, "text": ["x"] * 90}
    for use_dictionary in (False, True):
        path = parquet_files.write(
            tmp_path / "a.parquet", columns, row_group_size=20, use_dictionary=use_dictionary
        )
        metadata, footer = parquet.read_metadata(path), footer_of(path.read_bytes())
        chunks = column_chunks(metadata, footer, "image")
        assert len(chunks) == metadata.num_row_groups == 5
        for i, chunk in enumerate(chunks):
            column = metadata.row_group(i).column(1)
            begin = column.dictionary_page_offset or column.data_page_offset
            end = begin + column.total_compressed_size
            assert chunk == (begin, end, column.num_values, True, 1)
        assert column_chunks(metadata, footer, "label") == [None] * 5
        assert column_chunks(metadata, memoryview(b"\x19"), "image") == [None] * 5


@given(st.binary(max_size=300))
def test_bytes_that_are_no_struct(data: bytes) -> None:
    with suppress(ValueError, IndexError):
        _, end = read_struct(data)
        assert 0 < end <= len(data)


def test_a_column_that_has_all_values(tmp_path: Path) -> None:
    import pyarrow

    schema = pyarrow.schema([pyarrow.field("image", pyarrow.binary(), nullable=False)])
    values = [b"x" * i for i in range(50)]
    table = pyarrow.table({"image": values}, schema=schema)
    path = parquet_files.write(tmp_path / "a.parquet", table)
    assert by_pages(path, "image") == values


def test_what_is_left_to_pyarrow(tmp_path: Path) -> None:
    values = [bytes([i]) * 500 for i in range(40)]
    for options in (
        {"data_page_version": "2.0"},
        {"compression": "zstd"},
        {"compression": "gzip"},
        {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}},
        {"use_dictionary": False, "column_encoding": {"image": "DELTA_LENGTH_BYTE_ARRAY"}},
    ):
        path = parquet_files.write(tmp_path / "a.parquet", {"image": values}, **options)
        with pytest.raises(UnusualError):
            by_pages(path, "image")
        with open_source(path) as source:
            assert [source.read(item) for item in source.items] == values
    path = parquet_files.write(tmp_path / "a.parquet", {"image": [b"a" * (MAX_PAGE_BYTES + 1)]})
    with pytest.raises(UnusualError):
        by_pages(path, "image")
    path = parquet_files.write(tmp_path / "a.parquet", {"image": [values[:2], values[2:]]})
    with pytest.raises(UnusualError):
        by_pages(path, "image.list.element")


def test_a_dictionary_of_more_values_than_rows(tmp_path: Path) -> None:
    """So that a small file cannot ask for the memory of millions of views."""
    from pyarrow import parquet

    path = parquet_files.write(tmp_path / "a.parquet", {"image": [b"a", b"b", b"c"]})
    metadata, data = parquet.read_metadata(path), path.read_bytes()
    (chunk,) = column_chunks(metadata, footer_of(data), "image")
    assert chunk is not None
    assert [len(values) for values in pages(reader(data), chunk)] == [3]
    with pytest.raises(UnusualError):
        list(pages(reader(data), chunk._replace(values=2)))


def test_a_page_that_is_left_to_pyarrow_behind_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first pages gave is not given again."""

    def first_pages(*arguments: Any) -> Iterator[Values]:
        given = list(pages(*arguments))
        assert len(given) > 3
        yield from given[:3]
        raise UnusualError

    monkeypatch.setattr("zoofast.preprocess.sources.parquet.pages", first_pages)
    values = [bytes([i]) * 500 for i in range(40)]
    options = {"use_dictionary": False, "data_page_size": 1000, "write_batch_size": 1}
    path = parquet_files.write(tmp_path / "a.parquet", {"image": values}, **options)
    source = open_source(path)
    assert isinstance(source, ParquetSource)
    fetched: list[Any] = []
    with source, source.open_reader(source.items, 1 << 20) as ahead:
        while len(fetched) < len(values):
            fetched += ahead.take(64)
    assert fetched == values


def test_damage(tmp_path: Path) -> None:
    """Bytes that are others are refused, or are what pyarrow reads."""
    rng = random.Random(1)
    values = [rng.randbytes(rng.choice((3, 60))) for _ in range(30)] + [None, b"same", b"same"]
    path, counts = tmp_path / "a.parquet", {"refused": 0, "equal": 0}
    for options in (
        {},
        {"write_page_checksum": True},
        {"use_dictionary": False},
        {"compression": "none"},
        {"use_dictionary": False, "compression": "none", "data_page_size": 100},
    ):
        whole = parquet_files.write(
            path, {"image": values}, **{"write_batch_size": 4, **options}
        ).read_bytes()
        end = len(whole) - int.from_bytes(whole[-8:-4], "little") - 8
        for _ in range(400):
            data = bytearray(whole)
            for _ in range(rng.choice((1, 1, 3))):
                at = rng.randrange(4, end)
                data[at] = rng.choice((0, 255, data[at] ^ (1 << rng.randrange(8))))
            path.write_bytes(data)
            try:
                ours = by_pages(path, "image")
            except UnusualError:
                counts["refused"] += 1
                continue
            assert ours == by_pyarrow(path, "image")
            counts["equal"] += 1
    assert min(counts.values()) > 300, counts


@given(st.integers(0, 32), st.data())
def test_runs(bits: int, data: st.DataObject) -> None:
    numbers = st.integers(0, (1 << bits) - 1)
    runs: list[tuple[bool, Any]] = data.draw(
        st.lists(
            st.tuples(st.just(True), st.lists(numbers, min_size=1, max_size=40))
            | st.tuples(st.just(False), st.tuples(numbers, st.integers(1, 300))),
            max_size=5,
        )
    )
    encoded, expected = b"", list[int]()
    for i, (is_packed, content) in enumerate(runs):
        if is_packed:
            if i < len(runs) - 1:
                content = (content * 8)[: -(-len(content) // 8) * 8]  # whole groups
            expected += content
            groups = -(-len(content) // 8)
            packed = sum(number << (bits * j) for j, number in enumerate(content))
            encoded += varint(groups << 1 | 1) + packed.to_bytes(groups * bits, "little")
        else:
            number, count = content
            expected += [number] * count
            encoded += varint(count << 1) + number.to_bytes(-(-bits // 8), "little")
    assert _runs(memoryview(encoded), bits, len(expected)).tolist() == expected
    with pytest.raises((UnusualError, IndexError)):
        _runs(memoryview(encoded), bits, len(expected) + 8)
    fewer = len(expected) // 2
    with suppress(UnusualError):  # a packed run has far more numbers than are asked for
        assert _runs(memoryview(encoded), bits, fewer).tolist() == expected[:fewer]


def struct_of(fields: dict[int, int | bytes]) -> bytes:
    """Of 32-bit numbers and of structs, in Thrift's compact protocol."""
    out, last = b"", 0
    for number, value in fields.items():
        kind, content = (12, value) if isinstance(value, bytes) else (5, varint(value << 1))
        out, last = out + bytes([(number - last) << 4 | kind]) + content, number
    return out + b"\0"


def page_of(content: bytes, count: int, encoding: int = 0, **changed: int) -> bytes:
    """A page that is not compressed. changed: fields of its header."""
    header = {"kind": 0, "nbytes": len(content), "compressed": len(content), "levels": 3, **changed}
    kind, levels = header["kind"], header["levels"]
    about = {1: count, 2: encoding} | ({} if kind == 2 else {3: levels, 4: levels})
    fields: dict[int, int | bytes] = {1: kind, 2: header["nbytes"], 3: header["compressed"]}
    return struct_of({**fields, 7 if kind == 2 else 5: struct_of(dict(about))}) + content


def plain(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


DATA = plain(b"a", b"bb")
DICTIONARY = page_of(DATA, 2, kind=2)
BY_DICTIONARY = b"\1" + varint(1 << 1 | 1) + b"\x02"  # of 1 bit each: numbers 0 and 1
LEVELS = struct.pack("<I", 2) + varint(2 << 1) + b"\1"
NONE = varint(2 << 1) + b"\0"


def found(data: bytes, max_level: int = 0) -> list[Any]:
    chunk = ColumnChunk(0, len(data), 2, False, max_level)
    return [value for some in pages(reader(data), chunk) for value in some]


def test_pages_made_by_hand() -> None:
    values = [b"a", b"bb"]
    assert found(page_of(DATA, 2)) == values
    assert found(DICTIONARY + page_of(BY_DICTIONARY, 2, 8)) == values
    assert found(page_of(LEVELS + DATA, 2), 1) == values
    assert found(page_of(struct.pack("<I", 2) + NONE, 2), 1) == [None, None]


@pytest.mark.parametrize(
    ("data", "max_level"),
    {
        "two dictionaries": (DICTIONARY * 2 + page_of(BY_DICTIONARY, 2, 8), 0),
        "more values than rows": (page_of(plain(b"a", b"b", b"c"), 3), 0),
        "another size than it says": (page_of(DATA, 2, nbytes=len(DATA) - 1), 0),
        "levels beyond the page": (page_of(struct.pack("<I", 9) + NONE, 2), 1),
        "levels of another encoding": (page_of(LEVELS + DATA, 2, levels=4), 1),
        "an unknown encoding": (DICTIONARY + page_of(BY_DICTIONARY, 2, 5), 0),
        "a dictionary of an unknown encoding": (
            page_of(DATA, 2, 6, kind=2) + page_of(BY_DICTIONARY, 2, 8), 0,
        ),
        "a page of an unknown kind": (page_of(DATA, 2, kind=1), 0),
        "numbers of too many bits": (
            DICTIONARY + page_of(b"\x48" + varint(2 << 1) + b"\xff" * 9, 2, 8), 0,
        ),
    }.values(),
)  # fmt: skip
def test_pages_that_are_damaged(data: bytes, max_level: int) -> None:
    with pytest.raises(UnusualError):
        found(data, max_level)


def test_a_page_that_ends_behind_its_column() -> None:
    data = page_of(DATA, 2)
    with pytest.raises(UnusualError):
        list(pages(reader(data), ColumnChunk(0, len(data) - 1, 2, False, 0)))


def test_a_page_that_is_too_large_is_not_read() -> None:
    data, asked = page_of(b"", 2, nbytes=1, compressed=MAX_PAGE_BYTES + 1), list[int]()

    def read(begin: int, nbytes: int) -> memoryview:
        asked.append(nbytes)
        return memoryview(data)[begin : begin + nbytes]

    with pytest.raises(UnusualError):
        list(pages(read, ColumnChunk(0, 1 << 40, 2, True, 0)))
    assert max(asked) < 1 << 16


def test_runs_that_are_damaged() -> None:
    for data, bits, count in (
        (b"\0\0" + b"\2\1", 8, 1),  # a run of no numbers
        (varint(1 << 40 | 1), 0, 5),  # of numbers that take no bytes
        (b"\2\1", 16, 1),  # a number that is cut
        (b"\2" + b"\xff" * 9, 72, 1),
    ):
        with pytest.raises(UnusualError):
            _runs(memoryview(data), bits, count)


def test_chunks_that_are_left_to_pyarrow(tmp_path: Path) -> None:
    from pyarrow import parquet

    columns = {"image": [b"a", b"b"]}
    path = parquet_files.write(tmp_path / "a.parquet", columns, row_group_size=1)
    metadata = parquet.read_metadata(path)
    one = parquet_files.write(tmp_path / "b.parquet", columns)
    footer = footer_of(one.read_bytes())
    assert column_chunks(metadata, footer, "image") == [None, None]  # of another file
    ((group,),) = [read_struct(footer)[0][4, LIST]]
    assert _column_chunk(group, 0, 1) is not None
    (column,), about = group[1, LIST], group[1, LIST][0][3, STRUCT]
    for changed in (
        {**group, (3, I64): 3},  # other rows than values
        {**group, (1, LIST): [{**column, (1, BYTES): b"other.parquet"}]},
        {**group, (1, LIST): [{**column, (8, STRUCT): {}}]},  # encrypted
        {**group, (1, LIST): [{**column, (3, STRUCT): {**about, (9, I64): -1}}]},
        {**group, (1, LIST): [{**column, (3, STRUCT): {**about, (7, I64): -1}}]},
    ):
        assert _column_chunk(changed, 0, 1) is None
    path = parquet_files.write(tmp_path / "a.parquet", {"image": [[b"a"], [b"b"]]})
    metadata, footer = parquet.read_metadata(path), footer_of(path.read_bytes())
    assert column_chunks(metadata, footer, "image.list.element") == [None]
