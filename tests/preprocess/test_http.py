"""Ranges over HTTP: what a server may do wrong, and what is asked of it. Without fsspec."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.support import fetched
from tests.support import web as webs
from zoofast.base.urls import is_url, redacted, shown, with_lower_schemes
from zoofast.errors import SourceError
from zoofast.preprocess.sources.fetch_errors import FetchError
from zoofast.preprocess.sources.http import _first_byte, _Origin, described_by
from zoofast.preprocess.sources.readahead import Fetched, ReadAhead, Stream
from zoofast.preprocess.sources.stored import StoredFile
from zoofast.preprocess.sources.stores import (
    ATTEMPTS,
    MAX_DEAD,
    MIN_REUSED_BYTES,
    Forwards,
    Memory,
    RangeFile,
    Requests,
)

HTTP, STORES = "zoofast.preprocess.sources.http", "zoofast.preprocess.sources.stores"
DATA = random.Random(3).randbytes(300_000)


@pytest.fixture
def web() -> Iterator[webs.Web]:
    with webs.serving({"/a b.bin": DATA, "/other": b"x" * 10}) as web:
        yield web


class FakeStore:
    """What Requests needs of a Store, for HTTP without fsspec."""

    is_plain_http = True
    fs: Any = SimpleNamespace(kwargs={"headers": {"X-Token": "1"}})
    dead = 0

    def __init__(self, web: webs.Web) -> None:
        self.url = web.url
        self.waits: list[float] = []
        self.sleep = self.waits.append

    def file(self, key: str) -> StoredFile:
        return StoredFile(key, shown(key), None)


def opened(web: webs.Web, query: str = "") -> tuple[FakeStore, Requests, StoredFile]:
    store: Any = FakeStore(web)
    requests = Requests(store)
    return store, requests, requests.stat(f"{web.url}/a b.bin{query}")


def test_a_range_and_spans_of_it(web: webs.Web) -> None:
    _, requests, file = opened(web, "?sig=s%2F1+2&b=3")
    with requests:
        assert (file.nbytes, file.has_ranges) == (len(DATA), True)
        assert requests.read(file, 1000, 250_000) == DATA[1000:250_000]
        spans = [(0, 10), (10, 20), (500, 500), (90_000, 200_000)]
        before = len(web.requests)
        contents = [data for some in requests.spans(file, spans) for data in some]
        assert contents == [DATA[a:b] for a, b in spans]
        assert len(web.requests) == before + 1
        assert requests.read_whole(file, len(DATA)) == DATA
        with pytest.raises(FetchError, match="larger than 299,999 bytes"):
            requests.read_whole(file, len(DATA) - 1)
    path, asked, _ = web.requests[before]
    assert (path, asked) == ("/a%20b.bin?sig=s%2F1+2&b=3", "bytes=0-199999")
    assert "sig" not in repr(file)


def test_spans_that_arrived_are_not_lost(web: webs.Web) -> None:
    _, requests, file = opened(web)
    web.faults.extend([("cut", 100_000), 404])
    with requests:
        contents = requests.spans(file, [(5, 10), (10, 90_000), (90_000, 200_000)])
        assert next(contents) == [DATA[5:10], DATA[10:90_000]]
        with pytest.raises(FetchError, match="not found"):
            next(contents)


def test_a_connection_serves_one_answer_at_a_time(web: webs.Web) -> None:
    """Also where one thread reads two files at once, and leaves one unread."""
    store, requests, file = opened(web)
    with requests, closing(requests.body(file, 0, 200_000)) as first:
        assert requests.read_of(first, 1000) == DATA[:1000]
        with closing(requests.body(file, 5000, 6000)) as second:
            assert requests.read_of(second, 1000) == DATA[5000:6000]
        assert requests.read_of(first, 1000) == DATA[1000:2000]
    assert not store.waits  # none failed and was repeated


@pytest.mark.parametrize("statuses", [[103], [102, 103], [100], [100, 103, 100], [103] * 19])
def test_interim_answers_are_skipped(web: webs.Web, statuses: list[int]) -> None:
    web.files["/other"] = DATA[::-1]
    store, requests, file = opened(web)
    other = requests.stat(f"{web.url}/other")
    web.faults.append(("interim", statuses))
    with requests:
        for _ in range(3):
            assert requests.read_whole(file, len(DATA)) == DATA
            assert requests.read_whole(other, len(DATA)) == DATA[::-1]
    assert not store.waits  # none failed and was repeated


@pytest.mark.parametrize("statuses", [[103] * 40, [101], [103, 101]])
def test_a_server_that_does_not_come_to_its_answer(web: webs.Web, statuses: list[int]) -> None:
    """The image fails, and its connection is not used again: an answer may still come."""
    web.files["/other"] = DATA[::-1]
    _, requests, file = opened(web)
    other = requests.stat(f"{web.url}/other")
    web.faults.append(("interim", statuses))
    with requests:
        with pytest.raises(FetchError, match=r"more than 20 interim answers|HTTP status 101"):
            requests.read_whole(file, len(DATA))
        for _ in range(3):
            assert requests.read_whole(other, len(DATA)) == DATA[::-1]


def test_a_cut_connection_goes_on_where_it_ended(web: webs.Web) -> None:
    store, requests, file = opened(web)
    cuts = [70_000, 1, 100_000, 503, 0]
    web.faults.extend(("cut", n) if n != 503 else 503 for n in cuts)
    with requests:
        assert requests.read(file, 100, 280_000) == DATA[100:280_000]
    starts = [int(asked[6:].split("-")[0]) for _, asked, _ in web.requests[1:]]
    assert starts == [100, 70_100, 70_101, 170_101, 170_101, 170_101]
    assert store.waits == [0.25, 0.25, 0.25, 0.5, 1.0]  # shorter again where bytes arrived
    assert web.sent["/a b.bin"] == 1 + 280_000 - 100


def test_a_whole_file_of_a_server_without_ranges(web: webs.Web) -> None:
    """It begins anew after a cut; its ranges are refused."""
    web.has_ranges = False
    store, requests, file = opened(web)
    assert not file.has_ranges
    unknown = StoredFile(file.key, file.shown, None)
    web.faults.append(("cut", 1234))
    with requests:
        assert requests.read_whole(unknown, len(DATA)) == DATA
        assert len(store.waits) == 1
        with pytest.raises(FetchError, match="sends no ranges of it; copy it to a disk"):
            requests.read(file, 100, 200)
        with pytest.raises(FetchError, match="larger than 999 bytes"):
            requests.read_whole(unknown, 999)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ([("tag", "other")], "it changed after it was listed: it has another ETag or time"),
        ([("shift", 7)], "the server sends another range than was asked for"),
        ([404], r"not found \(HTTP status 404\)"),
        ([403], r"permission denied \(HTTP status 403\)"),
        ([416], "it has fewer bytes now"),
        ([400], "HTTP status 400"),
        ([503] * ATTEMPTS, "HTTP status 503, 6 times"),
        ([("cut", 0)] * ATTEMPTS, "the answer ended at byte 100, 6 times"),
        ([("to", "/a b.bin")] * 9, "more than 8 redirections"),
    ],
)
def test_what_a_server_may_do_wrong(web: webs.Web, faults: list[Any], reason: str) -> None:
    _, requests, file = opened(web, "?sig=secret")
    web.faults.extend(faults)
    with requests:
        with pytest.raises(FetchError, match=reason) as caught:
            requests.read(file, 100, 2000)
        web.faults.clear()
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert requests.read(file, 100, 2000) == DATA[100:2000]


def test_a_file_that_grew_or_shrank(web: webs.Web) -> None:
    _, requests, file = opened(web)
    for now in (DATA + b"x", DATA[:-1]):
        web.files["/a b.bin"] = now
        with pytest.raises(FetchError, match=f"it has {len(now):,} bytes now"):
            requests.read(file, 0, 100)
    requests.cancel()
    requests.close()


@pytest.mark.parametrize("total", ["*", "-5", "\xb2", "9" * 30, "9" * 5000])
def test_a_size_that_no_file_has(web: webs.Web, total: str) -> None:
    web.faults.append(("total", total))
    _, requests, file = opened(web)
    with requests:
        assert file.nbytes is None
        assert requests.read(file, 5, 10) == DATA[5:10]


def test_a_lying_content_length(web: webs.Web) -> None:
    """The bytes that came are used, and the missing ones asked for; there are none."""
    _, requests, file = opened(web)
    web.faults.extend([("lie", 5)] * 20)
    with requests:
        assert requests.read(file, 0, 1000) == DATA[:1000]  # none are missing
        unknown = StoredFile(file.key, file.shown, None)
        with pytest.raises(FetchError, match="it has 300,000 bytes now"):
            requests.read_whole(unknown, len(DATA) + 100)


def test_passwords_go_to_their_host_alone(web: webs.Web) -> None:
    with webs.serving({"/x": b"moved"}) as second:
        store: Any = FakeStore(web)
        with Requests(store) as requests:
            key = web.url.replace("//", "//me:p%40ss@") + "/gone"
            web.faults.append(("to", second.url + "/x"))
            body = requests.read_whole(StoredFile(key, shown(key), None), 100)
            assert body == b"moved"
            web.files["/gone"] = b"came back"
            second.faults.append(403)  # as of a signature that is too old
            assert requests.read_whole(StoredFile(key, shown(key), None), 100) == b"came back"
    assert len(second.requests) == 2 and second.requests[1][2] == ""
    assert web.requests[-1][2] == "Basic bWU6cEBzcw=="
    assert second.requests[-1][2] == ""


def test_a_server_that_a_redirection_led_to_is_gone(web: webs.Web) -> None:
    """The first server is asked again."""
    store: Any = FakeStore(web)
    with webs.serving({"/x": b"moved"}) as second, Requests(store) as requests:
        file = StoredFile(web.url + "/gone", "gone", None)
        web.faults.append(("to", second.url + "/x"))
        assert requests.read_whole(file, 100) == b"moved"
        web.files["/gone"] = b"came back"
        second.faults.extend(["gone"] * 9)
        assert requests.read_whole(file, 100) == b"came back"
        assert len(store.waits) == 1


def test_credentials_do_not_go_to_another_origin() -> None:
    first = _Origin.of(urlsplit("https://host/a"))
    for url, is_trusted in {
        "https://host:443/b": True,
        "https://host:444/b": False,
        "http://host/b": False,
        "http://host:443/b": False,
        "https://other/b": False,
    }.items():
        assert first.trusts(_Origin.of(urlsplit(url))) is is_trusted, url
    plain = _Origin.of(urlsplit("http://host/a"))
    assert plain.trusts(first) and not plain.trusts(_Origin.of(urlsplit("https://host:80/a")))
    for url in (
        "ftp://host:21/b",
        "file:///etc/passwd",
        "http://host:x/b",
        "//host/b",
        "http:///b",
    ):
        with pytest.raises(FetchError, match="a URL of no web server"):
            _Origin.of(urlsplit(url))


def test_a_store_that_is_dead_ends_the_run(web: webs.Web) -> None:
    _, requests, file = opened(web)
    web.faults.extend([503] * ATTEMPTS * MAX_DEAD)
    with requests:
        for _ in range(MAX_DEAD - 1):
            with pytest.raises(FetchError):
                requests.read(file, 0, 10)
        with pytest.raises(SourceError, match="8 requests in a row failed: HTTP status 503, 6"):
            requests.read(file, 0, 10)


def test_a_host_that_is_not_known(web: webs.Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*address: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    store: Any = FakeStore(web)
    with Requests(store) as requests, pytest.raises(FetchError) as error:
        requests.stat("http://nowhere.invalid/val.tar")
    assert error.value.strerror == f"the host's address was not found, {ATTEMPTS} times"


def test_cancelled_requests_do_not_wait(web: webs.Web) -> None:
    _, requests, file = opened(web)
    requests.cancel()
    with pytest.raises(FetchError, match="the run ended"):
        requests.read(file, 0, 10)
    requests.close()


def test_a_file_whose_length_is_not_told(web: webs.Web) -> None:
    store, requests, file = opened(web)
    unknown = StoredFile(file.key, file.shown, None)
    web.faults.extend([("chunks", 3), ("chunks", 0), ("chunks", 0)])
    with requests:
        assert requests.read_whole(unknown, len(DATA)) == DATA
        assert len(store.waits) == 1
        with pytest.raises(FetchError, match="larger than 299,999 bytes"):
            requests.read_whole(unknown, len(DATA) - 1)


@pytest.mark.parametrize("fault", ["hang", ("stall", 5)])
def test_closing_ends_a_request_that_hangs(web: webs.Web, fault: Any) -> None:
    _, requests, file = opened(web)
    web.faults.append(fault)

    def produce() -> Generator[list[Fetched], None, None]:
        yield [requests.read(file, 0, 10)]

    reader = ReadAhead([Stream(1, produce)], 1, on_close=requests.cancel, on_closed=requests.close)
    while len(web.requests) < 2 or (fault != "hang" and not web.stalled.is_set()):
        time.sleep(0.001)
    reader.close()  # waits for the thread, and would wait for the server's answer
    assert not fetched.threads()


SECRETS = {
    "https://me:pw@h.org:80/v.tar?X-Sig=ab%2F#f": "https://h.org:80/v.tar",
    "s3://KEY:SE/CRET@bucket/v": "s3://bucket/v",
    "s3://bucket/v?versionId=5": "s3://bucket/v",
    "simplecache::https://u:p@h/v.tar?s=1": "simplecache::https://h/v.tar",
    "zip://*.jpg::https://u@h/v.zip?s": "zip://*.jpg::https://h/v.zip",
}
OPEN = ["s3://b/shard-0?.tar", "hf://datasets/a/b@main/c", "http://[::1]:80/v", "/a?b=c", "a@b"]


def test_urls_are_shown_without_secrets() -> None:
    for url, expected in SECRETS.items():
        assert is_url(url) and shown(url) == expected
    for url in OPEN:
        assert shown(url) == url
    assert not is_url("shard-{00..63}.tar") and not is_url("C:/x") and not is_url("a::b")
    assert redacted("--labels-from=s3://u:p@b/k") == "--labels-from=s3://b/k"
    text = redacted("GET 'https://u:p@h/v?sig=1' failed: s3://b/k?x=2 (3)")
    assert text == "GET 'https://h/v' failed: s3://b/k (3)"


def test_schemes_are_of_either_case() -> None:
    for url, expected in {
        "HTTP://Host/Val.TAR": "http://Host/Val.TAR",
        "s3://Bucket/A::B": "s3://Bucket/A::B",
        "ZIP://*.JPG::HTTPS://h/V.zip": "zip://*.JPG::https://h/V.zip",
        "SimpleCache::Https://h/V": "simplecache::https://h/V",
    }.items():
        assert with_lower_schemes(url) == expected


# ---- memory --------------------------------------------------------------------


def address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def test_memory_is_used_again_only_when_no_view_is_left() -> None:
    memory, nbytes = Memory(), MIN_REUSED_BYTES + 5
    first = memory.take(nbytes)
    first_at, part = address(first), first[100:200]
    part[:] = bytes(range(100))
    del first
    second = memory.take(nbytes)
    assert len(second) == nbytes and address(second) != first_at
    second[:] = b"x" * nbytes
    assert bytes(part) == bytes(range(100))
    array = np.frombuffer(part, np.uint8)  # a view of a view
    del part
    third = memory.take(nbytes)
    assert address(third) not in (first_at, address(second))
    assert array.tolist() == list(range(100))
    del array
    fourth = memory.take(nbytes + 7)
    assert address(fourth) == first_at and len(fourth) == nbytes + 7
    assert not fourth.readonly


def test_memory_that_is_too_small_is_not_used_again() -> None:
    memory = Memory()
    del_first = memory.take(MIN_REUSED_BYTES)
    del del_first
    larger = memory.take(3 * MIN_REUSED_BYTES)
    assert len(larger) == 3 * MIN_REUSED_BYTES
    small = [memory.take(MIN_REUSED_BYTES - 1) for _ in range(2)]
    assert address(small[0]) != address(small[1])
    del memory, larger  # the memory of views outlives what gave it
    assert small[1][-1] in range(256)


def test_members_that_are_kept_do_not_change(web: webs.Web) -> None:
    """Of a file that is fetched by many requests into memory that is used again."""
    data = random.Random(5).randbytes(12 * MIN_REUSED_BYTES)
    web.files["/large"] = data
    _, requests, _ = opened(web)
    file = requests.stat(f"{web.url}/large")
    kept: list[tuple[int, memoryview | bytes]] = []
    step = MIN_REUSED_BYTES // 3
    with requests:
        for round in range(3):
            for begin in range(0, len(data), 4 * step):
                ends = range(begin, min(begin + 4 * step, len(data)), step)
                spans = [(at, min(at + step, len(data))) for at in ends]
                parts = [part for some in requests.spans(file, spans) for part in some]
                kept += [pair for pair in zip(ends, parts, strict=True) if pair[0] % 7 == round]
    assert len(kept) > 5
    for at, part in kept:
        assert part == data[at : at + len(part)]


def idle_connections(requests: Requests) -> int:
    """How many there are. None is busy, or was lost."""
    assert requests._http is not None
    assert set(requests._http._idle) == requests._http._open
    return len(requests._http._idle)


def test_files_that_cannot_be_fetched_now_and_then_do_not_end_the_run(web: webs.Web) -> None:
    _, requests, file = opened(web)
    with requests:
        for _ in range(2 * MAX_DEAD):
            web.faults.extend([503] * ATTEMPTS)
            with pytest.raises(FetchError):
                requests.read(file, 0, 10)
            assert requests.read(file, 0, 10) == DATA[:10]


def test_a_file_that_changes_while_it_is_read(web: webs.Web) -> None:
    """Of a listing that told no version: the first answer tells it."""
    _, requests, file = opened(web)
    unknown = StoredFile(file.key, file.shown, len(DATA))
    web.faults.extend([("cut", 1000), ("tag", "other")])
    with requests, pytest.raises(FetchError, match="it has another ETag or time"):
        requests.read(unknown, 0, 2000)


def test_connections_are_not_lost(web: webs.Web) -> None:
    _, requests, file = opened(web)
    with requests:
        for faults in (["gone", "gone"], [("tag", "other")], [404], [("shift", 1)], [("cut", 3)]):
            web.faults.extend(faults)
            with suppress(FetchError):
                requests.read(file, 5, 10)
            assert idle_connections(requests) <= 1
        unknown = StoredFile(file.key, file.shown, None)
        web.faults.append(("chunks", 0))
        with pytest.raises(FetchError, match="larger than 9 bytes"):
            requests.read_whole(unknown, 9)
        store: Any = requests.store
        store.waits.clear()
        assert requests.read(file, 5, 10) == DATA[5:10] and not store.waits


def test_a_server_that_closes_each_connection(
    web: webs.Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webs._Handler, "protocol_version", "HTTP/1.0")
    store, requests, file = opened(web)
    with requests:
        for at in range(3):
            assert requests.read(file, at, 10) == DATA[at:10]
        assert idle_connections(requests) == 0 and not store.waits


def test_a_slow_answer(web: webs.Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take longer than to connect."""
    monkeypatch.setattr(f"{HTTP}.CONNECT_SECONDS", 0.2)
    store, requests, file = opened(web)
    web.faults.append("hang")
    timer = threading.Timer(0.5, web.released.set)
    timer.start()
    with requests:
        assert requests.read(file, 0, 10) == DATA[:10] and not store.waits
    timer.join()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirections(web: webs.Web, status: int) -> None:
    class Moved(webs._Handler):
        def send_response(self, code: int, message: str | None = None) -> None:
            super().send_response(status if code == 302 else code, message)

    web.RequestHandlerClass = Moved
    _, requests, file = opened(web)
    web.faults.append(("to", "/other"))
    with requests:
        assert requests.read_whole(StoredFile(file.key, file.shown, None), 10) == b"x" * 10


