"""Where tensors go on disk. A file stands under its final name only when it is whole."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoofast import _core
from zoofast.errors import OutputError
from zoofast.loader import Target
from zoofast.recipe import Recipe
from zoofast.sources import Item

PART = ".part"  # ends the name of a file that is not whole


class Sink(Protocol):
    """Receives prepared tensors; knows which ones it holds already."""

    @property
    def target(self) -> Target | None:
        """Where the core itself writes each image's file; None: it does not."""

    @property
    def prefix(self) -> bytes:
        """What such a file begins with."""

    @property
    def nbytes_each(self) -> int:
        """Bytes written per image."""

    @property
    def space_each(self) -> int:
        """Bytes that they take on disk."""

    def whole(self, items: Iterable[Item]) -> set[str]:
        """Names of the items that are whole from an earlier run; drops what is not."""

    def clear(self) -> None:
        """Removes all that an earlier run left."""

    def append(self, names: list[str], array: NDArray[Any]) -> None:
        """Takes a batch that the core did not write: names and (n, *shape) tensors."""

    def finish(self) -> None:
        """Everything is in."""

    def close(self) -> None:
        """Releases files; the sink may be unfinished."""


@contextmanager
def _writing(path: str | Path) -> Iterator[None]:
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


class FileSink:
    """One file per image, `NAME.bin` or `NAME.npy`."""

    def __init__(self, folder: Path, recipe: Recipe, suffix: str) -> None:
        self._folder, self._suffix = os.fspath(folder), suffix
        self.prefix = npy_header(recipe.shape, recipe.dtype) if suffix == ".npy" else b""
        self.nbytes_each = recipe.nbytes + len(self.prefix)
        self.space_each = -(-self.nbytes_each // _core.PAGE) * _core.PAGE  # files take blocks
        self.target: Target = self._target

    def _target(self, item: Item) -> tuple[bytes, bytes]:
        path = os.path.join(self._folder, item.name + self._suffix)
        return os.fsencode(path), os.fsencode(path + PART)

    def whole(self, items: Iterable[Item]) -> set[str]:
        sizes: dict[str, int] = {}
        with _writing(self._folder), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(self._suffix + PART):
                    os.unlink(entry.path)
                elif entry.name.endswith(self._suffix):
                    sizes[entry.name.removesuffix(self._suffix)] = entry.stat().st_size
        return {item.name for item in items if sizes.get(item.name) == self.nbytes_each}

    def clear(self) -> None:
        with _writing(self._folder), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith((self._suffix, self._suffix + PART)):
                    os.unlink(entry.path)

    def append(self, names: list[str], array: NDArray[Any]) -> None:
        pass  # the core wrote the files

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class PackSink:
    """One `pack.npy` of (N, *shape), and `pack.names.txt` with the N names, a line each.

    Rows follow the source's order; images that failed have no row. While it grows, the data file
    is ahead of the names file, so that whatever the names say is whole. Names that are not UTF-8
    stand in the names file byte for byte.
    """

    target = None
    prefix = b""
    HEADER = _core.PAGE  # rows begin on a page

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._recipe = recipe
        self.nbytes_each = self.space_each = recipe.nbytes
        self._data, self._names = folder / "pack.npy", folder / "pack.names.txt"
        self._data_part = folder / ("pack.npy" + PART)
        self._names_part = folder / ("pack.names.txt" + PART)
        self._fd = -1
        self._rows = 0

    def whole(self, items: Iterable[Item]) -> set[str]:
        with _writing(self._data_part):
            # finish() renames the data first: with these two, each of its states leads back
            for final, part in ((self._names, self._names_part), (self._data, self._data_part)):
                if final.exists():
                    os.replace(final, part)
            if not (self._data_part.exists() and self._names_part.exists()):
                return set()
            names = os.fsdecode(self._names_part.read_bytes()).split("\n")[:-1]
            rows = (self._data_part.stat().st_size - self.HEADER) // self.nbytes_each
            # Rows count as long as they are these items in this order.
            expected = iter([item.name for item in items])
            self._rows = 0
            while self._rows < min(rows, len(names)) and names[self._rows] in expected:
                self._rows += 1
            kept = "".join(name + "\n" for name in names[: self._rows])
            os.truncate(self._names_part, len(os.fsencode(kept)))
            if rows >= 0:
                os.truncate(self._data_part, self.HEADER + self._rows * self.nbytes_each)
        return set(names[: self._rows])

    def clear(self) -> None:
        for path in (self._data, self._names, self._data_part, self._names_part):
            with _writing(path):
                path.unlink(missing_ok=True)

    def _open(self) -> None:
        if self._rows == 0:
            self._data_part.write_bytes(b"\0" * self.HEADER)
            self._names_part.write_bytes(b"")
        self._fd = os.open(self._data_part, os.O_WRONLY | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)

    def append(self, names: list[str], array: NDArray[Any]) -> None:
        if not names:
            return
        with _writing(self._data_part):
            if self._fd < 0:
                self._open()
            view = array.data.cast("B")
            while view:
                view = view[os.write(self._fd, view) :]
            with self._names_part.open("ab") as file:
                file.write(os.fsencode("".join(name + "\n" for name in names)))
        self._rows += len(names)

    def finish(self) -> None:
        with _writing(self._data):
            if self._fd < 0:
                self._open()
            header = npy_header((self._rows, *self._recipe.shape), self._recipe.dtype, self.HEADER)
            os.pwrite(self._fd, header, 0)
            self.close()
            os.replace(self._data_part, self._data)
            os.replace(self._names_part, self._names)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


FORMATS = ("bin", "npy", "pack")


def open_sink(format: str, folder: Path, recipe: Recipe) -> Sink:
    """The sink for one of FORMATS."""
    return PackSink(folder, recipe) if format == "pack" else FileSink(folder, recipe, "." + format)
