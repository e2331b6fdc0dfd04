"""Files in a store that fsspec knows: listed, and read by ranges with retries.

A request that fails is repeated, later each time; a range continues from the byte that arrived. A
file that is not the listed one any more is an error. Credentials are the business of fsspec and its
packages. No message shows a URL's user, password or query, which may be a signature.
"""

from __future__ import annotations

import asyncio
import errno
import io
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from zoofast.base.extras import needs
from zoofast.base.urls import links, shown, with_lower_schemes
from zoofast.errors import SourceError
from zoofast.preprocess.sources.fetch_errors import FetchError, changed, too_large
from zoofast.preprocess.sources.http import HttpBody, HttpClient, described_by, is_settled
from zoofast.preprocess.sources.http_listing import (
    Page,
    decoded,
    files_below,
    matching,
    read_page,
    without_bytes,
)
from zoofast.preprocess.sources.stored import (
    StoredFile,
    check_version,
    described,
    fetch_error,
    status_error,
)

ATTEMPTS = 6  # in a row that bring no byte
FIRST_DELAY, MAX_DELAY = 0.25, 8.0  # seconds between two attempts; each is twice the last one
MAX_DEAD = 8  # files in a row that no attempt brought: the run ends
AHEAD_BYTES = 4 << 20  # that a file object reads at least where it is read forwards
MAX_VIEWED_BYTES = 4 << 20  # of an answer of HTTP of which parts are given as views
MIN_REUSED_BYTES = 1 << 20  # of memory that is used again; its size is a multiple
PART_BYTES = 8 << 20  # of one request where the bytes of a broken one are lost
# Of fsspec's info: what changes with a file's content, the best first.
_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "blob_id",
    "LastModified",
    "Last-Modified",
    "mtime",
    "created",
)

T = TypeVar("T")


class Store:
    """The store that a URL is of."""

    def __init__(self, url: str) -> None:
        with needs("remote", SourceError):
            import aiohttp  # noqa: F401  # what fsspec's HTTP needs
            from fsspec import AbstractFileSystem, filesystem
            from fsspec.core import url_to_fs
            from fsspec.implementations.http import HTTPFileSystem
        url = with_lower_schemes(url)  # fsspec knows no others
        inner, *outer = links(url)
        self.fs: Any
        try:
            scheme, host = urlsplit(inner)[:2]
            if scheme in ("http", "https") and not outer:
                # url_to_fs takes the colons of an IPv6 address for those of a chain.
                self.fs, self.key = filesystem(scheme), url
            else:
                self.fs, self.key = url_to_fs(url)
        except ImportError as error:  # the text of fsspec names the package
            raise SourceError(f"{shown(url)}: {error}") from None
        except Exception as error:
            raise SourceError(f"{shown(url)}: {described(error)}") from None
        self.url = shown(url)
        self._host, self._outer = host, outer  # the archives that it lies in
        self.is_http = isinstance(self.fs, HTTPFileSystem)
        if self.is_http:  # aiohttp drops what is no UTF-8 from a URL
            self.key = without_bytes(self.key)
        # With options of aiohttp, such as certificates, only fsspec itself reads the files.
        options = getattr(self.fs, "kwargs", {}).keys() - {"headers"}
        self.is_plain_http = self.is_http and not (options or self.fs.client_kwargs)
        self.has_buffered_files = type(self.fs).cat_file is AbstractFileSystem.cat_file
        self.sleep: Callable[[float], object] | None = None  # in place of waiting
        self.dead = 0  # files in a row that could not be fetched

    def name(self, key: str) -> str:
        """The key's path: over HTTP without a query, and not encoded. Bytes that are no UTF-8 are
        as in the names of local files."""
        return decoded(urlsplit(key).path) if self.is_http else key

    def shown(self, key: str) -> str:
        return shown(self.fs.unstrip_protocol(key))

    def find(self, key: str) -> list[StoredFile]:
        """All files below `key`, sorted by their paths. Raises SourceError."""
        if self.is_plain_http:
            with Requests(self) as requests:
                urls = files_below(requests.page, key)
            return [self.file(url) for url in sorted(urls, key=self.name)]
        listing: Mapping[str, Mapping[str, Any]]
        listing = self._list(lambda: self.fs.find(key, detail=True), key)
        # Of an empty folder over HTTP, fsspec gives the folder itself, without a type.
        files = [
            self.listed(key, info) for key, info in listing.items() if info.get("type") == "file"
        ]
        if not self.is_http:  # a "?" is a part of the key; `shown` would leave out what follows
            files = [
                replace(file, shown=self.shown(file.key.replace("?", "%3F"))) for file in files
            ]
        if not files and self.is_http:  # fsspec takes a refusal for an empty folder
            self.stat(key)
        # By the path and not by the key: encoded, "é" would come before "a".
        return sorted(files, key=lambda file: self.name(file.key))

    def glob(self, key: str) -> list[str]:
        """The keys that match, sorted by their paths. Raises SourceError."""
        if self.is_plain_http:
            with Requests(self) as requests:
                return sorted(matching(requests.page, key), key=self.name)
        return sorted(self._list(lambda: self.fs.glob(key), key), key=self.name)

    def listed(self, key: str, info: Mapping[str, Any]) -> StoredFile:
        """The file that fsspec's `info` describes."""
        version = next((info[tag] for tag in _VERSIONS if info.get(tag)), "")
        return replace(self.file(key), nbytes=info.get("size"), version=str(version))

    def file(self, key: str) -> StoredFile:
        """The file of which only the key is known."""
        # The key alone names neither the host, in some stores, nor the archive that it lies in.
        identity = "\0".join([self.fs.unstrip_protocol(key), self._host, *self._outer])
        return StoredFile(key, self.shown(key), None, identity=identity)

    def info(self, key: str) -> StoredFile:
        """What the store says of a file now. Raises what fsspec raises."""
        self.fs.invalidate_cache(key)
        return self.listed(key, self.fs.info(key))

    def stat(self, key: str) -> StoredFile:
        """What the store says of a file now, after retries. Raises SourceError."""
        with Requests(self) as requests:
            try:
                return requests.stat(key)
            except OSError as error:
                raise SourceError(f"{self.shown(key)}: {error.strerror}") from None

    def _list(self, call: Callable[[], T], key: str) -> T:
        def now() -> T:
            self.fs.invalidate_cache(key)
            return call()

        try:
            with Requests(self) as requests:
                return requests.retried(now)
        except OSError as error:
            raise SourceError(f"{self.shown(key)}: {error.strerror}") from None