def test_a_server_without_ranges_that_is_cut_late(
    web: webs.Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{HTTP}.SKIPPED_BYTES", 1000)
    web.has_ranges = False
    _, requests, file = opened(web)
    web.faults.append(("cut", 12_345))
    with requests:
        assert requests.read_whole(StoredFile(file.key, file.shown, None), len(DATA)) == DATA


def test_what_headers_tell() -> None:
    file = StoredFile("k", "k", None)

    def answer(status: int, **headers: str) -> Any:
        return SimpleNamespace(
            status=status, header=lambda name: headers.get(name.replace("-", "_"), "")
        )

    assert described_by(answer(200, etag='"1"', last_modified="now"), file).version == '"1"'
    assert described_by(answer(200, last_modified="now"), file).version == "now"
    assert _first_byte(answer(206, content_range="bytes 7-9/10")) == 7
    assert _first_byte(answer(206, content_range="items 7-9/10")) is None


def test_spans_far_from_each_other(web: webs.Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{STORES}.PART_BYTES", 1000)
    monkeypatch.setattr(f"{STORES}.MAX_VIEWED_BYTES", 0)
    _, requests, file = opened(web)
    spans = [(5, 10), (10, 10), (5000, 9000), (20_000, 20_001)]
    with requests:
        contents = [bytes(data) for some in requests.spans(file, spans) for data in some]
    assert contents == [DATA[a:b] for a, b in spans]


def test_file_objects(web: webs.Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{STORES}.AHEAD_BYTES", 5000)
    _, requests, file = opened(web)
    rng = random.Random(0)
    with requests:
        ranges, forwards = RangeFile(requests, file), Forwards(requests, file)
        at = 0
        for _ in range(60):
            at = rng.choice((at, at + 100, max(0, at - 300), rng.randrange(len(DATA) + 10)))
            size = rng.choice((0, 1, 200, 6000))
            assert ranges.seek(at) == at
            assert ranges.read(size) == forwards.pread(at, size) == DATA[at : at + size]
            at = ranges.tell()
        forwards.close()
        assert ranges.seek(-5, 2) == len(DATA) - 5 and ranges.read() == DATA[-5:]
        with pytest.raises(ValueError, match="byte -1 does not exist"):
            ranges.seek(-1)


def test_memory_that_is_missing_is_no_failed_request(web: webs.Web) -> None:
    store, requests, _ = opened(web)

    def fail() -> None:
        raise MemoryError

    with requests, pytest.raises(MemoryError):
        requests.retried(fail)
    assert not store.waits
