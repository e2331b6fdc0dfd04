"""A source whose images lie in a dictionary, fetched by threads as from a store."""

from __future__ import annotations

import errno
import threading
from collections.abc import Generator, Mapping, Sequence
from functools import partial

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


def threads() -> list[str]:
    """The names of this process's threads that read, list or prepare. Servers of other tests, and
    fsspec, have threads of other names."""
    ours = ("fetch", "ThreadPoolExecutor")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(ours)]
