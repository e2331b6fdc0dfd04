"""Where tensors go on disk. A file stands under its final name only when it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from zoofast import _core
from zoofast.base.rows import PART, NamedRows, npy_header, writing
from zoofast.preprocess.loader import Target
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import Item

PACK = "pack.npy"


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
        with writing(self._folder), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(self._suffix + PART):
                    os.unlink(entry.path)
                elif entry.name.endswith(self._suffix):
                    sizes[entry.name.removesuffix(self._suffix)] = entry.stat().st_size
        return {item.name for item in items if sizes.get(item.name) == self.nbytes_each}

    def clear(self) -> None:
        with writing(self._folder), os.scandir(self._folder) as entries:
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
    """One `pack.npy` of (N, *shape), with the names beside it; see zoofast.base.rows.

    Rows follow the source's order; images that failed have no row.
    """

    target = None
    prefix = b""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._rows = NamedRows(folder / PACK, recipe.shape, recipe.dtype)
        self.nbytes_each = self.space_each = recipe.nbytes
        self.clear, self.append = self._rows.clear, self._rows.append
        self.finish, self.close = self._rows.finish, self._rows.close

    def whole(self, items: Iterable[Item]) -> set[str]:
        expected = iter([item.name for item in items])

        def in_order(names: Sequence[str]) -> int:
            """Rows count as long as they are these items in this order."""
            count = 0
            while count < len(names) and names[count] in expected:
                count += 1
            return count

        return set(self._rows.reopen(in_order))


FORMATS = ("bin", "npy", "pack")


def open_sink(format: str, folder: Path, recipe: Recipe) -> Sink:
    """The sink for one of FORMATS."""
    return PackSink(folder, recipe) if format == "pack" else FileSink(folder, recipe, "." + format)
