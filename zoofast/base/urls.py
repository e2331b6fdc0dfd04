"""URLs: what is one, and how it is shown without the secrets that it may hold."""

from __future__ import annotations

import re

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
_URL = re.compile(rf"(?:{_SCHEME}::)*{_SCHEME}://")
# Between the URLs of a chain; an IPv6 address has such colons, too.
_LINK = re.compile(rf"::(?={_SCHEME}(?:::|://))")
_ITS_SCHEME = re.compile(rf"(?:^|(?<=::)){_SCHEME}(?=::|://)")
_IN_TEXT = re.compile(rf"{_SCHEME}://[^\s'\"<>]*")


def is_url(text: str) -> bool:
    """Whether `text` is a URL and no path, such as s3://bucket/val or https://host/val.tar."""
    return _URL.match(text) is not None


def with_lower_schemes(url: str) -> str:
    """The URL with its scheme, and those of a chain's links, in lower case: HTTP:// is http://."""
    return _ITS_SCHEME.sub(lambda match: match[0].lower(), url)


def shown(url: str) -> str:
    """The URL without user, password, query and fragment. A path is returned as it is.

    A signed URL has its signature in the query. Outside HTTP, a "?" before no "=" is a pattern's.
    """
    if not is_url(url):
        return url
    return "::".join(map(_shown_link, links(url)))


def links(url: str) -> list[str]:
    """The URLs of a chain, such as zip://*.jpg::https://host/a.zip; of any other URL, itself."""
    return _LINK.split(url)


def redacted(text: str) -> str:
    """A text, such as a library's message or an argument, with each URL in it as `shown`."""
    if is_url(text) and not any(char.isspace() for char in text):
        return shown(text)
    return _IN_TEXT.sub(lambda match: shown(match[0]), text)


def _shown_link(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    query = rest.find("?")
    if query >= 0 and (scheme.lower() in ("http", "https") or "=" in rest[query:]):
        rest = rest[:query]
    if scheme.lower() in ("http", "https"):
        rest = rest.partition("#")[0]
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2]
    if host != authority:
        return scheme + separator + host + slash + path
    _, colon, port = authority.partition(":")
    if colon and port and not port.isdigit() and "@" in path and not host.startswith("["):
        return scheme + separator + path.rpartition("@")[2]  # a password with a slash
    return scheme + separator + rest
