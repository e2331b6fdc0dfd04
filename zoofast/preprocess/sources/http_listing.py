"""Folders over HTTP: the links of the pages that a web server makes of its folders.

fsspec finds links by a regular expression, which misses some names, and sends its headers to any
host that a redirection leads to. Pages come from strangers: a link counts only if it leads below
its page, and all that a page can make grow has a bound.
"""

from __future__ import annotations

import codecs
import errno
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import SplitResult, unquote_to_bytes, urljoin, urlsplit

from zoofast.base.urls import shown
from zoofast.errors import SourceError
from zoofast.preprocess.sources.fetch_errors import FetchError
from zoofast.preprocess.sources.http import (
    PIECE_BYTES,
    HttpClient,
    described_by,
    is_same_server,
)
from zoofast.preprocess.sources.stored import StoredFile, status_error

MAX_FOLDERS = 100_000  # whose pages are fetched
MAX_DEPTH = 100  # of folders in folders: a server may send one page for all its URLs
MAX_LINKS = 10_000_000
MAX_URL_CHARS = 8192  # servers refuse longer ones
MAX_LINKS_CHARS = 1 << 30  # of all links
MAX_PAGE_BYTES = 1 << 28
MAX_OPEN_CHARS = 1 << 22  # of a tag, a comment or a script that has not ended

_SPACE = " \t\r\n\f"  # of HTML
# Python's other encodings are not for pages, and some take quadratic time.
_CHARSET = re.compile(r"iso-8859-\d+|windows-\d+|gb\w+|big5|shift_jis|euc-\w+", re.ASCII | re.I)
_IN_CONTENT_TYPE = re.compile(r";\s*charset\s*=\s*[\"']?([^\s\"';]+)", re.IGNORECASE)
_DOTS = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_WILD = re.compile(r"[*[]")
_NO_UTF8 = re.compile("[\udc80-\udcff]")  # what Python has for such bytes


class Page(NamedTuple):
    """url: where redirections led to. links: what is below it, as a path that is relative to it;
    that of a folder ends with a slash. A file's may have a query."""

    url: str
    links: Iterable[str]


def files_below(read: Callable[[str], Page], url: str) -> list[str]:
    """The URLs of all files below a folder. A hidden folder counts as a file: what is in it is not
    listed. read: gives the page of a URL. Raises SourceError."""
    paths = _walk(read, url, enters=lambda folder: not _is_hidden(folder))
    root = _folder_url(url)
    return [root + path for path in paths if not _is_folder(path) or _is_hidden(path)]


def matching(read: Callable[[str], Page], pattern: str) -> list[str]:
    """The URLs of the files and folders that match a pattern, by fsspec's rules, in which a "?" is
    one of any characters. read: as in files_below. Raises SourceError."""
    from fsspec.utils import glob_translate

    host_end = pattern.index("/", pattern.index("://") + 3)  # "[" may be of an IPv6 address
    start = host_end + _WILD.split(pattern[host_end:], maxsplit=1)[0].rfind("/") + 1
    folder, names = _folder_url(pattern[:start]), pattern[start:]
    try:
        matches = re.compile(glob_translate(names)).match
    except ValueError as error:
        raise SourceError(f"{shown(pattern)}: {error}") from None
    # What "**" stands for has any number of folders.
    depth = None if "**" in names else names.count("/") + 1
    paths = [path.rstrip("/") for path in _walk(read, folder, depth)]
    # The user may write a name as the server does, or as the file is called.
    return [folder + path for path in paths if matches(path) or matches(decoded(path))]


def _walk(
    read: Callable[[str], Page],
    url: str,
    depth: int | None = None,
    enters: Callable[[str], bool] = lambda folder: True,
) -> list[str]:
    """The paths of all files and folders below a folder, relative to _folder_url(url).

    depth: of the files, where 1 is the folder's own ones; None for any. enters: whether what is
    below a folder is listed. Raises SourceError.
    """
    root, paths = _folder_url(url), _Links()
    folders, nfolders = [""], 0
    pages: set[str] = set()
    while folders:
        folder = folders.pop()
        where = root + folder if folder else url
        try:
            nfolders += 1
            if nfolders > MAX_FOLDERS:
                raise _too_much(f"more than {MAX_FOLDERS:,} folders")
            page = read(where)
            if page.url in pages:
                continue  # a redirection to a folder that is listed already
            pages.add(page.url)
            for link in page.links:
                path = folder + link
                if not (paths.add(path) and _is_folder(path) and enters(path)):
                    continue
                level = path.count("/")
                if level > MAX_DEPTH:
                    raise _too_much(f"more than {MAX_DEPTH} folders within each other")
                if depth is None or level < depth:
                    folders.append(path)
        except OSError as error:
            raise SourceError(f"{shown(where)}: {error.strerror}") from None
    return list(paths)


def _folder_url(url: str) -> str:
    """The URL of a folder, to which the links below it are added. It has user and password.

    It is not the URL that a redirection led to: files are fetched from the host that the user
    named, so that no other host gets credentials.
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/"


def _is_folder(link: str) -> bool:
    return link.endswith("/") and "?" not in link


def _is_hidden(link: str) -> bool:
    """Whether it is or lies in a folder whose name begins with a dot."""
    return any(decoded(part).startswith(".") for part in link.split("/")[:-1])


def decoded(path: str) -> str:
    """The path that a URL's path encodes, as os.fsdecode gives it."""
    path_bytes = unquote_to_bytes(path.encode("utf-8", "surrogateescape"))
    # Python's http.server encodes not a byte that is no UTF-8, but the surrogate that Python has
    # for it.
    with suppress(UnicodeError):
        path_bytes = path_bytes.decode("utf-8", "surrogatepass").encode("utf-8", "surrogateescape")
    return path_bytes.decode("utf-8", "surrogateescape")


