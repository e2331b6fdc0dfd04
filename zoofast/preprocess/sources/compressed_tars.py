"""Images in compressed tars: one pass over each tar lists its members, another one reads them.

A pass decompresses the tar from its start on, and keeps nothing but what is asked for.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from zoofast.base.cpus import usable_cpus
from zoofast.base.files import MAX_FILE_BYTES
from zoofast.preprocess.sources.decompress import Forward
from zoofast.preprocess.sources.fetch_errors import too_large
from zoofast.preprocess.sources.items import Item
from zoofast.preprocess.sources.readahead import Fetched, ReadAhead, Stream, read_local
from zoofast.preprocess.sources.source import FetchedSource, Source, archive_stamp
from zoofast.preprocess.sources.tar_headers import Member, list_members
from zoofast.preprocess.sources.tars import (
    Label,
    TarSource,
    index,
    is_label,
    label_or_error,
    member_prefix,
    open_tar,
    tar_errors,
)

MAX_TARS_AT_ONCE = 4  # that are decompressed
_NEAR = 1 << 14  # bytes that are read at once where a header lies
_MAX_REST_BYTES = 1 << 20  # that are decompressed behind the end of a tar


@dataclass
class CompressedTarSource(TarSource, FetchedSource):
    """Images of tars of which some are compressed. All labels are read with the listing."""

    paths: list[str] = field(default_factory=list)  # of the tars

    def __post_init__(self) -> None:
        self._lock = threading.Lock()  # guards the pass
        self._pass: _Pass | None = None  # of `read`

    def close(self) -> None:
        self._end_pass()
        super().close()

    def _end_pass(self) -> None:
        if self._pass is not None:
            self._pass.close()
            self._pass = None

    def open_reader(self, items: Sequence[Item], max_bytes: int) -> ReadAhead:
        return read_local(self.streams(items, max_bytes))

    def streams(self, items: Sequence[Item], max_bytes: int) -> list[Stream]:
        """A stream for the items of each tar."""
        streams, end = [], 0
        for archive, members in groupby(items, lambda item: item.archive):
            count = sum(1 for _ in members)
            part, end = items[end : end + count], end + count
            streams.append(Stream(count, partial(self._produce, archive, part, max_bytes)))
        return streams

    def _produce(
        self, archive: int, items: Sequence[Item], max_bytes: int
    ) -> Generator[list[Fetched], None, None]:
        with closing(_Pass(self, archive)) as tar:
            for item in items:
                if item.nbytes > max_bytes:
                    yield [too_large(max_bytes)]
                else:
                    yield [tar.read(item)]

    def read(self, item: Item, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The item's bytes. It decompresses the tar up to them, from the last item read on."""
        if item.problem is not None:
            raise OSError(errno.EINVAL, item.problem)
        if item.nbytes > max_bytes:
            raise too_large(max_bytes)
        with self._lock:
            if self._pass is None or self._pass.archive != item.archive:
                self._end_pass()
                self._pass = _Pass(self, item.archive)
            return self._pass.read(item)

    def content(self, archive: int) -> Forward:
        """A tar's bytes from its start on."""
        return Forward(self.pread(archive), self.paths[archive])


def _threads(tars: int) -> int:
    return min(max(tars, 1), MAX_TARS_AT_ONCE, usable_cpus())


class _Pass:
    """Reads members of one tar. It begins again for a member that lies before the last one."""

    def __init__(self, source: CompressedTarSource, archive: int) -> None:
        self.archive = archive
        self._source, self._content, self._end = source, source.content(archive), 0

    def close(self) -> None:
        self._content.close()

    def read(self, item: Item) -> bytes:
        """Raises OSError whose reason names the tar."""
        assert item.offset is not None
        if item.offset < self._end:
            self.close()
            self._content = self._source.content(self.archive)
        self._end = sys.maxsize  # after an error nobody knows which byte comes next
        try:
            content = self._content.pread(item.offset, item.nbytes)
        except OSError as error:
            raise OSError(error.errno, f"{error.filename} {error.strerror}") from error
        if len(content) < item.nbytes:
            path = self._source.paths[self.archive]
            raise OSError(errno.EIO, f"{path} ends within it; the file has changed")
        self._end = item.offset + item.nbytes
        return content


def from_compressed_tars(where: str, paths: Sequence[str]) -> Source:
    """Lists the tars `paths`, which stay open, several at once. See from_tars."""
    source = CompressedTarSource(where, paths=list(paths))
    try:
        for path in paths:
            source.fds.append(open_tar(path, len(paths)))
            source.stamps.append(archive_stamp(path, os.fstat(source.fds[-1])))
        list_tars(source)
    except BaseException:
        source.close()
        raise
    return source


def list_tars(source: CompressedTarSource) -> None:
    """Adds the images of the source's tars, several of which are listed at once."""
    count = len(source.paths)
    stop = threading.Event()
    pool = ThreadPoolExecutor(_threads(count))
    try:
        listed = pool.map(lambda archive: _list(source, archive, stop), range(count))
        for archive, (members, labels) in enumerate(listed):
            index(source, archive, member_prefix(source.paths[archive], count), members, labels)
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _list(
    source: CompressedTarSource, archive: int, stop: threading.Event
) -> tuple[list[Member], dict[int, Label]]:
    """The members of a tar, and what those that may be labels say, by their offsets."""
    path = source.paths[archive]
    prefix = member_prefix(path, len(source.paths))
    members: list[Member] = []
    labels: dict[int, Label] = {}
    with closing(source.content(archive)) as content, tar_errors(path):
        for member in list_members(content.pread, _NEAR):
            if stop.is_set():
                break
            members.append(member)
            if member.regular and is_label(member.name):
                item = Item.at(prefix + member.name, member.offset, member.nbytes, archive)
                labels[member.offset] = _label(item, content)
        if not stop.is_set():
            content.drain(_MAX_REST_BYTES)  # behind the tar's end lie sums that are to be checked
    return members, labels


def _label(item: Item, content: Forward) -> Label:
    def read(item: Item, max_bytes: int) -> bytes:
        assert item.offset is not None
        if item.nbytes > max_bytes:
            raise too_large(max_bytes)
        return content.pread(item.offset, item.nbytes)

    return label_or_error(item, read)
