"""GETs of byte ranges over HTTP, whose connections are used again.

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
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from zoofast.preprocess.sources.fetch_errors import FetchError, changed, no_ranges
from zoofast.preprocess.sources.stored import StoredFile, check_version, status_error

CONNECT_SECONDS, SILENT_SECONDS = 10, 30
MAX_REDIRECTS = 8
SETTLED_SECONDS = 2  # from the last change to an answer; times are told in seconds
MAX_INTERIM = 20  # answers before the final one
MAX_MOVED = 10_000  # URLs whose redirections are kept
MAX_IDLE = 64  # connections that are kept
PIECE_BYTES = 1 << 20  # that are read at once: no more are lost with a connection
SKIPPED_BYTES = 1 << 20  # at once, of what was read before
_PORTS = {"http": 80, "https": 443}
_SAFE = "/%:@!$&'()*+,;=~-._?"  # of a path or a query, not to be encoded (again)
_STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class _Origin(NamedTuple):
    """What a connection leads to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: SplitResult) -> _Origin:
        """Raises FetchError for a URL of no web server, which a redirection may lead to."""
        try:
            port = url.port or _PORTS[url.scheme]
        except (KeyError, ValueError):
            port = 0
        if not url.hostname or url.scheme not in _PORTS or not port:
            raise FetchError(errno.EIO, "a URL of no web server")
        return cls(url.scheme, url.hostname, port)

    def trusts(self, other: _Origin) -> bool:
        """Whether a redirection from here to `other` takes credentials along."""
        if other == self:
            return True
        upgraded = _Origin("https", self.host, _PORTS["https"])
        return other == upgraded and self[::2] == ("http", _PORTS["http"])


class _Target(NamedTuple):
    """What a request for a URL needs. path: with the query. authorization: the header for the user
    and password that the URL names."""

    origin: _Origin
    path: str
    authorization: Mapping[str, str]


@lru_cache(maxsize=256)
def _target(url: str) -> _Target:
    """Raises FetchError for a URL of no web server."""
    parts = urlsplit(url)
    origin = _Origin.of(parts)
    path = quote(parts.path or "/", safe=_SAFE)
    if parts.query:
        path += "?" + quote(parts.query, safe=_SAFE)
    return _Target(origin, path, _authorization(parts))


def is_same_server(url: SplitResult, other: SplitResult) -> bool:
    """Whether the origins of two URLs are the same, or differ only in http and https."""
    try:
        first, second = _Origin.of(url), _Origin.of(other)
    except FetchError:
        return False
    return first.trusts(second) or second.trusts(first)


