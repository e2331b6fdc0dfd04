"""Folders over HTTP: which links of a page are files, and what a page cannot do."""

from __future__ import annotations

import html
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import folders, nginx
from tests.support import web as webs
from zoofast.errors import SourceError
from zoofast.preprocess.sources import http_listing, open_source, remote
from zoofast.preprocess.sources.http_listing import files_below
from zoofast.preprocess.sources.stores import ATTEMPTS, Requests, Store

HTTP, LISTING = "zoofast.preprocess.sources.http", "zoofast.preprocess.sources.http_listing"
STORES = "zoofast.preprocess.sources.stores"


@pytest.fixture
def web() -> Iterator[webs.Web]:
    with webs.serving({}) as web:
        yield web


def page(*links: str) -> bytes:
    """A page of a folder, as servers write it."""
    return "".join(f'<a href="{html.escape(link)}">x</a>\n' for link in links).encode()


def below(web: webs.Web, folder: str = "/val/", root: str = "/val/") -> list[str]:
    """The files that are listed, relative to `root`."""
    store: Any = SimpleNamespace(is_plain_http=True, fs=SimpleNamespace(kwargs={}), dead=0)
    store.sleep = lambda seconds: None
    with Requests(store) as requests:
        urls = files_below(requests.page, web.url + folder)
    assert all(url.startswith(web.url + root) for url in urls)
    return sorted(url.removeprefix(web.url + root) for url in urls)


def links_of(text: str | bytes, url: str = "http://h/val/", **headers: str) -> list[str]:
    """What a page of the URL lists."""
    parts = [text.encode() if isinstance(text, str) else text, b""]
    answer = SimpleNamespace(
        status=200,
        header=lambda name: headers.get(name.replace("-", "_"), ""),
        read=lambda nbytes: parts.pop(0),
        close=lambda: None,
    )
    client: Any = SimpleNamespace(get_page=lambda asked: (answer, url))
    return list(http_listing.read_page(client, "http://asked/").links)


@pytest.mark.parametrize(
    ("href", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("./a.jpg", "a.jpg"),
        (" a.jpg\n", "a.jpg"),
        ("/val/a.jpg", "a.jpg"),
        ("http://h/val/a.jpg", "a.jpg"),
        ("HTTP://H:80/val/a.jpg", "a.jpg"),
        ("//h/val/a.jpg", "a.jpg"),
        ("https://h/val/a.jpg", "a.jpg"),  # of a server that does not know of its proxy
        ("/v%61l/a.jpg", "a.jpg"),
        ("httpbin.jpg", "httpbin.jpg"),
        ("https_dir/", "https_dir/"),
        ("http.jpg?v=http://x/", "http.jpg?v=http://x/"),
        ("it's.jpg", "it's.jpg"),
        ("cat &amp; dog.jpg", "cat & dog.jpg"),
        ("&#x1f408;.jpg", "🐈.jpg"),
        ("a.jpg#top", "a.jpg"),
        ("a.jpg?download=1", "a.jpg?download=1"),
        ("b/c/d.jpg", "b/c/d.jpg"),
        ("x..jpg", "x..jpg"),
        ("...", "..."),
        ("100%.jpg", "100%.jpg"),
    ],
)
def test_links_below_the_page(href: str, expected: str) -> None:
    assert links_of(f'<a href="{href}">x</a>') == [expected]
    if "'" not in href:
        assert links_of(f"<TD><A CLASS=x HREF='{href}'><IMG src=y.jpg></A>") == [expected]


@pytest.mark.parametrize(
    "href",
    [
        *("", ".", "./", "/val/", "#top", "?C=N;O=D", "/val/?C=N;O=D", "/val", "http://h/val/"),
        *("..", "../", "../a.jpg", "/", "/a.jpg", "/value/a.jpg", "/VAL/a.jpg"),
        *("http://h/val/../a.jpg", "%2e%2e/a.jpg", "x/%2E%2e/%2e./y/", "%2e/", ".%2E?x"),
        *("http://other/val/a.jpg", "//other/val/a.jpg", "http://h:81/val/a.jpg"),
        *("ftp://h/val/a.jpg", "file:///val/a.jpg", "mailto:a@h", "javascript:a/b.jpg"),
        *(
            "http://[",
            "http://h:x/val/a.jpg",
            "http://h:0x/val/a.jpg",
            "data:image/png;base64,/val/",
        ),
    ],
)
def test_links_that_lead_elsewhere(href: str) -> None:
    assert links_of(f'<a href="{href}">x</a>') == []


