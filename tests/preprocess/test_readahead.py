"""Sources whose bytes Python fetches: order, bounds, failures by name, and threads that end."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from tests.support import fetched, folders, jpegs
from zoofast.preprocess.folder import PrepOptions, prepare_folder
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.recipe_file import parse_recipe
from zoofast.preprocess.sources.readahead import Fetched, ReadAhead, Stream

RECIPE = parse_recipe(folders.SPEC.toml(), "test")


@pytest.mark.parametrize("per_stream", [1, 4])
def test_a_fetched_source_gives_what_the_folder_gives(tmp_path: Path, per_stream: int) -> None:
    """Also for images that Pillow decodes, that cannot be fetched, are too large, or no images."""
    good = folders.good_files(23)
    large = jpegs.jpeg(300, 300, quality=100)
    files: dict[str, bytes | OSError] = {**good, **folders.BAD_FILES, "large.JPEG": large}
    files["gone.JPEG"] = OSError(errno.EIO, "no answer")
    files["a\nb.JPEG"] = good["img0000.JPEG"]
    source = fetched.DictSource(dict(sorted(files.items())), per_stream)
    causes, names, arrays = {}, [], []
    limit = max(len(data) for data in good.values())
    assert len(large) > limit
    with Loader(source, RECIPE, threads=2, batch_size=5, max_file_bytes=limit) as loader:
        for batch in loader:
            causes |= {f.name: (f.cause, f.reason) for f in batch.failures}
            names += batch.names
            arrays.append(batch.array.copy())
        assert loader.stats.decoders["pillow"] > 0
    # one OSError is that of all images left in its stream
    unreadable = {name for name, (cause, _) in causes.items() if cause == "unreadable"}
    order = [item.name for item in source.items if item.problem is None]
    at = order.index("gone")
    assert unreadable == set(order[at : at - at % per_stream + per_stream])
    assert causes["gone"] == ("unreadable", "no answer")
    assert causes["a\nb"][0] == "bad name"
    assert causes["bad_text"][0] == "not an image" and causes["bad_empty"][0] == "empty"
    if per_stream == 1:
        assert causes["large"] == ("too large", f"larger than {limit:,} bytes")
    assert names == [name for name in order if name not in causes]
    wanted = np.stack([folders.tensor(good[f"{name}.JPEG"]) for name in names])
    assert np.concatenate(arrays).tobytes() == wanted.tobytes()
    assert not fetched.threads()


def test_prep_fetches_only_what_it_needs(tmp_path: Path) -> None:
    good = folders.good_files(40)
    options = PrepOptions(threads=1, limit=4, shard=(2, 5))
    source = fetched.DictSource(good)
    report = prepare_folder(source, tmp_path, RECIPE, options)
    wanted = [f"img{i:04d}" for i in (1, 6, 11, 16)]
    assert report.names == sorted(source.fetched) == wanted
    assert report.nbytes_in == sum(len(good[f"{name}.JPEG"]) for name in wanted)
    for name in wanted:
        tensor = folders.tensor(good[f"{name}.JPEG"])
        assert (tmp_path / f"{name}.bin").read_bytes() == tensor.tobytes()
    again = prepare_folder(source, tmp_path, RECIPE, PrepOptions(resume=True, limit=3))
    assert (again.resumed, again.prepared) == (1, 2)
    assert sorted(source.fetched[4:]) == ["img0000", "img0002"]


def test_a_batch_that_is_done_does_not_wait_for_the_store() -> None:
    """The store stands still after the first batch, which the caller gets all the same."""
    source = fetched.DictSource(folders.good_files(12))
    with Loader(source, RECIPE, threads=1, batch_size=4) as loader:
        first = loader.take()
        assert first is not None and len(first.names) == 4
        second = loader.take()
        assert second is not None
        loader.give_back(first)
        source.gate.clear()
        loader.give_back(second)
        source.gate.set()
        third = loader.take()
        assert third is not None and len(third.names) == 4
        assert loader.take() is None


def test_leaving_ends_threads_that_wait_for_the_store() -> None:
    source = fetched.DictSource(folders.good_files(12))
    source.gate.clear()
    with pytest.raises(KeyboardInterrupt), Loader(source, RECIPE, threads=1):
        raise KeyboardInterrupt
    assert not fetched.threads()
    assert source.fetched == [] or len(source.fetched) <= 3


def streams_of(
    sizes: list[list[int]], began: list[int], reserve: bool, together: int
) -> Generator[Stream]:
    """Streams of items of these sizes; the first bytes of an item are its number."""
    number = 0
    for i, items in enumerate(sizes):
        first, number = number, number + len(items)

        def produce(
            i: int = i, items: list[int] = items, first: int = first
        ) -> Generator[list[Fetched], None, None]:
            began.append(i)
            made: list[Fetched] = [
                (first + k).to_bytes(4, "big").ljust(size, b".") for k, size in enumerate(items)
            ]
            for k in range(0, len(made), together):
                yield made[k : k + together]

        yield Stream(len(items), produce, sum(items) if reserve else 0)


@pytest.mark.parametrize("reserve", [False, True])
@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize(
    ("threads", "max_bytes", "max_items"), [(1, 100, 9), (4, 40, 3), (4, 4, 1)]
)
def test_order_and_bounds(
    reserve: bool, together: int, threads: int, max_bytes: int, max_items: int
) -> None:
    """Whatever the bounds, all items come in order; what waits is bounded."""
    sizes = [[(i * 7 + k * 5) % 23 + 4 for k in range(i % 5)] for i in range(60)]
    flat = [size for items in sizes for size in items]
    began: list[int] = []
    streams = streams_of(sizes, began, reserve, together)
    number = 0
    with ReadAhead(streams, threads, max_bytes=max_bytes, max_items=max_items) as reader:
        while number < len(flat):
            taken = reader.take(1 + number % 4)
            assert 1 <= len(taken) <= 1 + number % 4
            for data in taken:
                assert isinstance(data, bytes) and len(data) == flat[number]
                assert int.from_bytes(data[:4], "big") == number
                number += 1
            with reader._arrived:  # more than the bounds: what the next take needs
                ready = [d for run in reader._running.values() for d in run.ready]
                assert len(ready) <= max_items + together
                assert sum(map(len, ready)) <= max_bytes + 27 * together + (100 if reserve else 0)
        with pytest.raises(IndexError, match="no items are left"):
            reader.take()
    assert sorted(began) == [i for i in range(60) if i % 5]  # the others are of no items
    assert not fetched.threads()


def broken() -> Generator[list[Fetched], None, None]:
    yield [b"a"]
    raise ValueError("a defect")


def short() -> Generator[list[Fetched], None, None]:
    yield [b"a"]


def test_errors_are_not_swallowed() -> None:
    with ReadAhead([Stream(2, broken)], 1) as reader:
        assert reader.take() == [b"a"]
        with pytest.raises(ValueError, match="a defect"):
            reader.take()
    with ReadAhead([Stream(2, short)], 1) as reader:
        assert reader.take() == [b"a"]
        with pytest.raises(RuntimeError, match="a stream of 2 items gave 1"):
            reader.take()


def test_a_child_process_is_told() -> None:
    with ReadAhead([Stream(1, short)], 1) as reader:
        pid = os.fork()
        if pid == 0:
            try:
                reader.take()
            except RuntimeError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert reader.take() == [b"a"]


def all_wait(reader: ReadAhead) -> bool:
    """Whether all threads wait for space."""
    with reader._space_freed:
        return len(reader._space_freed._waiters) == len(reader._threads)  # type: ignore[attr-defined]


@pytest.mark.parametrize("reserve", [0, 7, 50])
def test_what_was_taken_frees_its_space(reserve: int) -> None:
    """So that as much is fetched ahead at the end as at the beginning."""

    def produce() -> Generator[list[Fetched], None, None]:
        for _ in range(40):
            yield [bytes(5)]

    streams = [Stream(40, produce, reserve) for _ in range(3)]
    with ReadAhead(streams, 1, max_bytes=100, max_items=9) as reader:
        for _ in range(11):
            while not all_wait(reader):
                time.sleep(0.001)
            assert sum(len(run.ready) for run in reader._running.values()) == 9
            for _ in range(9):
                assert reader.take() == [bytes(5)]
        for _ in range(21):
            assert reader.take() == [bytes(5)]
        assert (reader._nbytes, reader._items) == (0, 0)


def test_closing_ends_a_stream_that_has_more() -> None:
    made: list[int] = []

    def produce() -> Generator[list[Fetched], None, None]:
        for i in range(1000):
            made.append(i)
            yield [b"x"]

    closed: list[str] = []
    with ReadAhead(
        [Stream(1000, produce)],
        1,
        max_items=2,
        on_close=lambda: closed.append("before"),
        on_closed=lambda: closed.append("after"),
    ) as reader:
        assert reader.take() == [b"x"]
    assert len(made) <= 5 and closed == ["before", "after"]


def test_an_error_behind_the_last_item() -> None:
    is_taken = threading.Event()

    def produce() -> Generator[list[Fetched], None, None]:
        yield [b"a"]
        is_taken.wait()
        raise OSError("cannot be closed")

    def following() -> Generator[list[Fetched], None, None]:
        yield [b"b"]

    with ReadAhead([Stream(1, produce), Stream(1, following)], 1) as reader:
        assert reader.take() == [b"a"]
        is_taken.set()
        assert reader.take() == [b"b"]


def test_an_error_is_that_of_the_items_that_are_left() -> None:
    def broken() -> Generator[list[Fetched], None, None]:
        yield [b"a"]
        raise OSError("no answer")

    with ReadAhead([Stream(3, broken), Stream(3, broken)], 1) as reader:
        for _ in range(2):
            got = [reader.take()[0] for _ in range(3)]
            assert got[0] == b"a" and [str(each) for each in got[1:]] == ["no answer"] * 2


def test_a_child_process_closes_nothing() -> None:
    """The threads, and what on_close ends, are the parent's."""
    closed: list[str] = []
    with ReadAhead(
        [Stream(1, short)],
        1,
        on_close=lambda: closed.append("before"),
        on_closed=lambda: closed.append("after"),
    ) as reader:
        pid = os.fork()
        if pid == 0:
            try:
                reader.close()
                os._exit(len(closed))
            finally:
                os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert reader.take() == [b"a"] and not closed
    assert closed == ["before", "after"]
