"""A file in a store, and the errors of requests for it, whose texts hold no secrets."""

from __future__ import annotations

import errno
import http.client
import socket
from dataclasses import dataclass, field

from zoofast.base.provenance import sha256
from zoofast.base.urls import redacted
from zoofast.preprocess.sources.fetch_errors import FetchError, changed

_TRANSIENT_STATUS = (408, 425, 429)  # and all from 500 on


@dataclass(frozen=True)
class StoredFile:
    """A file in a store. key: for fsspec; it may hold secrets. shown: its URL without them.

    nbytes: None if not known. version: of its content, such as its ETag; "" if not known.
    has_ranges: the server sends parts of it, as far as is known. identity: tells it from all other
    files of all stores; it may hold secrets. is_settled: another content would have another
    version. Servers tell times of modification in seconds, and make an ETag of it: a file that is
    written twice in a second may have one version.
    """

    key: str = field(repr=False)
    shown: str
    nbytes: int | None
    version: str = ""
    has_ranges: bool = True
    identity: str = field(default="", repr=False)
    is_settled: bool = True


def file_stamp(file: StoredFile) -> bytes | None:
    """What the file's content is known by; None where the store tells no version of it."""
    if not file.version or file.nbytes is None or not file.is_settled:
        return None
    text = f"{file.identity}\0{file.nbytes}\0{file.version}"
    return sha256(text.encode("utf-8", "surrogateescape")).encode()


def check_version(file: StoredFile, version: str) -> None:
    """Raises FetchError for another version than the listed one."""
    if file.version and version and version != file.version:
        raise changed("it has another ETag or time")


def status_error(status: int) -> FetchError:
    """The error of an answer of HTTP."""
    if status in (404, 410):
        return FetchError(errno.ENOENT, f"not found (HTTP status {status})")
    if status in (401, 403):
        return FetchError(errno.EACCES, f"permission denied (HTTP status {status})")
    if status == 416:
        return changed("it has fewer bytes now")
    is_transient = status >= 500 or status in _TRANSIENT_STATUS
    return FetchError(errno.EIO, f"HTTP status {status}", is_transient)


def fetch_error(error: Exception) -> FetchError:
    """What an error of fsspec, of a package under it, or of a connection means."""
    if isinstance(error, FetchError):
        return error
    status = getattr(error, "status", None)  # of aiohttp
    if status is None:  # of requests and of what is like it
        status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int) and 400 <= status < 600:
        return status_error(status)
    if isinstance(error, FileNotFoundError):
        return FetchError(errno.ENOENT, "not found")
    if isinstance(error, PermissionError):
        return FetchError(errno.EACCES, "permission denied")
    if "Timeout" in type(error).__name__:  # asyncio has its own before Python 3.11
        return FetchError(errno.ETIMEDOUT, "no answer in time", True)
    if isinstance(error, (ConnectionError, http.client.HTTPException)):
        return FetchError(errno.EIO, "the connection was cut or refused", True)
    if isinstance(error, socket.gaierror):
        return FetchError(errno.EIO, "the host's address was not found", True)
    is_final = "Credential" in type(error).__name__ or isinstance(
        error, (ImportError, NotImplementedError, ValueError, TypeError)
    )
    return FetchError(errno.EIO, described(error), not is_final)


def described(error: Exception) -> str:
    """The error's type and text, in one line."""
    text = redacted(str(error)).partition("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
