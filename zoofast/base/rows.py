"""A growing .npy of named rows: data that is ahead of its names, so that what they say is whole.

NAME.npy holds the rows, (N, *shape); NAME.names.txt beside it their N names, a line each. Names
that are not UTF-8 stand there byte for byte. Until it is finished, both end in `.part`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.errors import OutputError, ResultError

PART = ".part"  # ends the name of a file that is not whole
HEADER = 4096  # bytes before the rows, which so begin on a page


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns an OSError into an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


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
    """Where the names of NAME.npy stand."""
    return path.with_name(path.name.removesuffix(".npy") + ".names.txt")


class NamedRows:
    """Writes named rows of (*shape) and dtype to `path`, NAME.npy. Raises OutputError."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        self._shape, self._dtype = shape, dtype
        self.nbytes_each = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._data, self._names = path, names_path(path)
        self._data_part = path.with_name(path.name + PART)
        self._names_part = self._names.with_name(self._names.name + PART)
        self._fd = -1
        self._rows = 0

    def reopen(self, keep: Callable[[Sequence[str]], int]) -> list[str]:
        """Goes on where an earlier writer stopped or finished, if one did.

        keep: how many of the names that it left, from the first, are to stay. Returns those.
        """
        with writing(self._data_part):
            # finish() renames the data first: with these two, each of its states leads back
            for final, part in ((self._names, self._names_part), (self._data, self._data_part)):
                if final.exists():
                    os.replace(final, part)
            if not (self._data_part.exists() and self._names_part.exists()):
                return []
            rows = (self._data_part.stat().st_size - HEADER) // self.nbytes_each
            names = _split(self._names_part)[: max(rows, 0)]
            self._rows = keep(names)
            kept = "".join(name + "\n" for name in names[: self._rows])
            os.truncate(self._names_part, len(os.fsencode(kept)))
            if rows >= 0:
                os.truncate(self._data_part, HEADER + self._rows * self.nbytes_each)
        return names[: self._rows]

    def clear(self) -> None:
        """Removes all that an earlier writer left."""
        for path in (self._data, self._names, self._data_part, self._names_part):
            with writing(path):
                path.unlink(missing_ok=True)

    def _open(self) -> None:
        if self._rows == 0:
            self._data_part.write_bytes(b"\0" * HEADER)
            self._names_part.write_bytes(b"")
        self._fd = os.open(self._data_part, os.O_WRONLY | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)

    def append(self, names: Sequence[str], array: NDArray[Any]) -> None:
        """Adds rows (n, *shape) and their n names."""
        if not names:
            return
        with writing(self._data_part):
            if self._fd < 0:
                self._open()
            view = array.data.cast("B")
            while view:
                view = view[os.write(self._fd, view) :]
            with self._names_part.open("ab") as file:
                file.write(os.fsencode("".join(name + "\n" for name in names)))
        self._rows += len(names)

    def finish(self) -> None:
        """All rows are in: the files get their headers and final names."""
        with writing(self._data):
            if self._fd < 0:
                self._open()
            header = npy_header((self._rows, *self._shape), self._dtype, HEADER)
            os.pwrite(self._fd, header, 0)
            self.close()
            os.replace(self._data_part, self._data)
            os.replace(self._names_part, self._names)

    def close(self) -> None:
        """Releases the file; it may be unfinished."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _split(path: Path) -> list[str]:
    return os.fsdecode(path.read_bytes()).split("\n")[:-1]


def read_named_rows(path: Path) -> tuple[list[str], NDArray[Any]]:
    """The names and the memory-mapped rows of a finished NAME.npy.

    Raises ResultError naming the file: missing, damaged, or not as many names as rows.
    """
    try:
        names = _split(names_path(path))
        rows: NDArray[Any] = np.load(path, mmap_mode="r") if names else np.load(path)
    except (OSError, ValueError) as error:
        where = getattr(error, "filename", None) or path
        raise ResultError(f"{where}: {getattr(error, 'strerror', None) or error}") from error
    if rows.ndim < 1 or len(rows) != len(names):
        raise ResultError(f"{path}: holds {rows.shape} and {names_path(path)} {len(names)} names")
    return names, rows