def without_bytes(url: str) -> str:
    """The URL with those bytes encoded that are no UTF-8."""
    return _NO_UTF8.sub(lambda match: f"%{ord(match[0]) & 0xFF:02X}", url)


def read_page(client: HttpClient, url: str) -> Page:
    """The page of a folder; without links if it is none of HTML.

    Raises OSError; http.client.HTTPException.
    """
    answer, final = client.get_page(url)
    with closing(answer):
        if answer.status != 200:
            raise status_error(answer.status)
        parser = _PageParser(final)
        content_type = answer.header("content-type")
        if content_type.partition(";")[0].strip().lower() not in ("", "text/html"):
            return Page(final, ())
        if answer.header("content-encoding") not in ("", "identity"):
            raise FetchError(errno.EIO, "the server compresses its page, which was not asked for")
        decoder = codecs.getincrementaldecoder(_charset(content_type))("surrogateescape")
        nbytes = 0
        while data := answer.read(PIECE_BYTES):
            nbytes += len(data)
            if nbytes > MAX_PAGE_BYTES:
                raise _too_much(f"a page of more than {MAX_PAGE_BYTES:,} bytes")
            parser.read(decoder.decode(data))
        # http.client does not tell that an answer ended too early.
        total = described_by(answer, StoredFile(url, "", None)).nbytes
        if not answer.header("transfer-encoding") and total not in (None, nbytes):
            raise FetchError(errno.EIO, f"the answer ended at byte {nbytes:,}", True)
    return Page(final, parser.links)


class _PageParser(HTMLParser):
    """Collects the links of a page that lead below it. A base element counts as in a browser."""

    def __init__(self, url: str) -> None:
        super().__init__()
        _check_length(url)  # each link costs time for it
        self.links = _Links()
        self._base = url
        self._has_base = False
        self._page = urlsplit(url)
        self._folder = self._page.path.rstrip("/") + "/"
        self._above = [*map(decoded, self._folder.split("/")[:-1])]

    def read(self, text: str) -> None:
        """The next part of the page's text. The last part needs no other call: it leaves at most a
        tag that has not ended, which is no link."""
        try:
            self.feed(text)
        except AssertionError:  # as of "<![x["
            raise FetchError(errno.EIO, "its page is no HTML") from None
        if len(self.rawdata) > MAX_OPEN_CHARS:  # each part would look at all of it again
            raise _too_much(f"a tag or a script of more than {MAX_OPEN_CHARS:,} characters")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("a", "base"):
            return
        href = next((value for name, value in attrs if name == "href"), None)
        if href is None or (tag == "base" and self._has_base):
            return
        try:
            url = urljoin(self._base, without_bytes(href.strip(_SPACE)))
            if tag == "base":
                _check_length(url)
                self._base, self._has_base = url, True
            elif link := self._below(urlsplit(url)):
                self.links.add(link)
        except ValueError:
            pass  # no URL

    def _below(self, url: SplitResult) -> str:
        """The URL relative to the page; "" if it does not lead below it: to another folder, or to
        the page itself in another order."""
        if url[:2] != self._page[:2] and not is_same_server(url, self._page):
            return ""
        if url.path.startswith(self._folder):
            path = url.path[len(self._folder) :]
        else:  # the same folder may be encoded in another way
            *above, path = url.path.split("/", len(self._above))
            if [*map(decoded, above)] != self._above:
                return ""
        # A server takes the dots for the folder above, also if they are encoded.
        if not path or _DOTS.search(path):
            return ""
        return f"{path}?{url.query}" if url.query else path


class _Links:
    """Links, each once, and no more than memory can hold."""

    def __init__(self) -> None:
        self._links: dict[str, None] = {}
        self._nchars = 0

    def add(self, link: str) -> bool:
        """Whether the link is new. Raises FetchError."""
        if link in self._links:
            return False
        self._links[link] = None
        self._nchars += len(link)
        _check_length(link)
        if len(self._links) > MAX_LINKS:
            raise _too_much(f"more than {MAX_LINKS:,} links")
        if self._nchars > MAX_LINKS_CHARS:
            raise _too_much(f"links of more than {MAX_LINKS_CHARS:,} characters in all")
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._links)


def _check_length(url: str) -> None:
    if len(url) > MAX_URL_CHARS:
        raise _too_much(f"a URL of more than {MAX_URL_CHARS:,} characters")


def _too_much(what: str) -> FetchError:
    return FetchError(errno.EFBIG, f"{what}; name a smaller folder, or tars or a list of files")


def _charset(content_type: str) -> str:
    """Of a page: UTF-8 unless the server names another one."""
    match = _IN_CONTENT_TYPE.search(content_type)
    if match is not None and _CHARSET.fullmatch(match[1]):
        with suppress(LookupError):
            return codecs.lookup(match[1]).name
    return "utf-8"
