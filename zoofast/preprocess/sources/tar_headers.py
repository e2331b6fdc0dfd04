"""The members of a tar, from its headers.

Python's tarfile decides what a tar holds. For it, a header that it cannot read ends the tar; here
that is an error. tarfile takes 20 µs a member, so this module reads the usual headers itself:
regular files, folders and links; long names of GNU; names and sizes of pax. From the first header
of another kind on (sparse, damaged, with odd numbers, at the end of the file), tarfile reads the
rest of the tar.

https://www.gnu.org/software/tar/manual/html_node/Standard.html
https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html
"""

from __future__ import annotations

import io
import re
import struct
import tarfile
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple
from zlib import adler32

MAX_HEADER_BYTES = 1 << 20  # of a long name, or of the pax attributes of a member
BLOCK = tarfile.BLOCKSIZE

# Reads up to `size` bytes from `offset` on, fewer only at the end of the file: (offset, size).
Pread = Callable[[int, int], bytes]


class Member(NamedTuple):
    """A member that is no folder. regular: a file, whose bytes lie in the tar as they are."""

    name: str
    offset: int  # of its first byte
    nbytes: int
    regular: bool


def list_members(pread: Pread, near: int = 4096) -> Iterator[Member]:
    """The members of the tar that `pread` reads, in their order, without the folders.

    near: bytes that are read at once where a header lies, since the next one may be near. What is
    read at once is never more than MAX_HEADER_BYTES, and never before the last header. Raises what
    tarfile raises for damaged tars (TarError, ValueError, ArithmeticError, LookupError,
    RecursionError), and what `pread` raises.
    """
    rest = yield from _Headers(pread, near).members()
    if rest is not None:
        yield from _members_by_tarfile(pread, rest)


_ZEROS = bytes(BLOCK)  # ends a tar
# name; mode, uid, gid, size, time, checksum; type; linked name, magic, version, user and group;
# major and minor number of a device; prefix of the name
_FIELDS = struct.Struct("100s56sc172s16s155s12x")
_NUMBERS = struct.Struct("8s8s8s12s12s8s8s8s")
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
# How tar programs write the numbers, and those of a device for what is none.
_USUAL_NUMBERS = re.compile(
    rb"(?:[0-7]{7}\0|[0-7]{6} \0){3}([0-7]{11})[ \0][0-7]{11}[ \0]([0-7]{6})\0 "
)
_NO_DEVICE = (bytes(16), b"0000000\0" * 2, b"000000 \0" * 2)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_BEFORE_A_MEMBER = (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE)
_KNOWN = frozenset((*_FILES, *_LINKS, tarfile.DIRTYPE, *_BEFORE_A_MEMBER))
_MAX_NBYTES = 1 << 60  # of a member; no file is as large


class _OddError(Exception):
    """A header that only tarfile reads."""


class _Headers:
    """Reads the usual headers. Where tarfile might see anything else, it raises _OddError."""

    def __init__(self, pread: Pread, near: int) -> None:
        self._pread, self._near = pread, near
        self._start, self._data = 0, b""  # what was read last

    def members(self) -> Generator[Member, None, int | None]:
        """Returns the offset of the first header that only tarfile reads; None after the end."""
        at = 0
        while True:
            try:
                block = self._read(at, BLOCK)
                if block == _ZEROS:
                    return None
                member, end = self._member(at, block)
            except _OddError:
                return at
            if member is not None:
                yield member
            at = end

    def _read(self, offset: int, size: int) -> bytes:
        begin = offset - self._start
        if begin + size > len(self._data):
            self._start, self._data = offset, self._pread(offset, max(size, self._near))
            begin = 0
        return self._data[begin : begin + size]

    def _member(self, at: int, block: bytes) -> tuple[Member | None, int]:
        """The member whose headers begin with `block` at `at`, and where the next headers begin.

        None for a folder.
        """
        kind, name, nbytes = _parse(block)
        at += BLOCK
        long_name = pax_nbytes = None
        if kind in _BEFORE_A_MEMBER:
            size = _whole_blocks(nbytes)
            content = self._read(at, size) if size <= MAX_HEADER_BYTES else b""
            if len(content) < size:
                raise _OddError
            if kind == tarfile.XHDTYPE:
                long_name, pax_nbytes = _pax(content)
            else:
                long_name = _text(content)
            kind, name, nbytes = _parse(self._read(at + size, BLOCK))
            at += size + BLOCK
            if kind in _BEFORE_A_MEMBER:
                raise _OddError
        if kind == tarfile.DIRTYPE:
            return None, at
        if long_name is not None:
            name = long_name
        if pax_nbytes is not None:
            nbytes = pax_nbytes
        regular = kind in _FILES
        return Member(name, at, nbytes, regular), at + (_whole_blocks(nbytes) if regular else 0)


