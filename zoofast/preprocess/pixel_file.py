"""The 8-bit pixels of many images of one geometry, on disk.

GEOMETRY is the digest of all that decides on an image's pixels. Numbers are little-endian.

GEOMETRY.pixels   slots of one size, a multiple of 4096 bytes. A slot begins with an image's planes
                  of R, G and B, as zf_copy_pixels makes them. Behind the last slot there may be
                  space that is allocated and not used yet.
GEOMETRY.index    4096 bytes of header: MAGIC, the geometry as a line of JSON, zeros. Then a record
                  for each slot, in the slots' order:

                  16 bytes  key: what the image is known by, see Source.cache_key
                  uint64    bytes of the image file, or of the member of an archive
                  int64     the file's time of modification, nanoseconds since 1970; of a member 0
                  uint64    zf_checksum of the pixels
                  4 int32   x, y, width and height of the image in its pixels
                  uint32    0
                  uint32    CRC-32 of the 60 bytes before

A record is written after its slot. A slot whose record is not whole is free. So a process that is
killed, or a machine that loses power, leaves slots that are free, that are intact, or whose pixels
do not match their checksum. Readers always compute the checksum.

One process writes, and holds the lock of GEOMETRY.pixels. Others read what it has stored. The index
gets the current time when it is opened: the geometry that was not used for the longest time is
removed first where the folder's size is limited.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import PIL

from zoofast import _core
from zoofast.base.files import read_file, write_atomic, write_errors
from zoofast.base.lock import InUseError, output_lock
from zoofast.base.parsing import parse_json
from zoofast.base.provenance import sha256
from zoofast.errors import OutputError
from zoofast.preprocess.recipe import FLOAT32_FILTER, Recipe, resize_order

PIXELS, INDEX = ".pixels", ".index"
MAGIC = b"zoofast pixels 1\n"
HEADER_BYTES = 4096
RECORD_BYTES = 64
KEY_BYTES = 16
_FIELDS = struct.Struct("<16sQqQ4iI")
_CRC = struct.Struct("<I")
_OURS = re.compile(r"([0-9a-f]{16})\.(?:pixels|index)")
LIMIT_SLOTS = 64  # so many new slots are allocated at once, after a look at the limits

Place = tuple[int, int, int, int]


def geometry_of(recipe: Recipe) -> dict[str, Any] | None:
    """All that decides on an image's 8-bit pixels; None for a recipe that resizes to floats."""
    if recipe.filter == FLOAT32_FILTER:
        return None
    return {
        "decoder": recipe.decoder,
        "resize": recipe.resize,
        "resize_size": recipe.resize_size,
        "resize_rounding": recipe.resize_rounding,
        "filter": recipe.filter,
        # The last values of a row are computed in another way, and which these are depends on it.
        "channels": recipe.channels if recipe.filter == "cv2-cubic" else "any",
        "crop": recipe.crop,
        "crop_rounding": recipe.crop_rounding if recipe.crop else "any",
        "pad": recipe.pad,
        "pad_position": recipe.pad_position,
        "size": recipe.size,
        "resize_order": resize_order(),
        "pillow": PIL.__version__,
        "zoofast": version("zoofast"),
    }


class Stored(NamedTuple):
    """Where an image's pixels are, and the image file that they were made from."""

    slot: int
    file_nbytes: int
    file_mtime_ns: int
    checksum: int
    place: Place


@dataclass
class _Other:
    """Another geometry of the folder. used: nanoseconds since 1970."""

    digest: str
    nbytes: int = 0
    used: int = 0


