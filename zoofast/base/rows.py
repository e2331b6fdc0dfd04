"""Named rows in a .npy file that grows, and that a killed writer leaves usable.

NAME.npy holds the rows (N, *shape); NAME.names.txt beside it holds their N names, one a line, byte
for byte as the file system has them. Both names end in `.part` until all rows are written. A row is
written before its name, so that every name has a complete row.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.files import PART, atomic_output, is_device_or_pipe, write_errors
from zoofast.base.npy import map_npy
from zoofast.base.sequences import Strings
from zoofast.errors import OutputError, ResultError

HEADER_BYTES = 4096  # before the rows, so that rows begin on a page
COPY_BYTES = 8 << 20  # of rows that are copied at once
NAMES_AT_ONCE = 65_536  # that are copied


def npy_header(shape: tuple[int, ...], dtype: str, length: int | None = None) -> bytes:
    """The bytes before the data of a C-order .npy file; padded to `length` where given."""
    buffer = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": description, "fortran_order": False, "shape": shape}
    )
    header = buffer.getvalue()
    if length is None:
        return header
    # the padding is blanks before the newline; bytes 8 and 9 hold its length
    text = header[10:].rstrip(b"\n").ljust(length - 11) + b"\n"
    return header[:8] + len(text).to_bytes(2, "little") + text


def names_path(path: Path) -> Path:
    """The names file of NAME.npy."""
    return path.with_name(path.name.removesuffix(".npy") + ".names.txt")


class NamedRows:
    """Writes rows of `shape` and `dtype`, and their names, to `path`, NAME.npy.

    Every method raises OutputError that names the file.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        for each in (path, names_path(path)):
            if is_device_or_pipe(each):
                raise OutputError(f"{each} is a device or a pipe; name a file")
        self._shape, self._dtype = shape, dtype
        self.nbytes_each = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.path = self._data = path
        self._names = names_path(path)
        self._data_part = path.with_name(path.name + PART)
        self._names_part = self._names.with_name(self._names.name + PART)
        self._fd = self._names_fd = -1
        self._rows = 0

    def reopen(self, count_valid: Callable[[Collection[str]], int]) -> int:
        """Takes over what an earlier writer left, finished or not. Returns how many rows it keeps.

        count_valid: given the names of the complete rows, in order, how many of them, from the
        first, the caller keeps. Rows and names behind these are cut off. A finished output of which
        the caller keeps nothing stays as it is until `finish` replaces it.
        """
        with write_errors(self._data_part):
            # finish() renames the data first. Wherever it was killed, these two renames undo it.
            # It may also have written the files in another order while both parts remain.
            pairs = ((self._names, self._names_part), (self._data, self._data_part))
            has_parts = all(part.exists() for _, part in pairs)
            data, names_file = (
                part if has_parts or not final.exists() else final
                for final, part in ((self._data, self._data_part), (self._names, self._names_part))
            )
            if not (data.exists() and names_file.exists()):
                return 0
            nbytes = data.stat().st_size - HEADER_BYTES
            names = _NamesFile(names_file, max(nbytes // self.nbytes_each, 0))
            count = count_valid(names)
            finished = (data, names_file) == (self._data, self._names)
            if finished and not count:
                return 0
            names_nbytes = names.nbytes(count)
            for final, part in pairs:
                if final.exists() and not has_parts:
                    os.replace(final, part)
            self._rows = count
            _truncate(self._names_part, names_nbytes)
            if nbytes >= 0:
                _truncate(self._data_part, HEADER_BYTES + self._rows * self.nbytes_each)
        return count

    def clear_parts(self) -> None:
        """Removes what an earlier writer did not finish. A finished output stays until `finish`."""
        self._remove(self._data_part, self._names_part)

    def _remove(self, *paths: Path) -> None:
        for path in paths:
            with write_errors(path):
                path.unlink(missing_ok=True)

    def _open(self) -> None:
        """Opens both files, at their ends; makes them anew where nothing of them is kept."""
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        if self._rows == 0:
            flags |= os.O_CREAT | os.O_EXCL
            for path in (self._data_part, self._names_part):
                path.unlink(missing_ok=True)
        self._fd = os.open(self._data_part, flags, 0o666)
        self._names_fd = os.open(self._names_part, flags, 0o666)
        if self._rows == 0:
            _write(self._fd, b"\0" * HEADER_BYTES)
        for fd in (self._fd, self._names_fd):
            os.lseek(fd, 0, os.SEEK_END)

    def append(self, names: Sequence[str], array: NDArray[Any]) -> None:
        """Adds rows (n, *shape) and their n names."""
        if not names:
            return
        with write_errors(self._data_part):
            if self._fd < 0:
                self._open()
            _write(self._fd, array.data.cast("B"))
            _write(self._names_fd, _encode_names(names))
        self._rows += len(names)

    def names(self) -> Collection[str]:
        """The names of the rows that are not finished, in the order of writing."""
        return _NamesFile(self._names_part, self._rows)

    def finish(self, order: NDArray[np.integer[Any]] | None = None) -> None:
        """Ends the writing: the data gets its header, both files their final names.

        order: numbers of rows, from 0 in the order of writing; the files get this order. None: the
        order of writing.
        """
        if order is not None and not np.array_equal(order, np.arange(self._rows)):
            self._finish_reordered(order)
            return
        with write_errors(self._data):
            if self._fd < 0:
                self._open()
            header = npy_header((self._rows, *self._shape), self._dtype, HEADER_BYTES)
            os.lseek(self._fd, 0, os.SEEK_SET)
            _write(self._fd, header)
        self.close()
        # The old names go first: new rows must never stand beside old names.
        self._remove(self._names)
        with write_errors(self._data):
            os.replace(self._data_part, self._data)
            os.replace(self._names_part, self._names)

    def _finish_reordered(self, order: NDArray[np.integer[Any]]) -> None:
        """Writes both files anew. The parts go last: until then they are what `reopen` takes."""
        self.close()
        with write_errors(self._names_part):
            names = Strings(self.names())
        self._remove(self._names)
        with atomic_output(self._data) as path, path.open("wb") as file:
            rows = np.memmap(
                self._data_part, self._dtype, "r", HEADER_BYTES, (self._rows, *self._shape)
            )
            file.write(npy_header((len(order), *self._shape), self._dtype, HEADER_BYTES))
            each = max(1, COPY_BYTES // self.nbytes_each)
            for i in range(0, len(order), each):
                file.write(rows[order[i : i + each]].data)
        with atomic_output(self._names) as path, path.open("wb") as file:
            for i in range(0, len(order), NAMES_AT_ONCE):
                file.write(_encode_names([names[row] for row in order[i : i + NAMES_AT_ONCE]]))
        with write_errors(self._data):
            self._data_part.unlink()
            self._names_part.unlink()

    def close(self) -> None:
        """Closes the files, finished or not. An error of an earlier write can show here."""
        fds = (self._fd, self._names_fd)
        self._fd = self._names_fd = -1
        with write_errors(self._data_part), ExitStack() as stack:
            for fd in fds:
                if fd >= 0:
                    stack.callback(os.close, fd)


def _truncate(path: Path, nbytes: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, nbytes)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes | memoryview) -> None:
    """Writes all of `data`: one call may write less."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _encode_names(names: Sequence[str]) -> bytes:
    return os.fsencode("".join(name + "\n" for name in names))


class _NamesFile(Collection[str]):
    """The first `most` names of a names file, in order; None: all. It holds none of them, and reads
    the file each time.

    Each is a complete line: a last line without its end was cut off. Raises OSError.
    """

    def __init__(self, path: Path, most: int | None = None) -> None:
        self._path, self._most = path, most

    def _lines(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            for line in islice(file, self._most):
                if line.endswith(b"\n"):
                    yield line

    def __len__(self) -> int:
        return sum(1 for _ in self._lines())

    def __iter__(self) -> Iterator[str]:
        return (os.fsdecode(line[:-1]) for line in self._lines())

    def __contains__(self, name: object) -> bool:
        return any(name == each for each in self)

    def nbytes(self, count: int) -> int:
        """Of the lines of the first `count` names."""
        return sum(map(len, islice(self._lines(), count)))


def read_named_rows(path: Path) -> tuple[list[str], NDArray[Any]]:
    """The names and the memory-mapped rows of a finished NAME.npy.

    Raises ResultError naming the file: missing, damaged, or not as many names as rows.
    """
    try:
        names = list(iter(_NamesFile(names_path(path))))
        rows = map_npy(path)
    except OSError as error:
        raise ResultError(f"{error.filename or path}: {error.strerror}") from error
    except ValueError as error:
        raise ResultError(f"{path}: {error}") from error
    if rows.ndim < 1 or len(rows) != len(names):
        raise ResultError(
            f"{path}: holds {list(rows.shape)}, {names_path(path)} {len(names)} names"
        )
    return names, rows


def write_by_place(
    path: Path, parts: Sequence[tuple[Sequence[str], NDArray[Any], NDArray[np.int64]]]
) -> None:
    """Writes the rows of several parts to `path`, NAME.npy, in the order of their places.

    parts: the names, the rows (n, *shape) and the places (n,) of each; all have the same shape and
    dtype of rows. Raises OutputError that names `path`.
    """
    first = parts[0][1]
    rows = NamedRows(path, first.shape[1:], str(first.dtype))
    rows.clear_parts()
    part_of = np.concatenate([np.full(len(names), i) for i, (names, _, _) in enumerate(parts)])
    row_of = np.concatenate([np.arange(len(names)) for names, _, _ in parts])
    order = np.argsort(np.concatenate([places for _, _, places in parts]), kind="stable")
    each = max(1, COPY_BYTES // max(rows.nbytes_each, 1))
    try:
        for i in range(0, len(order), each):
            here = order[i : i + each]
            chosen = list(zip(part_of[here], row_of[here], strict=True))
            block = np.stack([parts[part][1][row] for part, row in chosen])
            rows.append([parts[part][0][row] for part, row in chosen], block)
        rows.finish()
    finally:
        rows.close()
