"""A web server on loopback that can fail in the ways of real servers and networks."""

from __future__ import annotations

import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class Web(ThreadingHTTPServer):
    """Serves `files` by their paths.

    faults: each GET takes one, if there is one: a status; ("cut", n): the connection ends after n
    bytes of the content; ("lie", n): Content-Length is n too large; ("shift", n): another range
    than was asked for; ("total", text): Content-Range ends with it; ("tag", text): another ETag;
    ("to", url): a redirection; "hang": no answer; "gone": no answer, and the connection ends;
    ("stall", n): the server will close the connection, and sends n bytes and then no more;
    ("chunks", n): the length is not told, and the connection ends before the last n chunks;
    ("interim", statuses): answers with these come before the final one, or in place of it for 101.
    requests: path with query, Range and Authorization of each GET. sent: bytes of content by path.
    is_held: whether the bytes from its first to its second argument wait for `released`.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], is_ipv6: bool = False) -> None:
        self.address_family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        host = "::1" if is_ipv6 else "127.0.0.1"
        super().__init__((host, 0), _Handler)
        self.files = files
        self.faults: deque[Any] = deque()
        self.has_ranges = True
        self.times: dict[str, str] = {}  # of the last change, by path: then there is no ETag
        self.is_held: Callable[[int, int], bool] = lambda begin, end: False
        self.stalled, self.released = threading.Event(), threading.Event()
        self.requests: list[tuple[str, str, str]] = []
        self.sent: Counter[str] = Counter()
        self.lock = threading.Lock()  # guards `sent`
        self.url = f"http://{f'[{host}]' if is_ipv6 else host}:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        web = self.server
        asked = self.headers.get("Range", "")
        web.requests.append((self.path, asked, self.headers.get("Authorization", "")))
        fault, amount = (web.faults.popleft() if web.faults else None), 0
        if fault == "hang":
            web.released.wait()
        if fault == "gone":
            self.close_connection = True
            return
        if isinstance(fault, tuple):
            fault, amount = fault
        path = unquote(urlsplit(self.path).path)
        data = web.files.get(path)
        if fault == "interim":
            for status in amount:
                self.wfile.write(b"HTTP/1.1 %d Interim\r\nLink: </a.css>\r\n\r\n" % status)
            if 101 in amount:
                return
        if fault == "chunks" and data is not None:
            self._send_chunks(data, amount)
            return
        if fault == "to" or isinstance(fault, int) or data is None:
            self.send_response(302 if fault == "to" else fault or 404)
            if fault == "to":
                self.send_header("Location", str(amount))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        total, begin = len(data), 0
        is_partial = bool(asked and web.has_ranges and data)  # of nothing, there are no parts
        if is_partial:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin = int(first) + (amount if fault == "shift" else 0)
            data = data[begin : int(last) + 1 if last else None]
            if web.is_held(begin, begin + len(data)):
                web.released.wait()
        self.send_response(206 if is_partial else 200)
        if path in web.times:
            self.send_header("Last-Modified", web.times[path])
        else:
            self.send_header("ETag", f'"{amount}"' if fault == "tag" else f'"{hash(path)}"')
        if is_partial:
            whole = amount if fault == "total" else total
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(data) - 1}/{whole}")
        length = len(data) + (amount if fault == "lie" else 0)
        self.send_header("Content-Length", str(length))
        if fault == "stall":
            self.send_header("Connection", "close")
        self.end_headers()
        if fault in ("cut", "stall"):
            data = data[:amount]
        with web.lock:
            web.sent[path] += len(data)
        self.wfile.write(data)
        if fault == "stall":
            web.stalled.set()
            web.released.wait()
        if fault in ("cut", "lie", "stall"):
            self.close_connection = True

    def _send_chunks(self, data: bytes, missing: int) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        chunks = [data[i : i + 9999] for i in range(0, len(data), 9999)]
        chunks = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b"")]
        self.wfile.write(b"".join(chunks[: len(chunks) - missing]))
        self.close_connection = missing > 0


@contextmanager
def serving(files: dict[str, bytes], is_ipv6: bool = False) -> Iterator[Web]:
    with Web(files, is_ipv6) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield web
        finally:
            web.released.set()
            web.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def python_serving(root: Path) -> Iterator[str]:
    """The URL of Python's http.server with the folder `root`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
