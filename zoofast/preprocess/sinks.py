"""Where tensors go on disk. A file stands under its final name only when it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from zoofast import _core
from zoofast.base.files import PART, write_errors
from zoofast.base.rows import NamedRows, npy_header
from zoofast.preprocess.loader import BatchOutcome, FileWriter, Loader, OutputPaths, Stats
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import Item, Source

PACK = "pack.npy"
FORMATS = ("bin", "npy", "pack")

# Called after each batch, whose tensors are stored by then, with the sums over all batches.
Stored = Callable[[BatchOutcome, Stats], None]


class Sink(Protocol):
    """A form of output in a folder: prepares items into it, and knows which it holds already."""

    @property
    def nbytes_each(self) -> int:
        """Bytes of one image's output."""

    @property
    def space_each(self) -> int:
        """Bytes that one image's output takes on disk."""

    def completed(self, items: Sequence[Item], names: Iterable[str]) -> set[str]:
        """Names of the items that an earlier run stored.

        Removes what an earlier run of the images `names` left unfinished.
        """

    def clear(self, names: Iterable[str]) -> None:
        """Removes all that an earlier run of the images `names` stored or left unfinished."""

    def store(
        self,
        source: Source,
        items: Sequence[Item],
        threads: int,
        max_file_bytes: int,
        stored: Stored,
    ) -> None:
        """Prepares `items` on `threads` threads and stores their tensors.

        After an error, what is stored can be continued. Raises OutputError, and what `stored`
        raises.
        """


class FileSink:
    """One file for each image, `NAME.bin` or `NAME.npy`."""

    def __init__(self, folder: Path, recipe: Recipe, suffix: str) -> None:
        self._recipe, self._paths = recipe, OutputPaths(os.fspath(folder), suffix)
        self._prefix = npy_header(recipe.shape, recipe.dtype) if suffix == ".npy" else b""
        self.nbytes_each = recipe.nbytes + len(self._prefix)
        self.space_each = -(-self.nbytes_each // _core.PAGE) * _core.PAGE  # files take blocks

    def completed(self, items: Sequence[Item], names: Iterable[str]) -> set[str]:
        suffix = self._paths.suffix
        unfinished = {name + suffix + PART for name in names}
        sizes: dict[str, int] = {}
        with write_errors(self._paths.folder), os.scandir(self._paths.folder) as entries:
            for entry in entries:
                if entry.name in unfinished:
                    os.unlink(entry.path)
                elif entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False):
                    sizes[entry.name.removesuffix(suffix)] = entry.stat().st_size
        return {item.name for item in items if sizes.get(item.name) == self.nbytes_each}

    def clear(self, names: Iterable[str]) -> None:
        suffix = self._paths.suffix
        ours = {name + end for name in names for end in (suffix, suffix + PART)}
        with write_errors(self._paths.folder), os.scandir(self._paths.folder) as entries:
            for entry in entries:
                if entry.name in ours:
                    os.unlink(entry.path)

    def store(
        self,
        source: Source,
        items: Sequence[Item],
        threads: int,
        max_file_bytes: int,
        stored: Stored,
    ) -> None:
        with FileWriter(
            source,
            self._recipe,
            self._paths,
            items=items,
            threads=threads,
            prefix=self._prefix,
            max_file_bytes=max_file_bytes,
        ) as writer:
            for batch in writer:
                stored(batch, writer.stats)


class PackSink:
    """One `pack.npy` of (N, *recipe.shape) with the names beside it; see zoofast.base.rows.

    Rows are in the source's order. Images that failed have no row.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._recipe = recipe
        self._rows = NamedRows(folder / PACK, recipe.shape, recipe.dtype)
        self.nbytes_each = self.space_each = recipe.nbytes

    def completed(self, items: Sequence[Item], names: Iterable[str]) -> set[str]:
        expected = iter([item.name for item in items])

        def in_order(names: Sequence[str]) -> int:
            """How many names, from the first, are of these items in this order."""
            count = 0
            while count < len(names) and names[count] in expected:
                count += 1
            return count

        return set(self._rows.reopen(in_order))

    def clear(self, names: Iterable[str]) -> None:
        self._rows.clear()

    def store(
        self,
        source: Source,
        items: Sequence[Item],
        threads: int,
        max_file_bytes: int,
        stored: Stored,
    ) -> None:
        try:
            with Loader(
                source,
                self._recipe,
                items=items,
                threads=threads,
                max_file_bytes=max_file_bytes,
            ) as loader:
                for batch in loader:
                    self._rows.append(batch.names, batch.array)
                    stored(batch, loader.stats)
            self._rows.finish()
        finally:
            self._rows.close()


def open_sink(format: str, folder: Path, recipe: Recipe) -> Sink:
    """The sink for one of FORMATS."""
    return PackSink(folder, recipe) if format == "pack" else FileSink(folder, recipe, "." + format)