def test_what_is_no_link() -> None:
    text = """<!DOCTYPE html><link href="a.css"><!-- <a href="b.jpg"> --><a name="c.jpg">x</a>
    <script>'<a href="d.jpg">'</script><a href>x</a> http://h/val/e.jpg <a href="f.jpg"""
    assert links_of(text) == []
    assert links_of('<a href="a.jpg">', content_type="image/jpeg") == []
    assert links_of('<a href="a.jpg">', content_type="Text/HTML;charset=x") == ["a.jpg"]


def test_base_of_a_page() -> None:
    """The first one counts, as in a browser."""
    assert links_of("<base href='/val/'><a href='a.jpg'>", "http://h/val") == ["a.jpg"]
    assert links_of("<a href='a.jpg'>", "http://h/val") == []
    assert links_of("<a href='val/a.jpg'>", "http://h/val") == ["a.jpg"]
    assert links_of("<base target=x><base href=b/><base href=c/><a href=a.jpg>") == ["b/a.jpg"]
    assert links_of("<base href='http://other/val/'><a href='a.jpg'>") == []
    assert links_of("<base href='http://['><a href='a.jpg'>") == ["a.jpg"]


@pytest.mark.parametrize(
    ("charset", "data", "expected"),
    [
        ("", "é".encode(), "é"),
        ("", b"\xe9", "%E9"),
        ("; charset=utf-8", b"\xe9", "%E9"),
        ("; Charset='ISO-8859-1'", b"\xe9", "é"),
        (";charset=gbk", "日本".encode("gbk"), "日本"),
        (";charset=windows-99999", "é".encode(), "é"),
        (";charset=zlib", "é".encode(), "é"),
        (";charset=punycode", "é".encode(), "é"),
    ],
)
def test_encodings_of_a_page(charset: str, data: bytes, expected: str) -> None:
    links = links_of(b"<a href='" + data + b"/x.jpg'>", content_type=f"text/html{charset}")
    assert links == [f"{expected}/x.jpg"]


def test_folders_are_walked(web: webs.Web) -> None:
    web.files = {
        "/val/": page("../", "b/", "a.jpg", "a.jpg", "/val/c d/", "%C3%A9/", "?C=N"),
        "/val/b/": page("../", "/val/", "x.jpg", "deep/"),
        "/val/b/deep/": page("y.jpg", "../../a.jpg"),
        "/val/c d/": page("z.jpg", "/val/c d/z2.jpg", ".git/"),
        "/val/é/": page(),
    }
    files = ["a.jpg", "b/deep/y.jpg", "b/x.jpg", "c d/.git/", "c d/z.jpg", "c d/z2.jpg"]
    assert below(web) == files
    assert len(web.requests) == len(web.files)  # each once


def test_a_folder_without_a_slash(web: webs.Web) -> None:
    """A server redirects it, or its links are relative to the folder above."""
    web.files = {"/val/": page("a.jpg"), "/val": page("val/b.jpg", "/val/c.jpg", "d.jpg")}
    assert below(web, "/val") == ["b.jpg", "c.jpg"]
    web.faults.append(("to", "/val/"))
    assert below(web, "/val") == ["a.jpg"]


def test_pages_behind_redirections(web: webs.Web) -> None:
    """Their files are fetched by the URL that the user named."""
    with webs.serving({"/moved/": page("a.jpg", "/moved/b.jpg", "/val/c.jpg", "d/")}) as other:
        web.faults.extend([("to", "/elsewhere"), ("to", f"{other.url}/moved/")])
        web.files["/val/d/"] = page("e.jpg")
        assert below(web) == ["a.jpg", "b.jpg", "d/e.jpg"]


def test_redirections_to_a_page_that_was_read(web: webs.Web) -> None:
    web.files["/val/"] = page("a/", "b.jpg")
    web.faults.extend([None, ("to", "/val/")])
    assert below(web) == ["b.jpg"]
    assert [path for path, _, _ in web.requests] == ["/val/", "/val/a/", "/val/"]


