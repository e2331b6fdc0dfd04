"""Why the bytes of an image cannot be had, where Python reads them."""

from __future__ import annotations

import errno


class FetchError(OSError):
    """A request that failed. is_transient: it may succeed later."""

    def __init__(self, code: int, reason: str, is_transient: bool = False) -> None:
        super().__init__(code, reason)
        self.is_transient = is_transient


def too_large(max_bytes: int) -> FetchError:
    return FetchError(errno.EFBIG, f"larger than {max_bytes:,} bytes")


def no_ranges() -> FetchError:
    return FetchError(errno.ENOTSUP, "the server sends no ranges of it; copy it to a disk")


def changed(how: str) -> FetchError:
    return FetchError(errno.ESTALE, f"it changed after it was listed: {how}")
