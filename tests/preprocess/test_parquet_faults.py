"""Parquet files that are damaged, unusual or read in any order give images, or errors by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import parquet_files
from zoofast.errors import SourceError
from zoofast.preprocess.sources import open_source
from zoofast.preprocess.sources.parquet import ParquetSource, _views
from zoofast.preprocess.sources.parquet_pages import UnusualError, Values, pages

pytestmark = pytest.mark.slow
VALUES = [bytes([i]) * 500 for i in range(40)]
PLAIN = {"use_dictionary": False, "data_page_size": 1000, "write_batch_size": 1}


def fetched(source: Any, items: Any, max_bytes: int = 1 << 20) -> list[Any]:
    all_of: list[Any] = []
    with source.open_reader(items, max_bytes) as ahead:
        while len(all_of) < len(items):
            all_of += ahead.take(64)
    return all_of


def opened(path: Path) -> Any:
    source = open_source(path)
    assert isinstance(source, ParquetSource)
    return source


def test_a_page_that_is_left_to_pyarrow_behind_several_of_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_pages(*arguments: Any) -> Iterator[Values]:
        given = list(pages(*arguments))
        yield from given[:3]
        raise UnusualError

    monkeypatch.setattr("zoofast.preprocess.sources.parquet.pages", first_pages)
    monkeypatch.setattr("zoofast.preprocess.sources.parquet._MAX_BATCH_ROWS", 2)
    path = parquet_files.write(tmp_path / "a.parquet", {"image": VALUES}, **PLAIN)
    with opened(path) as source:
        assert fetched(source, source.items) == VALUES


def test_rows_in_any_order(tmp_path: Path) -> None:
    options = {**PLAIN, "row_group_size": 15}
    path = parquet_files.write(tmp_path / "a.parquet", {"image": VALUES}, **options)
    with opened(path) as source:
        shuffled = np.random.default_rng(0).permutation(40)
        for order in (range(39, -1, -1), [3, 3, 20, 20, 4], shuffled):
            wanted = [VALUES[i] for i in order]
            assert fetched(source, [source.items[int(i)] for i in order]) == wanted


def test_a_row_group_that_has_fewer_rows(tmp_path: Path) -> None:
    path = parquet_files.write(tmp_path / "a.parquet", {"image": VALUES}, **PLAIN)
    with opened(path) as source:
        (chunk,) = source.files[0].chunks
        assert chunk is not None
        source.files[0].chunks[0] = chunk._replace(values=20)
        got = fetched(source, source.items)
    assert got[:20] == VALUES[:20]
    reason = f"{path}: row group 0 has fewer rows than it says"
    assert [each.strerror for each in got[20:]] == [reason] * 20


def test_limits_of_sizes_and_labels(tmp_path: Path) -> None:
    images = [{"bytes": b"abc", "path": "a.jpg"}, {"bytes": b"", "path": "a\nb.jpg"}]
    columns = {"image": images, "label": [999_999_999, 1]}
    with opened(parquet_files.write(tmp_path / "a.parquet", columns)) as source:
        item, bad = source.items
        assert source.read_labels()["a"] == 999_999_999
        assert source.read(item, 3) == b"abc"
        with pytest.raises(OSError, match="larger than 2 bytes"):
            source.read(item, 2)
        with pytest.raises(OSError, match=re.escape(str(bad.problem))):
            source.read(bad)


def test_one_of_two_files_has_labels_that_are_no_classes(tmp_path: Path) -> None:
    for first, second in ((["x"], [1]), ([1], ["x"])):
        for i, label in enumerate((first, second)):
            parquet_files.write(tmp_path / f"{i}.parquet", {"image": [b"a"], "label": label})
        with opened(tmp_path) as source, pytest.raises(SourceError, match="is string, not a whole"):
            source.read_labels()


def test_more_rows_than_bytes(tmp_path: Path) -> None:
    """So that a small file cannot ask for the memory of millions of names."""
    import pyarrow

    columns = {"image": pyarrow.nulls(100_000, pyarrow.binary())}
    path = parquet_files.write(tmp_path / "a.parquet", columns)
    with pytest.raises(SourceError, match="damaged: it says that it has 100,000 rows"):
        open_source(path)


def test_views_of_a_part_of_a_column() -> None:
    import pyarrow

    for kind in (pyarrow.binary(), pyarrow.large_binary()):
        column = pyarrow.array([b"a", None, b"ccc", b"dd"], kind)
        views: Any = _views(column[1:]), _views(column[2:3])
        assert views == ([None, b"ccc", b"dd"], [b"ccc"])


def test_a_few_of_many_values_do_not_keep_the_memory_of_all(tmp_path: Path) -> None:
    path = parquet_files.write(tmp_path / "a.parquet", {"image": VALUES}, use_dictionary=False)
    with opened(path) as source:
        few = fetched(source, source.items[::7])
    assert few == VALUES[::7] and all(isinstance(each, bytes) for each in few)


def test_a_row_group_of_another_number_of_rows_than_its_columns(tmp_path: Path) -> None:
    path = parquet_files.write(tmp_path / "a.parquet", {"image": [b"a" * 100], "label": [1]})
    data = path.read_bytes()
    at = data.rindex(b"\x16\x02")  # the 64-bit number 1
    for number, said in ((b"\x04", "has 1 rows, but says that it has 2"), (b"\x01", "has -1 rows")):
        path.write_bytes(data[: at + 1] + number + data[at + 2 :])
        with pytest.raises(SourceError, match=said):
            open_source(path)
