"""Images in a store that fsspec knows: a folder or tars. remote_streams has compressed tars and
Parquet files.

A tar's headers are read by ranges of a few kB, which grow where members are so small that the next
header is near; several tars are indexed at once. Members that follow one another in the tar are
fetched by one request of a few MB.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

from zoofast.base.files import MAX_FILE_BYTES
from zoofast.errors import SourceError
from zoofast.preprocess.sources.fetch_errors import no_ranges, too_large
from zoofast.preprocess.sources.items import Item
from zoofast.preprocess.sources.patterns import MAX_FILES, PARQUET, TAR, TARS, numbered
from zoofast.preprocess.sources.readahead import Fetched, ReadAhead, Stream
from zoofast.preprocess.sources.remote_streams import (
    from_remote_compressed_tars,
    from_remote_parquet,
)
from zoofast.preprocess.sources.source import FetchedSource, Source, is_image
from zoofast.preprocess.sources.stored import StoredFile, file_stamp
from zoofast.preprocess.sources.stores import Requests, Store
from zoofast.preprocess.sources.tar_headers import Member, list_members
from zoofast.preprocess.sources.tars import (
    MAX_LABEL_BYTES,
    Label,
    TarSource,
    index,
    is_label,
    label_or_error,
    member_prefix,
    tar_errors,
)

TAR_REQUESTS = 4  # under way at once, of a tar's members
FILE_REQUESTS = 32  # of files, for which the answer's delay counts more than its length
UNKNOWN_BYTES = 16_000_000  # of a file, as long as none has come
TARS_AT_ONCE = 16  # that are indexed
GROUP_BYTES = 1 << 22  # of members that one request fetches
# Of a tar's members: few enough to stay in the CPU's caches until a thread decodes them, and enough
# for 250 MB/s where an answer takes 50 ms.
AHEAD_BYTES = TAR_REQUESTS * GROUP_BYTES
GAP_BYTES = 1 << 16  # between two members of a request, which are fetched too
MIN_BLOCK, MAX_BLOCK = 1 << 14, 1 << 22  # bytes that are read at once where a header lies
LIKELY_RATE = 50_000_000  # bytes a second that a store sends to one request
TIMED_REQUESTS = 8  # of which the shortest tells how long an answer takes
_WILD = re.compile(r"[*?[]")
_WILD_OF_HTTP = re.compile(r"[*[]")  # a "?" begins a query


@dataclass
class _RemoteSource(FetchedSource):
    """What the sources of a store share: an item is fetched from one of its files."""

    store: Store = field(kw_only=True)

    def read(self, item: Item, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        if item.problem is not None:
            raise OSError(errno.EINVAL, item.problem)
        with self.open_reader([item], max_bytes) as reader:
            return _bytes(reader.take()[0])


@dataclass
class RemoteFolder(_RemoteSource):
    """Images below a URL. files: the file of each item, by the item's path."""

    files: dict[str, StoredFile] = field(default_factory=dict)

    def cache_key(self, item: Item) -> bytes | None:
        return file_stamp(self.files[item.path])

    def open_reader(self, items: Sequence[Item], max_bytes: int) -> ReadAhead:
        requests = Requests(self.store)
        largest = 0  # of the files that have come

        def produce(item: Item) -> Generator[list[Fetched], None, None]:
            nonlocal largest
            data = requests.read_whole(self.files[item.path], max_bytes)
            largest = max(largest, len(data))
            yield [data]

        def streams() -> Iterator[Stream]:
            for item in items:
                # The pages of a web server tell no sizes: a file may be as large as those before.
                nbytes = item.nbytes or largest or UNKNOWN_BYTES
                # A file that is too large is not fetched.
                yield Stream(1, partial(produce, item), min(nbytes, max_bytes))

        threads = min(FILE_REQUESTS, len(items))
        return ReadAhead(streams(), threads, on_close=requests.cancel, on_closed=requests.close)