class Requests:
    """Requests to a store by threads, of one reader; a context manager."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._stop = threading.Event()
        self._futures: set[Future[Any]] = set()
        self._memory = Memory()
        self._http = None
        if store.is_plain_http:
            self._http = HttpClient(store.fs.kwargs.get("headers", {}))

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()
        self.close()

    def cancel(self) -> None:
        """Ends what threads wait for."""
        self._stop.set()
        for future in list(self._futures):
            future.cancel()
        if self._http is not None:
            self._http.cancel()

    def close(self) -> None:
        """Closes the connections, once no thread uses them."""
        if self._http is not None:
            self._http.close()

    def stat(self, key: str) -> StoredFile:
        """What the store says of a file now. Raises FetchError."""
        if self._http is None:
            return self.retried(lambda: self.store.info(key))
        # A GET, since a signed URL is for one method; and it shows whether the server has ranges.
        http, file = self._http, self.store.file(key)

        def head() -> StoredFile:
            with closing(http.get(key, {"Range": "bytes=0-0"})) as answer:
                if answer.status not in (200, 206):
                    raise status_error(answer.status)
                answer.read(1)  # all of it, if the server has ranges
                return replace(described_by(answer, file), is_settled=is_settled(answer))

        return self.retried(head)

    def page(self, url: str) -> Page:
        """The page of a folder, over plain HTTP. Raises FetchError."""
        http = self._http
        assert http is not None
        return self.retried(lambda: read_page(http, url))

    def check(self, file: StoredFile) -> None:
        """Raises FetchError when a file is not the listed one now. (Each answer of HTTP tells.)"""
        if self._http is None:
            now = self.stat(file.key)
            if now.nbytes != file.nbytes:
                raise changed("it has another size now")
            check_version(file, now.version)

    def spans(
        self, file: StoredFile, spans: Sequence[tuple[int, int]]
    ) -> Generator[Sequence[bytes | memoryview], None, None]:
        """The bytes [start, end) for each of `spans`, which do not overlap and are in order: some
        at a time.

        One request brings them all, with the bytes between them. Raises FetchError.
        """
        first, last = spans[0][0], spans[-1][1]
        with closing(self.body(file, first, last)) as body:
            if isinstance(body, HttpBody) and last - first <= MAX_VIEWED_BYTES:
                # Far fewer calls than to read each span alone.
                view = self._memory.take(last - first)
                given = 0
                while given < len(spans):
                    self._read_into(body, view, first, spans[given][1])
                    arrived = [
                        view[start - first : end - first]
                        for start, end in spans[given:]
                        if end <= body.at
                    ]
                    yield arrived
                    given += len(arrived)
                return
            for start, end in spans:
                while body.at < start:
                    self.read_of(body, min(start - body.at, PART_BYTES))
                yield [self.read_of(body, end - start)]

    def read(self, file: StoredFile, start: int, end: int) -> bytes:
        """The bytes [start, end) of a file. Raises FetchError."""
        with closing(self.spans(file, [(start, end)])) as contents:
            return bytes(next(contents)[0])

    def read_whole(self, file: StoredFile, max_bytes: int) -> bytes:
        """A file of at most `max_bytes` bytes; FetchError with EFBIG for a larger one."""
        with closing(self.body(file, 0, file.nbytes)) as body:
            if body.end is None:
                self.retried(body.open)
            if body.end is not None:
                if body.end > max_bytes:
                    raise too_large(max_bytes)
                return self.read_of(body, body.end)
            data = self.retried(lambda: body.read_to_end(max_bytes + 1))  # nothing tells the size
            if len(data) > max_bytes:
                raise too_large(max_bytes)
            return data

    def body(self, file: StoredFile, begin: int, end: int | None) -> HttpBody | _CatBody:
        if self._http is not None:
            return HttpBody(self._http, file, begin, end)
        return _CatBody(self._cat, file, begin, end)

    def _read_into(self, body: HttpBody, view: memoryview, first: int, end: int) -> None:
        """Reads at least up to the byte `end`. view: begins with the byte `first`, and is filled
        up to the byte `body.at`."""

        def more() -> None:
            while body.at < end:
                body.read_into(view[body.at - first :])

        self.retried(more, lambda: body.at)

    def read_of(self, body: HttpBody | _CatBody, nbytes: int) -> bytes:
        """The next bytes of a body. Raises FetchError."""
        parts: list[bytes] = []
        end = body.at + nbytes

        def more() -> None:
            while body.at < end:
                parts.append(body.read_some(end - body.at))

        self.retried(more, lambda: body.at)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def retried(self, call: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """What `call` returns, once it succeeds. progress: grows with the bytes that arrive.

        Raises FetchError, without secrets; SourceError when nothing of the store can be fetched.
        """
        attempts = 0
        while True:
            before = progress()
            try:
                result = call()
            except CancelledError:
                raise FetchError(errno.ECANCELED, "the run ended") from None
            except (SourceError, MemoryError):
                raise
            except Exception as raised:
                error = fetch_error(raised)
            else:
                self.store.dead = 0
                return result
            if not error.is_transient:
                raise FetchError(error.errno or errno.EIO, error.strerror or "") from None
            attempts = 1 if progress() > before else attempts + 1
            if attempts == ATTEMPTS:
                break
            self._wait(min(MAX_DELAY, FIRST_DELAY * 2 ** (attempts - 1)))
        self.store.dead += 1
        reason = f"{error.strerror}, {ATTEMPTS} times"
        if self.store.dead >= MAX_DEAD:
            raise SourceError(f"{self.store.url}: {MAX_DEAD} requests in a row failed: {reason}")
        raise FetchError(error.errno or errno.EIO, reason)

    def _wait(self, seconds: float) -> None:
        if self.store.sleep is not None:
            self.store.sleep(seconds)
        else:
            self._stop.wait(seconds)
        if self._stop.is_set():
            raise FetchError(errno.ECANCELED, "the run ended")

    def _cat(self, key: str, start: int, end: int) -> bytes:
        fs = self.store.fs
        data: bytes
        if not fs.async_impl:
            # fsspec's own cat_file, which stores such as hf:// have, would read 5 MB more.
            exactly = {"cache_type": "none"} if self.store.has_buffered_files else {}
            data = fs.cat_file(key, start=start, end=end, **exactly)
            return data
        work = fs._cat_file(key, start=start, end=end)
        future = asyncio.run_coroutine_threadsafe(work, fs.loop)
        self._futures.add(future)
        if self._stop.is_set():
            future.cancel()
        try:
            data = future.result()
        finally:
            self._futures.discard(future)
        return data


class Memory:
    """Memory for what requests bring. Large pieces are used again once nothing refers to them: for
    new ones, the kernel takes a quarter of the time of a thread that fetches."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def take(self, nbytes: int) -> memoryview:
        """Memory of any content. It is free when the view, and all views of it, are gone."""
        if nbytes < MIN_REUSED_BYTES:
            return np.empty(nbytes, np.uint8).data
        try:
            memory = self._free.pop()
        except IndexError:
            memory = None
        if memory is None or len(memory) < nbytes:
            memory = np.empty(-(-nbytes // MIN_REUSED_BYTES) * MIN_REUSED_BYTES, np.uint8)
        lent = memory[:nbytes]
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return lent.data


class Forwards:
    """Reads a file by one long request, as long as each offset is where the last bytes ended."""

    def __init__(self, requests: Requests, file: StoredFile) -> None:
        self._requests, self._file = requests, file
        self._body: HttpBody | _CatBody | None = None

    def pread(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on, fewer only at the file's end. Raises FetchError."""
        end = self._file.nbytes
        if end is None:
            raise FetchError(errno.EIO, "its size is unknown")
        if offset >= end:
            return b""
        if self._body is None:
            self._requests.check(self._file)
        if self._body is None or self._body.at != offset:
            self.close()
            self._body = self._requests.body(self._file, offset, end)
        return self._requests.read_of(self._body, min(size, end - offset))

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None


class RangeFile(io.RawIOBase):
    """A file object over a stored file, which reads some more where it is read forwards."""

    def __init__(self, requests: Requests, file: StoredFile) -> None:
        self._requests, self._file = requests, file
        self._nbytes = file.nbytes or 0
        self._at = self._start = 0
        self._data = b""  # from _start on

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        at = offset + (0, self._at, self._nbytes)[whence]
        if at < 0:
            raise ValueError(f"byte {at} does not exist")
        self._at = at
        return at

    def read(self, size: int | None = -1, /) -> bytes:
        end = self._nbytes if size is None or size < 0 else min(self._at + size, self._nbytes)
        begin = self._at - self._start
        if self._at >= end:
            return b""
        if begin < 0 or end > self._start + len(self._data):
            is_next = bool(self._data) and 0 <= begin <= len(self._data)
            more = max(end, self._at + AHEAD_BYTES) if is_next else end
            self._data = self._requests.read(self._file, self._at, min(more, self._nbytes))
            self._start, begin = self._at, 0
        data = self._data[begin : begin + end - self._at]
        self._at = end
        return data


class _CatBody:
    """As HttpBody, by requests of fsspec of up to PART_BYTES each."""

    def __init__(
        self, cat: Callable[[str, int, int], bytes], file: StoredFile, begin: int, end: int | None
    ) -> None:
        self._cat, self._file = cat, file
        self.at, self.end = begin, end
        self._data = b""
        self._start = begin  # of the data

    def open(self) -> None:
        """The size is known, or it will not be."""

    def read_to_end(self, nbytes: int) -> bytes:
        return self._cat(self._file.key, 0, nbytes)

    def read_some(self, nbytes: int) -> bytes:
        assert self.end is not None
        if self.at == self._start + len(self._data):
            end = min(self.end, self.at + PART_BYTES)
            # One byte more tells whether the file has grown.
            beyond = int(end == self._file.nbytes)
            data = self._cat(self._file.key, self.at, end + beyond)
            if len(data) != end - self.at:
                raise changed("it has another size now")
            self._start, self._data = self.at, data
        begin = self.at - self._start
        part = self._data[begin : begin + nbytes]
        self.at += len(part)
        return part

    def close(self) -> None:
        self._data = b""