class HttpClient:
    """Connections, each of which serves one request at a time, of any thread.

    headers: sent to the first host of a request alone.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)
        self._lock = threading.Lock()  # guards all below
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()  # idle and busy ones
        self._is_closed = False
        self._tls: ssl.SSLContext | None = None
        self._moved: dict[str, str] = {}  # where a URL led to

    def cancel(self) -> None:
        """Ends all connections: a thread that waits for an answer gets an error at once."""
        with self._lock:
            self._is_closed = True
            for connection in self._open:
                connection.interrupt()

    def close(self) -> None:
        """Closes the connections, which no thread uses any more."""
        for connection in self._open:
            connection.close()
        self._open.clear()
        self._idle.clear()

    def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """The answer to a GET, behind redirections; it must be closed.

        Raises OSError; http.client.HTTPException.
        """
        target = self._moved.get(url)
        if target is not None:
            try:
                answer, _ = self._follow(target, url, headers)
            except BaseException:
                self._moved.pop(url, None)
                raise
            if answer.status in (200, 206):
                return answer
            # Where it led to may be signed for a while only.
            self._moved.pop(url, None)
            answer.close()
        answer, final = self._follow(url, url, headers)
        if final != url:
            if len(self._moved) >= MAX_MOVED:
                self._moved.clear()
            self._moved[url] = final
        return answer

    def get_page(self, url: str) -> tuple[Answer, str]:
        """As `get`, and the URL that gave the answer, to which the page's links are relative."""
        return self._follow(url, url, {})

    def _follow(self, url: str, asked: str, headers: Mapping[str, str]) -> tuple[Answer, str]:
        """The answer for `url`, and the URL that gave it. asked: whose host gets credentials."""
        first = _target(asked)
        plain = {**headers, "Accept-Encoding": "identity"}
        secret = {**self._headers, **first.authorization, **plain}
        for _ in range(MAX_REDIRECTS):
            target = _target(url)
            is_trusted = first.origin.trusts(target.origin)
            answer = self._answer(target, secret if is_trusted else plain)
            where = answer.header("location")
            if answer.status not in (301, 302, 303, 307, 308) or not where:
                return answer, url
            answer.close()
            url = urljoin(url, where)
        raise FetchError(errno.EIO, f"more than {MAX_REDIRECTS} redirections")

    def _answer(self, target: _Target, headers: Mapping[str, str]) -> Answer:
        while True:
            connection, is_new = self._connection(target.origin)
            try:
                if is_new:
                    self._connect(connection)
                return Answer(self, connection, connection.get(target.path, headers))
            except BaseException as error:
                self.give_back(connection, False)
                # A server closes a connection that was not used for a while.
                if is_new or not isinstance(error, _STALE):
                    raise

    def _connection(self, origin: _Origin) -> tuple[_Connection, bool]:
        """An idle connection; or one that is to be opened, and True."""
        with self._lock:
            for connection in reversed(self._idle):
                if connection.origin == origin:
                    self._idle.remove(connection)
                    return connection, False
            if origin.scheme == "https" and self._tls is None:
                self._tls = ssl.create_default_context()
            connection = _Connection(origin, self._tls)
            self._open.add(connection)
        return connection, True

    def _connect(self, connection: _Connection) -> None:
        connection.connect()
        with self._lock:
            if self._is_closed:
                raise ConnectionAbortedError

    def give_back(self, connection: _Connection, is_usable: bool) -> None:
        """Keeps a connection for the next request, or closes it. is_usable: an answer was read to
        its end."""
        with self._lock:
            is_kept = is_usable and connection.is_open and len(self._idle) < MAX_IDLE
            if is_kept:
                self._idle.append(connection)
            else:
                self._open.discard(connection)
        if not is_kept:
            connection.close()


class _Response(http.client.HTTPResponse):
    """http.client skips the interim answer 100 alone. Others, as 103 (Early Hints), would be taken
    for the answer, and the answer for that of the next request."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status == 101 or not 100 < status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise FetchError(errno.EIO, f"more than {MAX_INTERIM} interim answers")


class _Connection:
    """A connection to one origin."""

    def __init__(self, origin: _Origin, tls: ssl.SSLContext | None) -> None:
        self.origin = origin
        host, port, timeout = origin.host, origin.port, CONNECT_SECONDS
        if origin.scheme == "https":
            self._http: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=timeout, context=tls
            )
        else:
            self._http = http.client.HTTPConnection(host, port, timeout=timeout)
        self._http.auto_open = 0
        self._http.response_class = _Response
        # http.client forgets its socket where the server will close the connection.
        self._socket: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        return self._http.sock is not None

    def connect(self) -> None:
        self._http.connect()
        self._socket = self._http.sock
        self._socket.settimeout(SILENT_SECONDS)

    def get(self, path: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        self._http.request("GET", path, headers=dict(headers))
        return self._http.getresponse()

    def interrupt(self) -> None:
        """Ends what a thread waits for."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._http.close()


class Answer:
    """The answer to a GET. Its connection serves others after `close`, if all was read."""

    def __init__(
        self, client: HttpClient, connection: _Connection, response: http.client.HTTPResponse
    ) -> None:
        self._client, self._connection, self._response = client, connection, response
        self.status = response.status
        # http.client looks at all headers for each one that it is asked for.
        self._headers = {name.lower(): value for name, value in response.getheaders()}
        self.read, self.readinto = response.read, response.readinto

    def header(self, name: str) -> str:
        """The value of a header, or "". name: in lower case."""
        return self._headers.get(name, "")

    def close(self) -> None:
        """It is called once."""
        is_read = self.status >= 200 and (
            self._response.isclosed() or (self._response.length == 0 and not self._response.chunked)
        )
        self._response.close()
        self._client.give_back(self._connection, is_read)