@dataclass
class RemoteTars(_RemoteSource, TarSource):
    """Images in tars. tars: the files; an item's `archive` counts them."""

    tars: list[StoredFile] = field(default_factory=list)

    def open_reader(self, items: Sequence[Item], max_bytes: int) -> ReadAhead:
        requests = Requests(self.store)
        checked: set[int] = set()

        def produce(group: Sequence[Item]) -> Generator[Sequence[Fetched], None, None]:
            archive = group[0].archive
            if group[0].nbytes > max_bytes:
                raise too_large(max_bytes)
            if archive not in checked:
                requests.check(self.tars[archive])
                checked.add(archive)
            yield from requests.spans(self.tars[archive], list(map(_extent, group)))

        def streams() -> Iterator[Stream]:
            for group in _groups(items, max_bytes):
                is_too_large = group[0].nbytes > max_bytes
                nbytes = 0 if is_too_large else _extent(group[-1])[1] - _extent(group[0])[0]
                yield Stream(len(group), partial(produce, group), nbytes)

        return ReadAhead(
            streams(),
            min(TAR_REQUESTS, len(items)),
            max_bytes=AHEAD_BYTES,
            on_close=requests.cancel,
            on_closed=requests.close,
        )

    def _read_classes(self) -> Iterator[tuple[str, int]]:
        with self.open_reader(self.label_members.unread(), MAX_LABEL_BYTES) as reader:
            yield from self.label_members.classes(lambda item, max_bytes: _bytes(reader.take()[0]))


def from_url(where: str) -> Source:
    """Lists the images of a URL: of tars, of Parquet files, or below a folder.

    Raises SourceError, which like all messages shows no user, password or query of the URL.
    """
    store = Store(where)
    keys = _expand(store)
    source = _from_files(store, keys or [store.key])
    if source is not None:
        return source
    if keys is not None:
        raise SourceError(
            f"{store.url}: several files are a source only if all are tars, or all are Parquet "
            "files"
        )
    files = store.find(store.key)
    folder = _from_folder(store, files)
    tables = [file.key for file in files if store.name(file.key).lower().endswith(PARQUET)]
    only_tables = _from_files(store, tables) if tables and not folder.items else None
    return only_tables or folder


def _from_files(store: Store, keys: Sequence[str]) -> Source | None:
    """The images of tars, or of Parquet files; None for files of any other kind."""
    names = [store.name(key).lower() for key in keys]
    # Without ranges, a tar is read from start to end, as a compressed one is.
    if all(name.endswith(TAR) for name in names) and store.stat(keys[0]).has_ranges:
        return _from_tars(store, keys)
    if all(name.endswith(TARS) for name in names):
        return from_remote_compressed_tars(store, keys)
    if all(name.endswith(PARQUET) for name in names):
        return from_remote_parquet(store, keys)
    return None


def _expand(store: Store) -> list[str] | None:
    """The keys that the store's key stands for, as with patterns.expand; None for a plain key."""
    wild = _WILD_OF_HTTP if store.is_http else _WILD
    keys: list[str] = []
    is_plain = True
    for key in numbered(store.key):
        is_plain &= key == store.key
        # The "[" of an IPv6 address is no pattern.
        if not wild.search(urlsplit(key).path if store.is_http else key):
            keys.append(key)
            continue
        is_plain = False
        matches = store.glob(key)
        if not matches:
            raise SourceError(f"{store.shown(key)}: no file matches")
        keys += matches
        if len(keys) > MAX_FILES:
            raise SourceError(f"{store.url}: more than {MAX_FILES:,} files")
    return None if is_plain else keys


def _from_folder(store: Store, files: Sequence[StoredFile]) -> RemoteFolder:
    source = RemoteFolder(store.url, store=store)
    root = store.key.rstrip("/")
    for file in files:
        path = store.name(file.key)
        below = file.key.removeprefix(root).lstrip("/")
        is_hidden = any(part.startswith(".") for part in below.split("/")[:-1])
        if is_hidden or not is_image(path):
            source.skipped.append(file.shown)
        else:
            item = Item.at(path, nbytes=file.nbytes or 0)
            source.items.append(item._replace(path=file.shown))
            source.files[file.shown] = file
    return source


def _from_tars(store: Store, keys: Sequence[str]) -> RemoteTars:
    source = RemoteTars(store.url, store=store)
    with Requests(store) as requests:
        pool = ThreadPoolExecutor(min(TARS_AT_ONCE, len(keys)))
        try:
            lists = pool.map(partial(_list, store, requests, len(keys)), keys)
            for archive, (file, members, labels) in enumerate(lists):
                source.tars.append(file)
                source.stamps.append(file_stamp(file))
                prefix = member_prefix(file.shown, len(keys))
                index(source, archive, prefix, members, labels)
        except BaseException:
            requests.cancel()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    return source


