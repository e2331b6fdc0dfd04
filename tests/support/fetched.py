"""A source whose images lie in a dictionary, fetched by threads as from a store."""

from __future__ import annotations

import errno
import threading
import tracemalloc
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.support import folders
from zoofast import Loader
from zoofast.preprocess.recipe_file import parse_recipe
from zoofast.preprocess.sources import open_source
from zoofast.preprocess.sources.readahead import Fetched, ReadAhead, Stream
from zoofast.preprocess.sources.source import FetchedSource, Item


class DictSource(FetchedSource):
    """`files` by name; an OSError in place of bytes is raised. taken_out: names in the order in
    which threads fetched them. gate: fetching waits for it."""

    def __init__(self, files: Mapping[str, bytes | OSError], per_stream: int = 1) -> None:
        super().__init__("store", [Item.at(name) for name in files])
        self.files, self.per_stream = files, per_stream
        self.fetched: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def read(self, item: Item, max_bytes: int = 1 << 30) -> bytes:
        raise AssertionError(f"{item.path} is fetched twice")

    def open_reader(self, items: Sequence[Item], max_bytes: int) -> ReadAhead:
        n = self.per_stream
        parts = [items[i : i + n] for i in range(0, len(items), n)]
        streams = (Stream(len(part), partial(self._produce, part, max_bytes)) for part in parts)
        return ReadAhead(streams, 3, on_close=self.gate.set)

    def _produce(
        self, items: Sequence[Item], max_bytes: int
    ) -> Generator[list[Fetched], None, None]:
        for item in items:
            self.gate.wait()
            data = self.files[item.path]
            self.fetched.append(item.name)
            if isinstance(data, OSError):
                raise data
            yield [OSError(errno.EFBIG, "large") if len(data) > max_bytes else data]


def held_by_a_loader(where: str | Path) -> int:
    """Bytes of Python's memory that a Loader holds before an image is taken."""
    recipe = parse_recipe(folders.SPEC.toml(), "test")
    with open_source(where) as source:
        tracemalloc.start()
        with Loader(source, recipe, threads=1, batch_size=1, depth=1):
            nbytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    return nbytes


def threads() -> list[str]:
    """The names of this process's threads that read, list or prepare. Servers of other tests, and
    fsspec, have threads of other names."""
    ours = ("fetch", "ThreadPoolExecutor")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(ours)]