def _parse(block: bytes) -> tuple[bytes, str, int]:
    """Type, name and size in a header."""
    if len(block) < BLOCK:
        raise _OddError
    name, numbers, kind, _, device, prefix = _FIELDS.unpack(block)
    usual = _USUAL_NUMBERS.fullmatch(numbers)
    if usual is not None and device in _NO_DEVICE:
        nbytes, checksum = int(usual[1], 8), int(usual[2], 8)
    else:
        # tarfile refuses a header with a number that is none, also where the number is not used.
        values = [_number(field) for field in _NUMBERS.unpack(numbers + device)]
        nbytes, checksum = values[3], values[5]
    # Each Adler sum is 1 + the sum of 256 bytes, modulo 65521, which is more than 1 + 256 * 255.
    # The bytes of the checksum itself count as spaces.
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    if checksum != total - sum(numbers[-8:]) + 8 * ord(" ") or kind not in _KNOWN:
        raise _OddError
    if nbytes > _MAX_NBYTES:
        raise _OddError
    text = _text(name)
    if kind == tarfile.AREGTYPE and text.endswith("/"):
        kind = tarfile.DIRTYPE  # of the oldest tars
    if prefix[0]:
        text = f"{_text(prefix)}/{text}"
    return kind, text, nbytes


def _number(field: bytes) -> int:
    """The number in a field of a header: octal digits, or 0x80 and a number of base 256."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise _OddError
    return int(match[1] or b"0", 8)


def _text(field: bytes) -> str:
    """The text up to the first null byte."""
    return field.partition(b"\0")[0].decode(tarfile.ENCODING, "surrogateescape")


def _whole_blocks(nbytes: int) -> int:
    return (nbytes + BLOCK - 1) // BLOCK * BLOCK


def _pax(content: bytes) -> tuple[str | None, int | None]:
    """The path and the size in pax attributes, lines `LENGTH KEY=VALUE`; None if not given."""
    if b"hdrcharset" in content or b"GNU.sparse" in content:
        raise _OddError
    path = size = None
    at = 0
    while at < len(content) and content[at]:
        space = content.find(b" ", at, at + 8)
        length = content[at:space] if space > 0 else b""
        if not length.isdigit():
            raise _OddError
        end = at + int(length)
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if not (key and equals) or content[end - 1 : end] != b"\n":
            raise _OddError
        try:
            if key == b"path":
                path = value.decode("utf-8").rstrip("/")
            elif key == b"size":
                if not (value.isdigit() and len(value) < 18):
                    raise _OddError
                size = int(value)
        except UnicodeDecodeError:
            raise _OddError from None
        at = end
    return path, size


class _File(io.RawIOBase):
    """A tar for tarfile to list: a header that claims to be large is not read into memory."""

    def __init__(self, pread: Pread, at: int) -> None:
        self._pread, self._at = pread, at

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self._pread(self._at, size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if not 0 <= offset < 1 << 63:
            raise tarfile.ReadError(f"a member that ends at byte {offset}")
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at


def _members_by_tarfile(pread: Pread, at: int) -> Iterator[Member]:
    """The members of a tar whose headers from the offset `at` on are not read yet."""
    # tarfile makes this check before it reads a header, but for the first one.
    if at and not pread(at - 1, 1):
        raise tarfile.ReadError("unexpected end of data")
    last = -1
    tar: Any
    with tarfile.open(fileobj=_File(pread, at), mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # a tar of a million members would need gigabytes
            if member.offset_data <= last:
                raise tarfile.ReadError("a member that begins before the last one")
            last = member.offset_data
            if not member.isdir():
                regular = member.isreg() and not member.issparse()
                yield Member(member.name, member.offset_data, member.size, regular)
        # For tarfile, a header that it cannot read ends a tar, though members may follow it.
        if pread(tar.offset, BLOCK).strip(b"\0"):
            raise tarfile.ReadError(f"the header at byte {tar.offset:,} is damaged or cut off")
