"""GETs of byte ranges over HTTP, in threads that keep their connections.

fsspec reads HTTP through asyncio, which takes three times the CPU time of this module for ranges of
a few MB, and hides from its caller what the server answered.
"""

from __future__ import annotations

import base64
import errno
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from zoofast.preprocess.sources.stored import (
    FetchError,
    StoredFile,
    changed,
    check_version,
    status_error,
)

CONNECT_SECONDS, SILENT_SECONDS = 10, 30
MAX_REDIRECTS = 8
SKIPPED_BYTES = 1 << 20  # at once, of what was read before
_SAFE = "/%:@!$&'()*+,;=~-._?"  # of a path or a query, not to be encoded (again)
_STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class HttpClient:
    """Connections of several threads. headers: sent to the first host of a request alone."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)
        self._lock = threading.Lock()  # guards _open and _is_closed
        self._open: set[http.client.HTTPConnection] = set()
        self._is_closed = False
        self._mine = threading.local()
        self._tls: ssl.SSLContext | None = None
        self._moved: dict[str, str] = {}  # where a URL led to

    def cancel(self) -> None:
        """Ends all connections: a thread that waits for an answer gets an error at once."""
        with self._lock:
            self._is_closed = True
            for connection in self._open:
                if connection.sock is not None:
                    with suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the connections, which no thread uses any more."""
        for connection in self._open:
            connection.close()
        self._open.clear()

    def get(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """The answer to a GET, behind redirections. It must be read whole, or `drop` must follow.

        Raises OSError; http.client.HTTPException.
        """
        target = self._moved.get(url)
        if target is not None:
            response, _ = self._follow(target, url, headers)
            if response.status not in (401, 403, 404, 410):
                return response
            self.drop()  # where it led to may be signed for a while only
        response, final = self._follow(url, url, headers)
        if final != url:
            self._moved[url] = final
        return response

    def _follow(
        self, url: str, asked: str, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPResponse, str]:
        """The answer for `url`, and the URL that gave it. asked: whose host gets credentials."""
        first = urlsplit(asked).netloc
        for _ in range(MAX_REDIRECTS):
            parts = urlsplit(url)
            more = dict(headers, **{"Accept-Encoding": "identity"})
            if parts.netloc == first:
                more = {**self._headers, **_authorization(parts), **more}
            response = self._answer(parts, more)
            where = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or where is None:
                return response, url
            self.drop()
            url = urljoin(url, where)
        raise FetchError(errno.EIO, f"more than {MAX_REDIRECTS} redirections")

    def drop(self) -> None:
        """Closes this thread's connection."""
        connection = getattr(self._mine, "connection", None)
        if connection is not None:
            self._mine.connection = None
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _answer(self, url: SplitResult, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        path = quote(url.path or "/", safe=_SAFE)
        if url.query:
            path += "?" + quote(url.query, safe=_SAFE)
        host = (url.scheme, url.hostname, url.port)
        while True:
            connection = getattr(self._mine, "connection", None)
            if connection is not None and self._mine.host != host:
                self.drop()
                connection = None
            is_new = connection is None
            if connection is None:
                connection = self._new(url)
                self._mine.connection, self._mine.host = connection, host
            try:
                if is_new:
                    self._connect(connection)
                connection.request("GET", path, headers=dict(headers))
                response: http.client.HTTPResponse = connection.getresponse()
                return response
            except BaseException as error:
                self.drop()
                # A server closes a connection that was not used for a while.
                if is_new or not isinstance(error, _STALE):
                    raise

    def _new(self, url: SplitResult) -> http.client.HTTPConnection:
        host, port = url.hostname or "", url.port
        if url.scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=self._tls)

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._open.add(connection)
        connection.connect()
        connection.sock.settimeout(SILENT_SECONDS)
        with self._lock:
            if self._is_closed:
                raise ConnectionAbortedError


class HttpBody:
    """The bytes [at, end) of a file, read one after the other by one request, or by more of them
    where a connection ends early. end None: up to the file's end, which the first answer tells."""

    def __init__(self, client: HttpClient, file: StoredFile, begin: int, end: int | None) -> None:
        self._client, self._begin = client, begin
        self.file, self.at, self.end = file, begin, end
        self._answer: http.client.HTTPResponse | None = None

    def open(self) -> None:
        """Sends the request for what is not read yet, unless it is sent. Raises OSError."""
        if self._answer is not None:
            return
        is_whole = self.at == 0 and self.end in (None, self.file.nbytes)
        last = "" if self.end is None else self.end - 1
        headers = {} if is_whole else {"Range": f"bytes={self.at}-{last}"}
        answer = self._client.get(self.file.key, headers)
        try:
            self._check(answer, is_whole)
        except BaseException:
            self._client.drop()
            raise
        self._answer = answer

    def _check(self, answer: http.client.HTTPResponse, is_whole: bool) -> None:
        """Raises FetchError unless the answer is what was asked for, of the listed file."""
        if answer.status not in (200, 206):
            raise status_error(answer.status)
        now = described_by(answer, self.file)
        check_version(self.file, now.version)
        if None not in (self.file.nbytes, now.nbytes) and now.nbytes != self.file.nbytes:
            raise changed(f"it has {now.nbytes:,} bytes now")
        self.file = now
        if self.end is None:
            self.end = now.nbytes
        if answer.status == 206:
            if _first_byte(answer) != self.at:
                raise FetchError(errno.EIO, "the server sends another range than was asked for")
        elif not is_whole and self._begin == 0:
            left = self.at  # a server without ranges begins anew
            while left > 0 and (data := answer.read(min(left, SKIPPED_BYTES))):
                left -= len(data)
        elif not is_whole:
            raise FetchError(errno.ENOTSUP, "the server sends no ranges of it")

    def read_some(self, nbytes: int) -> bytes:
        """From 1 to `nbytes` bytes. Raises OSError, after which reading can go on, and
        http.client.HTTPException."""
        data = b""

        def read(answer: http.client.HTTPResponse) -> int:
            nonlocal data
            data = answer.read(nbytes)
            return len(data)

        self._advance(read)
        return data

    def read_into(self, view: memoryview) -> int:
        """As read_some, into the begin of `view`. Returns how many bytes."""
        return self._advance(lambda answer: answer.readinto(view))

    def _advance(self, read: Callable[[http.client.HTTPResponse], int]) -> int:
        try:
            self.open()
            assert self._answer is not None
            nbytes = read(self._answer)
        except BaseException:
            self.close()
            raise
        self.at += nbytes
        if not nbytes:
            self.close()
            raise FetchError(errno.EIO, f"the answer ended at byte {self.at:,}", True)
        if self.at == self.end:
            self._finish()
        return nbytes

    def read_to_end(self, nbytes: int) -> bytes:
        """All bytes of an answer that does not tell its length, up to `nbytes`; as read_some."""
        try:
            self.open()
            assert self._answer is not None
            return self._answer.read(nbytes)
        finally:
            self.close()

    def _finish(self) -> None:
        assert self._answer is not None
        if not self._answer.isclosed() and (self._answer.length or self._answer.chunked):
            self._client.drop()  # it has more than was asked for
        self._answer.close()
        self._answer = None

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None
            self._client.drop()


def described_by(answer: http.client.HTTPResponse, file: StoredFile) -> StoredFile:
    """The file with the size and version that an answer tells."""
    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    total = answer.headers.get("Content-Length", "")
    if answer.status == 206:
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
    nbytes = int(total) if total.isdigit() else None
    return StoredFile(file.key, file.shown, nbytes, version, answer.status == 206)


def _first_byte(answer: http.client.HTTPResponse) -> int | None:
    """Of the range in an answer: 0 in "bytes 0-99/1000"."""
    unit, _, part = answer.headers.get("Content-Range", "").partition(" ")
    first = part.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else None


def _authorization(url: SplitResult) -> dict[str, str]:
    """The header for the user and password that a URL names."""
    if url.username is None:
        return {}
    text = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}