class PixelFile:
    """The pixels of one geometry in `folder`, which exists.

    It writes unless another process does, or `problem` says why it cannot. max_bytes: of all files
    of pixels and indexes in the folder. To stay below it, other geometries that no process writes
    to are removed, the least recently used first; `removed` is called with the digest of each. No
    slot is added beyond max_bytes. left_free: likewise, bytes that stay free on the disk; nothing
    is removed for them.
    """

    def __init__(
        self,
        folder: Path,
        geometry: dict[str, Any],
        max_bytes: int | None = None,
        left_free: int = 0,
        removed: Callable[[str], None] = lambda digest: None,
    ) -> None:
        text = json.dumps(geometry, sort_keys=True)
        self.digest = sha256(text.encode())[:16]
        self._header = (MAGIC + text.encode() + b"\n").ljust(HEADER_BYTES, b"\0")
        height, width = geometry["size"]
        self.nbytes = 3 * height * width
        self.slot_nbytes = slot_nbytes(self.nbytes)
        self._folder, self._max_bytes, self._left_free = folder, max_bytes, left_free
        self._removed = removed
        self._pixels, self._index = folder / (self.digest + PIXELS), folder / (self.digest + INDEX)
        self._stack = ExitStack()
        self.fd = self._index_fd = -1
        self._records: dict[bytes, tuple[int, bytes]] = {}  # key -> slot, record
        self._free: list[int] = []  # slots before the last one; the last in the list is first
        self._slots = 0  # used and free ones
        self._limit = 0  # so many slots are known to be within the limits
        self._disk_limit: int | None = None  # of slots
        self._is_full = False
        self.writes = False
        self.problem: str | None = None
        try:
            self._stack.enter_context(output_lock(self._pixels))
            self._open_files(os.O_RDWR | os.O_CREAT)
            self.writes = True
        except InUseError:
            self._open_files(os.O_RDONLY)
        except OutputError as error:
            self.problem = str(error)
            self._open_files(os.O_RDONLY)

    def _open_files(self, flags: int) -> None:
        """With O_CREAT it makes what is missing or has a damaged header, and raises OutputError.
        With O_RDONLY, there may be no files."""
        makes = bool(flags & os.O_CREAT)
        index = _read_index(self._index)
        if not index.startswith(self._header):
            index = self._header
            if makes:
                write_atomic(self._index, index)
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # no link, and no pipe that waits
        try:
            self._index_fd = os.open(self._index, flags, 0o666)
            self.fd = os.open(self._pixels, flags, 0o666)
        except OSError as error:
            self._close_files()
            if makes:
                raise OutputError(f"{self._pixels}: cannot be written: {error.strerror}") from error
            return
        with suppress(OSError):  # on a disk that is only read
            os.utime(self._index_fd)
        for record in split(index):
            if is_whole(record):
                self._records[record[:KEY_BYTES]] = self._slots, record
            else:
                self._free.append(self._slots)
            self._slots += 1
        self._free.reverse()

    def close(self) -> None:
        """Closes the files, and frees the lock. Closing twice is harmless."""
        if self.writes and self.fd >= 0:
            used = self.offset(1 + max((slot for slot, _ in self._records.values()), default=-1))
            with suppress(OSError):
                if os.fstat(self.fd).st_size > used:  # by `allocate`
                    os.ftruncate(self.fd, used)
        self._close_files()
        self._stack.close()

    def _close_files(self) -> None:
        for fd in (self.fd, self._index_fd):
            if fd >= 0:
                with suppress(OSError):  # every write was checked
                    os.close(fd)
        self.fd = self._index_fd = -1

    def find(self, key: bytes) -> Stored | None:
        """What is stored under the key of an image."""
        known = self._records.get(key)
        if known is None:
            return None
        slot, record = known
        _, nbytes, mtime_ns, checksum, x, y, w, h, _ = _FIELDS.unpack_from(record)
        return Stored(slot, nbytes, mtime_ns, checksum, (x, y, w, h))

    def new_slot(self) -> int | None:
        """A free slot; None where another one would exceed the limit. Raises OSError: the folder
        was removed."""
        if self._free:
            return self._free.pop()
        while self._slots >= self._limit and not self._is_full:
            self._limit = min(self._most_slots(), self._slots + LIMIT_SLOTS)
            if self._slots < self._limit:
                new = self._limit - self._slots
                _core.allocate(self.fd, self.offset(self._slots), new * self.slot_nbytes)
            elif not self._make_room():
                self._is_full = True
        if self._is_full:
            return None
        self._slots += 1
        return self._slots - 1

    @property
    def is_disk_left(self) -> bool:
        """Whether the disk, apart from what stays free, has space for another slot."""
        return self._disk_limit is None or self._slots < self._disk_limit

    def free(self, slot: int) -> None:
        """Takes back a new slot whose pixels were not stored."""
        self._free.append(slot)

    def put(self, stored: Mapping[bytes, Stored]) -> None:
        """Records, under the images' keys, that slots hold their pixels. Raises OSError."""
        slots: dict[int, tuple[bytes, bytes]] = {}  # slot -> key, record
        for key, each in stored.items():
            fields = (each.file_nbytes, each.file_mtime_ns, each.checksum, *each.place)
            record = _FIELDS.pack(key, *fields, 0)
            slots[each.slot] = key, record + _CRC.pack(zlib.crc32(record))
        for run in _runs(sorted(slots)):
            data = b"".join(slots[slot][1] for slot in run)
            put = os.pwrite(self._index_fd, data, HEADER_BYTES + run[0] * RECORD_BYTES)
            self._records |= {slots[slot][0]: (slot, slots[slot][1]) for slot in run}
            if put != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def offset(self, slot: int) -> int:
        return slot * self.slot_nbytes

    def _most_slots(self) -> int:
        """How many slots the limits allow. Raises OSError."""
        each = self.slot_nbytes + RECORD_BYTES
        if self._disk_limit is None:
            # Once: later, part of what is to stay free may be in use for what it was left for.
            free = shutil.disk_usage(self._folder).free if self._left_free else 1 << 62
            self._disk_limit = self._slots + max(0, free - self._left_free) // each
        if self._max_bytes is None:
            return self._disk_limit
        others = sum(other.nbytes for other in self._others())
        return min(self._disk_limit, (self._max_bytes - others - HEADER_BYTES) // each)

    def _others(self) -> list[_Other]:
        """The folder's other geometries. Raises OSError: the folder was removed."""
        others: dict[str, _Other] = {}
        for path in self._folder.iterdir():
            match = _OURS.fullmatch(path.name)
            if match and match[1] != self.digest:
                other = others.setdefault(match[1], _Other(match[1]))
                with suppress(FileNotFoundError):  # another process has removed it
                    status = path.stat()
                    other.nbytes += status.st_size
                    other.used = max(other.used, status.st_mtime_ns)
        return list(others.values())

    def _make_room(self) -> bool:
        """Removes another geometry, if that may help and no process writes to it."""
        if self._max_bytes is None or not self.is_disk_left:
            return False
        for other in sorted(self._others(), key=lambda other: other.used):
            with suppress(OutputError):  # in use, or it may not be removed
                clear_pixels(self._folder, other.digest)
                self._removed(other.digest)
                return True
        return False


def slot_nbytes(nbytes: int) -> int:
    """The size of a slot for so many bytes of pixels."""
    return -(-nbytes // _core.PAGE) * _core.PAGE


def _runs(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Parts `numbers`, which rise, into those that follow one another without a gap."""
    first = 0
    for i, number in enumerate(numbers):
        if i + 1 == len(numbers) or numbers[i + 1] != number + 1:
            yield numbers[first : i + 1]
            first = i + 1


def is_whole(record: bytes) -> bool:
    return len(record) == RECORD_BYTES and _CRC.pack(zlib.crc32(record[:-4])) == record[-4:]


def split(index: bytes) -> list[bytes]:
    """The records of an index; that of slot 0 first, the last one perhaps cut short."""
    begins = range(HEADER_BYTES, len(index), RECORD_BYTES)
    return [index[at : at + RECORD_BYTES] for at in begins]


# ---- a folder of them ------------------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """What a folder has of one geometry. geometry: None where the index's header is damaged."""

    digest: str
    geometry: dict[str, Any] | None
    images: int
    nbytes: int  # on disk, of both files
    used: float  # when a process opened it last, or stored an image; seconds since 1970


def list_pixels(folder: Path) -> list[Listed]:
    """What `folder` has, by digest. Raises OutputError where it cannot be read."""
    try:
        matches = (_OURS.fullmatch(path.name) for path in folder.iterdir())
        return [
            _list(folder, digest) for digest in sorted({match[1] for match in matches if match})
        ]
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read: {error.strerror}") from error


def _list(folder: Path, digest: str) -> Listed:
    statuses = []
    for path in _files(folder, digest):
        with suppress(FileNotFoundError):  # another process has removed it
            statuses.append(path.stat())
    index = _read_index(folder / (digest + INDEX))
    return Listed(
        digest,
        _geometry_in(index),
        sum(map(is_whole, split(index))),
        sum(status.st_blocks * 512 for status in statuses),
        max((status.st_mtime for status in statuses), default=0.0),
    )


class Checked(NamedTuple):
    """How many images' pixels are intact, and how many are damaged. problem: why no image, or none
    after the intact ones, can be checked."""

    intact: int
    damaged: int
    problem: str | None = None


def check_pixels(
    folder: Path, digest: str, progress: Callable[[int], None] = lambda images: None
) -> Checked:
    """Reads all that the folder has of a geometry. progress: is called with 1 for each image.
    Raises OutputError where another process writes."""
    pixels, index_path = _files(folder, digest)
    intact = damaged = 0
    with output_lock(pixels):
        index = _read_index(index_path)
        geometry = _geometry_in(index)
        records = [record for record in enumerate(split(index)) if any(record[1])]  # of zeros: free
        if geometry is None:
            state = "damaged" if index_path.exists() else "missing"
            return Checked(0, len(records), f"its file {INDEX} is {state}")
        height, width = geometry["size"]
        nbytes = 3 * height * width
        try:
            with open(pixels, "rb") as file:
                if nbytes > os.fstat(file.fileno()).st_size:
                    return Checked(0, len(records))
                for slot, record in records:
                    if not is_whole(record):
                        damaged += 1
                        continue
                    data = os.pread(file.fileno(), nbytes, slot * slot_nbytes(nbytes))
                    is_right = len(data) == nbytes and _core.checksum(data) == _checksum_in(record)
                    intact, damaged = intact + is_right, damaged + (not is_right)
                    progress(1)
        except OSError as error:
            problem = f"its file {PIXELS} cannot be read: {error.strerror}"
            return Checked(intact, len(records) - intact, problem)
    return Checked(intact, damaged)


def clear_pixels(folder: Path, digest: str) -> None:
    """Removes what the folder has of a geometry. Raises OutputError, also where another process
    writes. Processes that read go on."""
    pixels, index = _files(folder, digest)
    with output_lock(pixels), write_errors(pixels):
        index.unlink(missing_ok=True)
        pixels.unlink(missing_ok=True)


def _files(folder: Path, digest: str) -> tuple[Path, Path]:
    return folder / (digest + PIXELS), folder / (digest + INDEX)


def _read_index(path: Path) -> bytes:
    """The content of an index; nothing where it cannot be read."""
    try:
        return read_file(path, path.stat().st_size + (1 << 20))  # another process may add to it
    except OSError:
        return b""


def _geometry_in(index: bytes) -> dict[str, Any] | None:
    try:
        geometry = parse_json(index[:HEADER_BYTES].removeprefix(MAGIC).rstrip(b"\0"))
        height, width = geometry["size"]
    except (ValueError, TypeError, KeyError):
        return None
    is_right = all(type(side) is int and 0 < side < 1 << 20 for side in (height, width))
    return geometry if is_right and index.startswith(MAGIC) else None


def _checksum_in(record: bytes) -> int:
    checksum: int = _FIELDS.unpack_from(record)[3]
    return checksum
