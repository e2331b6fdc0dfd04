"""A listed source: its images, and where the bytes of each are."""

from __future__ import annotations

import errno
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoofast.base.files import MAX_FILE_BYTES, read_file
from zoofast.base.urls import shown
from zoofast.errors import SourceError
from zoofast.preprocess.sources.fetch_errors import too_large
from zoofast.preprocess.sources.items import Item, Items
from zoofast.preprocess.sources.readahead import ReadAhead

SUFFIXES = frozenset(
    (".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
)

SETTLED_NS = 20_000_000


@dataclass
class Source:
    """A listed source: items in a fixed order. A context manager (it may hold files open).

    The C core reads the items. Those of a FetchedSource are read by Python. Several threads and
    Loaders may use a source. One of archives can be neither copied nor pickled.
    """

    where: str
    items: Items | list[Item] = field(default_factory=Items)
    skipped: list[str] = field(default_factory=list)  # files that are no images, by their name
    fds: list[int] = field(default_factory=list)  # the archives, open for reading
    # What the content of each archive is known by; None where that is not certain.
    stamps: list[bytes | None] = field(default_factory=list, repr=False)
    is_closed: bool = field(default=False, init=False, repr=False, compare=False)
    _folders: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the archives. Their items cannot be read any more; a second call does nothing."""
        self.is_closed = True
        while self.fds:
            os.close(self.fds.pop())

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        # The numbers of open files mean others in another process. A copy would close them too.
        if self.fds:
            raise TypeError(
                f"{shown(self.where)}: a source of archives holds files open, and cannot be copied "
                "or pickled; give its path, and open it again there"
            )
        return super().__reduce_ex__(protocol)

    def check_open(self, items: Sequence[Item]) -> None:
        """Raises SourceError where the source is closed, and an item is a part of an archive."""
        if self.is_closed and any(item.in_archive for item in items):
            raise SourceError(
                f"{shown(self.where)}: the source is closed; close it when all its images are read"
            )

    def read(self, item: Item, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The item's bytes.

        Raises OSError, also for more than `max_bytes`, and for no file; SourceError for a member of
        an archive after `close`.
        """
        if item.problem is not None:
            raise OSError(errno.EINVAL, item.problem)
        if item.offset is None:
            return read_file(item.path, max_bytes)
        if item.nbytes > max_bytes:
            raise too_large(max_bytes)
        self.check_open([item])
        return os.pread(self.fds[item.archive], item.nbytes, item.offset)

    def cache_key(self, item: Item) -> bytes | None:
        """What the item's bytes are known by, from one run to the next; None where that is not
        certain. Of a file it is the path: who uses the key compares size and time too.
        """
        if item.offset is not None:
            stamp = self.stamps[item.archive] if item.archive < len(self.stamps) else None
            return None if stamp is None else b"%b\0%d\0%d" % (stamp, item.offset, item.nbytes)
        folder, slash, name = item.path.rpartition("/")
        where = self._folders.get(folder + slash)
        if where is None:
            where = os.fsencode(os.path.realpath(folder + slash)) + b"\0"
            self._folders[folder + slash] = where
        return where + os.fsencode(name)

    def read_labels(self) -> Mapping[str, int] | None:
        """The class of each image that has one, by name; None if the source holds no labels.

        Raises SourceError for a label that cannot be read.
        """
        return None

    def add(self, path: str, offset: int | None = None, nbytes: int = 0) -> None:
        """Adds the image `path`, or counts it as skipped when it is none by its name."""
        if is_image(path):
            self.items.append(Item.at(path, offset, nbytes))
        else:
            self.skipped.append(path)


@dataclass
class FetchedSource(Source, ABC):
    """A source whose items Python reads, see zoofast.preprocess.sources.readahead."""

    @abstractmethod
    def open_reader(self, items: Sequence[Item], max_bytes: int) -> ReadAhead:
        """Reads the bytes of `items` ahead, in their order.

        None of the items has a problem. One of more than `max_bytes` bytes is not fetched.
        """

    def cache_key(self, item: Item) -> bytes | None:
        """As of any source; None for an item that is no member of an archive."""
        return super().cache_key(item) if item.in_archive else None


def archive_stamp(path: str, status: os.stat_result) -> bytes | None:
    """What the content of the archive `path` is known by: its path, size and time; None for one
    that was just written. status: from before it is read."""
    if not is_settled(status.st_mtime_ns, time.time_ns()):
        return None
    where = os.fsencode(os.path.realpath(path))
    return b"%b\0%d\0%d" % (where, status.st_size, status.st_mtime_ns)


def is_settled(mtime_ns: int, read_ns: int) -> bool:
    """Whether a file with this time of modification, which is read at `read_ns`, gets another time
    when it is written again. A file system's clock goes in steps of some milliseconds."""
    return abs(read_ns - mtime_ns) >= SETTLED_NS


def is_image(path: str) -> bool:
    """Whether a file is an image, by its name."""
    base = path[path.rfind("/") + 1 :]
    return base[:1] != "." and base[base.rfind(".") :].lower() in SUFFIXES
