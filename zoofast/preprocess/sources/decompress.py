"""Compressed files, read forwards, in memory that does not grow with what they hold."""

from __future__ import annotations

import bz2
import errno
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

from zoofast.base.extras import needs
from zoofast.errors import SourceError
from zoofast.preprocess.sources.fetch_errors import FetchError
from zoofast.preprocess.sources.tar_headers import Pread

CHUNK = 1 << 17  # bytes that are read, and decompressed, at once
# Of what a decompressor keeps. `xz -9` needs 65 MB; zstd's own limit for streams is 128 MiB.
MAX_WINDOW_BYTES = 1 << 28
# RFC 8878: the magic number's bytes, its last three of a frame that is skipped, and the type of a
# block that repeats one byte.
_ZSTD_MAGIC_BYTES, _ZSTD_SKIPPABLE, _ZSTD_RUN = 4, b"\x2a\x4d\x18", 1
_GZIP = 16 + zlib.MAX_WBITS  # zlib reads gzip's header, and checks its sums


class _Decompressor(Protocol):
    """What bz2 and lzma have."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's decompressor, with the methods of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(_GZIP)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


class _File:
    """Reads a file from its begin on."""

    def __init__(self, pread: Pread) -> None:
        self._pread, self._at = pread, 0

    def read(self, size: int = CHUNK) -> bytes:
        data = self._pread(self._at, size)
        self._at += len(data)
        return data


class _Streams:
    """The contents of a file's compressed streams, one after the other."""

    def __init__(self, file: _File, new: Callable[[], _Decompressor]) -> None:
        self._file, self._new = file, new
        self._stream = new()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none only at the end."""
        data = b""
        while True:
            if self._stream.eof:
                data = self._stream.unused_data.lstrip(b"\0")  # zeros may follow a stream
                while not data:
                    more = self._file.read()
                    if not more:
                        return b""
                    data = more.lstrip(b"\0")
                self._stream = self._new()
            content = self._stream.decompress(data, size)
            if content:
                return content
            if not self._stream.eof:
                data = self._file.read()
                if not data:
                    raise EOFError("it ends too early")


class _Frames:
    """Reads a file of zstd's frames, and follows where they end: RFC 8878, 3.1."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._skipped = 0  # bytes that are not looked at before the next header
        self._header, self._wanted = b"", _ZSTD_MAGIC_BYTES  # of the header, so far and in all
        self._is_block = False  # whether it is a block's header; else a frame's
        self._sum_bytes = 0  # behind the last block

    @property
    def is_between(self) -> bool:
        """Whether what was read ends with a whole frame, or is nothing."""
        return not (self._skipped or self._header or self._is_block)

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        at = 0
        while at < len(data):
            if self._skipped:
                count = min(self._skipped, len(data) - at)
                self._skipped -= count
            else:
                count = min(self._wanted - len(self._header), len(data) - at)
                self._header += data[at : at + count]
                if len(self._header) == self._wanted:
                    self._follow()
            at += count
        return data

    def _follow(self) -> None:
        """Sets what comes behind the header. What is no header, the decompressor refuses."""
        header, number = self._header, int.from_bytes(self._header, "little")
        if self._is_block:
            is_last, kind, nbytes = number & 1, number >> 1 & 3, number >> 3
            self._skipped = 1 if kind == _ZSTD_RUN else nbytes
            if not is_last:
                self._expect(3, is_block=True)
            else:
                self._skipped += self._sum_bytes
                self._expect(_ZSTD_MAGIC_BYTES)
        elif len(header) == _ZSTD_MAGIC_BYTES:
            self._wanted = 8 if header[1:] == _ZSTD_SKIPPABLE else 5
        elif len(header) == 8:
            self._skipped = int.from_bytes(header[4:], "little")
            self._expect(_ZSTD_MAGIC_BYTES)
        else:
            flags = header[4]
            is_single = flags >> 5 & 1  # then no size of a window
            size_bytes = (is_single, 2, 4, 8)[flags >> 6]
            self._skipped = (1 - is_single) + (0, 1, 2, 4)[flags & 3] + size_bytes
            self._sum_bytes = flags & 4  # four bytes, or none
            self._expect(3, is_block=True)

    def _expect(self, wanted: int, is_block: bool = False) -> None:
        self._header, self._wanted, self._is_block = b"", wanted, is_block


class _Zstd:
    """The contents of a file's frames, one after the other."""

    def __init__(self, file: _File) -> None:
        with needs("remote", SourceError):
            import zstandard
        self._error: type[Exception] = zstandard.ZstdError
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        self._frames = _Frames(file)
        self._reader = decompressor.stream_reader(
            self._frames, read_size=CHUNK, read_across_frames=True
        )

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none only at the end."""
        try:
            content: bytes = self._reader.read(size)
        except self._error as error:
            raise ValueError(str(error)) from error
        # Where a frame is cut, zstandard gives what came before as if it were all.
        if len(content) < size and not self._frames.is_between:
            raise EOFError("it ends too early")
        return content


class _Reader(Protocol):
    def read(self, size: int) -> bytes: ...


_READERS: dict[str, Callable[[_File], _Reader]] = {
    "tar": lambda file: file,
    "gz": lambda file: _Streams(file, _Gzip),
    "tgz": lambda file: _Streams(file, _Gzip),
    "bz2": lambda file: _Streams(file, bz2.BZ2Decompressor),
    "xz": lambda file: _Streams(
        file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW_BYTES)
    ),
    "zst": _Zstd,
}


class Forward:
    """The bytes of a tar, which may be compressed, read forwards.

    pread: reads the file. path: its name, whose end says how it is compressed. close: ends what
    `pread` has open. Raises OSError for a damaged file, with `path` as its file name; SourceError
    for a package that is missing.
    """

    def __init__(self, pread: Pread, path: str, close: Callable[[], None] = lambda: None) -> None:
        self.close = close
        self._path = path
        self._reader = _READERS[path.rpartition(".")[2].lower()](_File(pread))
        self._start, self._data = 0, b""  # what was read last, and its offset

    def pread(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on, fewer only at the end of the file.

        A later call may begin at `offset - 1` or behind it. After a call with a size of more than
        CHUNK, it may begin at the last byte of that call or behind it.
        """
        begin = offset - self._start
        if begin < 0:
            raise ValueError(f"byte {offset} is needed again, after later ones")
        while begin > len(self._data):
            begin -= len(self._data)
            self._start += len(self._data)
            self._data = self._read()
            if not self._data:
                return b""
        parts, missing = [self._data[begin:]], begin + size - len(self._data)
        while missing > 0 and (part := self._read()):
            parts.append(part)
            missing -= len(part)
        content = b"".join(parts)
        if size <= CHUNK:
            before = self._data[max(0, begin - 1) : begin]
            self._start, self._data = offset - len(before), before + content
        else:
            self._start, self._data = offset + len(content) - len(parts[-1]), parts[-1]
        return content[:size]

    def drain(self, max_bytes: int) -> None:
        """Reads up to `max_bytes` more bytes, so that sums at the end of the file are checked."""
        while max_bytes > 0 and (data := self._read()):
            max_bytes -= len(data)

    def _read(self) -> bytes:
        try:
            return self._reader.read(CHUNK)
        except FetchError as error:
            raise OSError(error.errno, error.strerror, self._path) from None
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            reason = getattr(error, "strerror", None) or str(error)  # errors of bz2 have no errno
            raise OSError(errno.EIO, f"cannot be decompressed: {reason}", self._path) from error