def _list(
    store: Store, requests: Requests, count: int, key: str
) -> tuple[StoredFile, list[Member], dict[int, Label]]:
    """A tar, its members, and the labels that came along with the headers, by the offset of the
    member. count: of tars."""
    members: list[Member] = []
    labels: dict[int, Label] = {}
    try:
        file = requests.stat(key)
        if file.nbytes is None or (file.nbytes and not file.has_ranges):
            raise no_ranges()
        blocks, prefix = _Blocks(requests, file, file.nbytes), member_prefix(file.shown, count)
        with tar_errors(file.shown):
            for member in list_members(blocks.pread, 512):
                members.append(member)
                if member.regular and is_label(member.name) and blocks.holds(member):
                    item = Item.at(prefix + member.name, member.offset, member.nbytes)
                    labels[member.offset] = label_or_error(item, blocks.read)
    except OSError as error:
        raise SourceError(f"{store.shown(key)}: {error.strerror}") from None
    return file, members, labels


class _Blocks:
    """Reads a tar where its headers are, in blocks that grow while the next one is near.

    For members of 110 kB, blocks of MIN_BLOCK are a sixth of the tar. Where members are smaller
    than twice a block, or come in less time than an answer takes, the tar is read from its start to
    its end by ever larger requests.
    """

    def __init__(self, requests: Requests, file: StoredFile, nbytes: int) -> None:
        self._requests, self._file, self._nbytes = requests, file, nbytes
        self._start, self._data = 0, b""
        self._block = MIN_BLOCK
        self._seconds: list[float] = []  # that the first requests took

    def pread(self, offset: int, size: int) -> bytes:
        """The bytes from `offset` on; fewer than `size` only at the tar's end."""
        begin = offset - self._start
        if not 0 <= begin <= begin + size <= len(self._data):
            skipped = begin - len(self._data)
            if self._data and 0 <= skipped <= max(2 * self._block, self._cheap()):
                self._block = min(MAX_BLOCK, 4 * self._block)
            else:
                self._block = MIN_BLOCK
            end = min(self._nbytes, offset + max(size, self._block))
            begin_s = time.monotonic()
            data = self._requests.read(self._file, offset, end) if offset < end else b""
            if len(self._seconds) < TIMED_REQUESTS:
                self._seconds.append(time.monotonic() - begin_s)
            self._start, self._data, begin = offset, data, 0
        return self._data[begin : begin + size]

    def holds(self, member: Member) -> bool:
        """Whether the last block has all bytes of a member that holds a label."""
        begin = member.offset - self._start
        is_small = 0 <= member.nbytes <= MAX_LABEL_BYTES
        return is_small and 0 <= begin <= begin + member.nbytes <= len(self._data)

    def read(self, item: Item, max_bytes: int) -> bytes:
        assert item.offset is not None
        return self.pread(item.offset, item.nbytes)

    def _cheap(self) -> float:
        """Bytes that take no longer than another request."""
        is_known = len(self._seconds) == TIMED_REQUESTS
        return min(self._seconds) * LIKELY_RATE if is_known else 0.0


def _groups(items: Iterable[Item], max_bytes: int) -> Iterator[list[Item]]:
    """Parts of `items` that one request each fetches."""
    group: list[Item] = []
    begin = end = 0  # of the group's bytes
    for item in items:
        offset, nbytes = item.offset or 0, item.nbytes
        if group and not (
            item.archive == group[0].archive
            and nbytes <= max_bytes
            and group[0].nbytes <= max_bytes
            and 0 <= offset - end <= GAP_BYTES
            and offset + nbytes - begin <= GROUP_BYTES
        ):
            yield group
            group = []
        if not group:
            begin = offset
        group.append(item)
        end = offset + nbytes
    if group:
        yield group


def _extent(item: Item) -> tuple[int, int]:
    """The first byte of a member, and its end."""
    begin = item.offset or 0
    return begin, begin + item.nbytes


def _bytes(fetched: Fetched) -> bytes:
    if isinstance(fetched, OSError):
        raise fetched
    return bytes(fetched)