def test_servers_without_an_end(web: webs.Web, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnePage(dict[str, bytes]):
        """The same page for each URL."""

        def get(self, path: str, default: object = None) -> Any:
            return page("a.jpg", "x/", "y/")

    web.files = OnePage()
    monkeypatch.setattr(f"{LISTING}.MAX_DEPTH", 10)
    words = "more than 10 folders within each other; name a smaller folder"
    with pytest.raises(SourceError, match=f"/val/(y/){{10}}: {words}"):
        below(web)
    assert len(web.requests) == 11
    monkeypatch.setattr(f"{LISTING}.MAX_FOLDERS", 5)
    with pytest.raises(SourceError, match="more than 5 folders; name a smaller folder"):
        below(web)
    assert len(web.requests) == 11 + 5


@pytest.mark.parametrize(
    ("bound", "reached", "words"),
    [
        ("MAX_LINKS", 9, "more than 8 links"),
        ("MAX_LINKS_CHARS", 9 * 5, "links of more than 44 characters in all"),
        ("MAX_PAGE_BYTES", 9 * 22 + 30, "a page of more than 227 bytes"),
        ("MAX_OPEN_CHARS", 30, "a tag or a script of more than 29 characters"),
    ],
)
def test_bounds(
    web: webs.Web, monkeypatch: pytest.MonkeyPatch, bound: str, reached: int, words: str
) -> None:
    names = [f"{i}.jpg" for i in range(9)]
    web.files["/val/"] = page(*names) + b"<a class='" + b"x" * 20
    monkeypatch.setattr(f"{LISTING}.{bound}", reached)
    assert below(web) == names
    monkeypatch.setattr(f"{LISTING}.{bound}", reached - 1)
    with pytest.raises(SourceError, match=f"/val/: {words}; name a smaller folder"):
        below(web)


def test_urls_of_pages_cannot_be_long() -> None:
    """Each link of a page would cost time and memory for them."""
    words = "a URL of more than 8,192 characters"
    with pytest.raises(OSError, match=words):
        links_of("", f"http://h/{'x' * 9000}/")
    with pytest.raises(OSError, match=words):
        links_of(f"<base href='/{'x' * 9000}/'>")
    assert len(links_of(f"<a href='{'x' * 8192}'>")) == 1
    with pytest.raises(OSError, match=words):
        links_of(f"<a href='{'x' * 8193}'>")
    text = f"<base href='{'x' * 8000}/'>" + "".join(f"<a href={i}>" for i in range(200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{LISTING}.MAX_LINKS_CHARS", 1_000_000)
        with pytest.raises(OSError, match="links of more than 1,000,000 characters in all"):
            links_of(text)


@pytest.mark.parametrize(
    ("data", "headers", "words"),
    [
        (b"x", {"content_encoding": "gzip"}, "the server compresses its page"),
        (b"x", {"content_length": "2"}, "the answer ended at byte 1"),
    ],
)
def test_pages_that_cannot_be_read(data: bytes, headers: dict[str, str], words: str) -> None:
    with pytest.raises(OSError, match=words):
        links_of(data, **headers)


def test_a_page_that_is_no_html() -> None:
    """Some versions of Python's parser refuse it, others pass over it."""
    with suppress(OSError):
        assert links_of("<a href='a.jpg'><![x[ ]]>") == ["a.jpg"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="page is no HTML"):
        patch.setattr("html.parser.HTMLParser.feed", _refuse)
        links_of("x")


def _refuse(parser: object, text: str) -> None:
    raise AssertionError


@pytest.mark.parametrize("fault", [503, ("cut", 20), ("cut", 0), "gone", ("chunks", 1)])
def test_requests_are_repeated(web: webs.Web, fault: Any) -> None:
    web.files = {"/val/": page("a.jpg", "b/"), "/val/b/": page("c.jpg", "d.jpg")}
    web.faults.extend([fault, None, fault])
    assert below(web) == ["a.jpg", "b/c.jpg", "b/d.jpg"]
    assert len(web.requests) == 4


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (404, r"not found \(HTTP status 404\)"),
        (403, r"permission denied \(HTTP status 403\)"),
        (204, "HTTP status 204"),
        (("to", "ftp://x/"), "a URL of no web server"),
        (("to", "/val/"), "more than 8 redirections"),
    ],
)
def test_errors_name_the_folder(web: webs.Web, fault: Any, words: str) -> None:
    """Also one below the source: its images would be missing without a message."""
    web.files = {"/val/": page("a.jpg", "b/"), "/val/b/": page("c.jpg")}
    for before, where in (([], "/val/"), ([None], "/val/b/")):
        web.faults.extend([*before, *[fault] * 9])
        with pytest.raises(SourceError, match=f"^{web.url}{where}: {words}$"):
            below(web, "/val/?sig=secret")
        web.faults.clear()


# ---- with fsspec: slow tests ---------------------------------------------------

NAMES = ["a.jpg", "httpbin.jpg", "https_example_com_cat.jpg", "it's.jpg", "cat & dog.jpg"]
NAMES += ["<b>.jpg", '"q".jpg', "a;b=c,d+e.jpg", "x&amp;y.jpg", "http:/z.jpg", "https_dir/q.jpg"]
NAMES += [".git/h.jpg", ".git/objects/i.jpg", "https_dir/.x/j.jpg", "notes.txt"]


def _apache(root: Path) -> dict[str, bytes]:
    """The pages of Apache's mod_autoindex for a folder, and the files."""
    files = {}
    for path in (root, *root.rglob("*")):
        below = "/" + os.fspath(path.relative_to(root)).removeprefix(".")
        if path.is_file():
            files[below] = path.read_bytes()
            continue
        names = [entry.name + "/" * entry.is_dir() for entry in path.iterdir()]
        links = ["?C=N;O=D", "?C=M;O=A", "/", *("./" * (":" in name) + name for name in names)]
        files[below.rstrip("/") + "/"] = page(*(link.replace('"', "%22") for link in links))
    return files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in NAMES:
        folder, _, file = name.rpartition("/")
        folders.write(root / folder, {file: name.encode()})
    return root


@pytest.mark.slow
@pytest.mark.parametrize("program", ["nginx", "python", "apache"])
def test_a_folder_has_all_its_images(root: Path, tmp_path: Path, program: str) -> None:
    """Names that begin with http, and those that HTML or URLs encode."""
    serving: Any = {
        "nginx": partial(nginx.serving, root, tmp_path / "nginx"),
        "python": partial(webs.python_serving, root),
        "apache": partial(webs.serving, _apache(root)),
    }[program]
    with (
        serving() as server,
        open_source(root) as expected,
        open_source(f"{getattr(server, 'url', server)}/") as source,
    ):
        assert [item.name for item in source.items] == [item.name for item in expected.items]
        assert list(map(source.read, source.items)) == list(map(expected.read, expected.items))
        hidden = 2 * (program == "nginx")  # which lists no hidden folders
        assert len(source.skipped) == len(expected.skipped) - hidden == 3 - hidden


class _Recording(webs._Handler):
    """Records a header that the user has set."""

    def do_GET(self) -> None:
        tokens.append((self.server.url, self.headers.get("X-Token", "")))
        super().do_GET()


tokens: list[tuple[str, str]] = []


@pytest.mark.slow
@pytest.mark.parametrize("where", ["/val/", "/val/*.tar"])
def test_headers_go_to_the_host_of_the_url_alone(
    web: webs.Web, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    import fsspec

    monkeypatch.setitem(fsspec.config.conf, "http", {"headers": {"X-Token": "hidden"}})
    tokens.clear()
    with webs.serving({"/val/": page("a.jpg", "a.tar"), "/val/a.jpg": b"x"}) as other:
        web.RequestHandlerClass = other.RequestHandlerClass = _Recording
        web.faults.extend(("to", f"{other.url}{path}") for path in ("/val/", "/val/a.jpg"))
        store = Store(web.url.replace("//", "//me:passw0rd@") + where)
        if "*" in where:
            assert [store.shown(url) for url in store.glob(store.key)] == [f"{web.url}/val/a.tar"]
        else:
            file, _ = store.find(store.key)
            with Requests(store) as requests:
                assert requests.read_whole(file, 9) == b"x"
        assert set(tokens) == {(web.url, "hidden"), (other.url, "")}
        assert all(authorization for _, _, authorization in web.requests)
        assert not any(authorization for _, _, authorization in other.requests)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["/val/", "/val", "/val/*.tar", "/**/*.tar"])
def test_a_server_that_never_answers(
    web: webs.Web, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(f"{HTTP}.SILENT_SECONDS", 0.05)
    monkeypatch.setattr(f"{STORES}.FIRST_DELAY", 0.001)
    web.faults.extend(["hang"] * ATTEMPTS)
    with pytest.raises(SourceError, match=f"no answer in time, {ATTEMPTS} times"):
        open_source(web.url + where)
    assert len(web.requests) == ATTEMPTS


PATTERNS = ["*", "*.tar", "shard-*.tar", "shard-[0-1].tar", "[!s]*", "d/*", "d/*.tar", "*/*"]
PATTERNS += ["*/*.tar", "**", "**/*.tar", "d/**/*.tar", "d/**/f/*.tar", "*/**", "d*/e/**/x.tar"]
PATTERNS += ["*/", "gone*", "[", "shard-?.*", "**/", "d/*/f/*", "b%20c/*", "*%20c/*", "z-a]*"]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_in_fsspec(tmp_path: Path, pattern: str) -> None:
    names = ["shard-0.tar", "shard-1.tar", "shard-2.tar", "x.tar", "notes.txt", "d/shard-0.tar"]
    names += ["d/e/x.tar", "d/e/f/x.tar", "d/e/f/y.txt", "b c/a.tar"]
    for name in names:
        folder, _, file = name.rpartition("/")
        folders.write(tmp_path / "root" / folder, {file: b"x"})
    with nginx.serving(tmp_path / "root", tmp_path / "nginx") as url:
        store = Store(f"{url}/{pattern}")
        files = {f"{url}/{name.replace(' ', '%20')}" for name in names}
        # Versions of fsspec differ in which folders match.
        assert files & set(store.glob(store.key)) == files & set(store.fs.glob(store.key))
        with pytest.raises(SourceError, match=r"/\*: several files are a source only if all"):
            open_source(f"{url}/*")  # a folder is one of them


@pytest.mark.slow
def test_patterns_of_names_that_are_encoded(web: webs.Web) -> None:
    web.files["/a b/"] = page("c%20%C3%A9.tar", "c d.tar", "x/")
    for pattern in ("/a b/c *.tar", "/a%20b/c %C3%A9.tar*", "/a b/c é*"):
        store = Store(web.url + pattern)
        names = [os.path.basename(store.name(url)) for url in store.glob(store.key)]
        assert names == ["c d.tar", "c é.tar"] if pattern.endswith("*.tar") else ["c é.tar"]
    assert not any("/x/" in path for path, _, _ in web.requests)  # no pattern needs it
    with pytest.raises(SourceError, match=r"/a\*\*: .* can only be an entire path component"):
        store.glob(f"{web.url}/a**")
    with pytest.raises(SourceError, match=r"/gone/: not found \(HTTP status 404\)"):
        open_source(f"{web.url}/gone/*.tar")


@pytest.mark.slow
def test_options_of_aiohttp_leave_the_listing_to_fsspec(
    web: webs.Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    web.files = {"/val/": page("a.jpg", "b.tar"), "/val/a.jpg": b"x"}
    monkeypatch.setitem(fsspec.config.conf, "http", {"ssl": False})
    store = Store(f"{web.url}/val/")
    assert not store.is_plain_http
    monkeypatch.setattr(f"{STORES}.read_page", lambda *arguments: 1 / 0)
    keys = [file.key for file in store.find(store.key)]
    assert keys == [f"{web.url}/val/a.jpg", f"{web.url}/val/b.tar"]
    assert store.glob(f"{web.url}/val/*.tar") == [f"{web.url}/val/b.tar"]


@pytest.mark.slow
def test_the_brackets_of_an_ipv6_address_are_no_pattern() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    files = {"/val/": page("a.jpg", "b.jpg"), "/val/a.jpg": b"", "/val/b.jpg": b""}
    with webs.serving(files, is_ipv6=True) as web:
        for url, names in ((f"{web.url}/val/", ["a", "b"]), (f"{web.url}/val/[b-c].jpg", ["b"])):
            store = Store(url)
            keys = remote._expand(store) or [file.key for file in store.find(store.key)]
            assert [Path(key).stem for key in keys] == names