class HttpBody:
    """The bytes [at, end) of a file, read one after the other by one request, or by more of them
    where a connection ends early. end None: up to the file's end, which the first answer tells."""

    def __init__(self, client: HttpClient, file: StoredFile, begin: int, end: int | None) -> None:
        self._client, self._begin = client, begin
        self.file, self.at, self.end = file, begin, end
        self._answer: Answer | None = None

    def open(self) -> Answer:
        """Sends the request for what is not read yet, unless it is sent. Raises OSError."""
        if self._answer is None:
            is_whole = self.at == 0 and self.end in (None, self.file.nbytes)
            last = "" if self.end is None else self.end - 1
            headers = {} if is_whole else {"Range": f"bytes={self.at}-{last}"}
            answer = self._client.get(self.file.key, headers)
            try:
                self._check(answer, is_whole)
            except BaseException:
                answer.close()
                raise
            self._answer = answer
        return self._answer

    def _check(self, answer: Answer, is_whole: bool) -> None:
        """Raises FetchError unless the answer is what was asked for, of the listed file."""
        if answer.status not in (200, 206):
            raise status_error(answer.status)
        listed, now = self.file, described_by(answer, self.file)
        check_version(listed, now.version)
        if None not in (listed.nbytes, now.nbytes) and now.nbytes != listed.nbytes:
            raise changed(f"it has {now.nbytes:,} bytes now")
        # What the listing did not tell, the first answer tells.
        nbytes = now.nbytes if listed.nbytes is None else listed.nbytes
        self.file = replace(listed, nbytes=nbytes, version=listed.version or now.version)
        if self.end is None:
            self.end = nbytes
        if answer.status == 206:
            if _first_byte(answer) != self.at:
                raise FetchError(errno.EIO, "the server sends another range than was asked for")
        elif not is_whole and self._begin == 0:
            left = self.at  # a server without ranges begins anew
            while left > 0 and (data := answer.read(min(left, SKIPPED_BYTES))):
                left -= len(data)
        elif not is_whole:
            raise no_ranges()

    def read_some(self, nbytes: int) -> bytes:
        """From 1 to `nbytes` bytes. Raises OSError, after which reading can go on, and
        http.client.HTTPException."""
        try:
            data = self.open().read(min(nbytes, PIECE_BYTES))
        except BaseException:
            self.close()
            raise
        self._advance(len(data))
        return data

    def read_into(self, view: memoryview) -> None:
        """As read_some, into the start of `view`."""
        try:
            nbytes = self.open().readinto(view[:PIECE_BYTES])
        except BaseException:
            self.close()
            raise
        self._advance(nbytes)

    def _advance(self, nbytes: int) -> None:
        self.at += nbytes
        if not nbytes or self.at == self.end:
            self.close()
        if not nbytes:
            raise FetchError(errno.EIO, f"the answer ended at byte {self.at:,}", True)

    def read_to_end(self, nbytes: int) -> bytes:
        """All bytes of an answer that does not tell its length, up to `nbytes`; as read_some."""
        try:
            return self.open().read(nbytes)
        finally:
            self.close()

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None


def described_by(answer: Answer, file: StoredFile) -> StoredFile:
    """The file with the size and version that an answer tells."""
    version = answer.header("etag") or answer.header("last-modified")
    total = answer.header("content-length")
    if answer.status == 206:
        total = answer.header("content-range").rpartition("/")[2]
    has_ranges = answer.status == 206
    return replace(file, nbytes=_count(total), version=version, has_ranges=has_ranges)


def is_settled(answer: Answer) -> bool:
    """Whether the file was last modified well before the answer, as far as the answer tells."""
    modified = _seconds(answer.header("last-modified"))
    if modified is None:
        return True
    answered = _seconds(answer.header("date"))
    return abs((time.time() if answered is None else answered) - modified) >= SETTLED_SECONDS


def _seconds(header: str) -> float | None:
    """The time in a header, in seconds since 1970; None for none."""
    try:
        return parsedate_to_datetime(header).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _first_byte(answer: Answer) -> int | None:
    """Of the range in an answer: 0 in "bytes 0-99/1000"."""
    unit, _, part = answer.header("content-range").partition(" ")
    return _count(part.partition("-")[0]) if unit == "bytes" else None


def _count(text: str) -> int | None:
    """A number of bytes; None for a text that is none, or that no file has."""
    return int(text) if text.isdecimal() and len(text) < 19 else None


def _authorization(url: SplitResult) -> dict[str, str]:
    """The header for the user and password that a URL names."""
    if url.username is None:
        return {}
    text = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}
