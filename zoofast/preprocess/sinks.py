"""Where tensors go on disk. A file stands under its final name only when it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoofast import _core
from zoofast.base.by_name import NameIndex
from zoofast.base.files import PART, write_errors
from zoofast.base.rows import NamedRows, names_path, npy_header
from zoofast.base.sequences import Mapped
from zoofast.errors import OutputError
from zoofast.preprocess.bins import PLAIN, Bin, Packing
from zoofast.preprocess.cache import PixelCache
from zoofast.preprocess.file_writer import FileWriter
from zoofast.preprocess.loader import BatchOutcome, Loader, OutputPaths, Stats
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import Item, Names, Source

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

    def completed(self, items: Sequence[Item], names: Sequence[str]) -> NDArray[np.bool_]:
        """(n,): which of the items an earlier run stored. It says nothing of items with a problem.

        Removes what an earlier run of the images `names` left unfinished.
        """

    def store(
        self,
        source: Source,
        items: Sequence[Item],
        threads: int,
        max_file_bytes: int,
        cache: PixelCache | None,
        stored: Stored,
    ) -> None:
        """Prepares `items` on `threads` threads and stores their tensors. `cache` keeps pixels.

        After an error, what is stored can be continued. Raises OutputError, and what `stored`
        raises.
        """

    def finish(self) -> None:
        """Ends the output, once the manifest lists the images that failed. Raises OutputError."""


class FileSink:
    """One file for each image: `NAME.bin`, `NAME.npy`, or as `bins` names it."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        suffix: str,
        bins: Sequence[Bin] | None = None,
        tag: str = "",
    ) -> None:
        """tag: in the temporary names, where several processes may write the same file."""
        files = None if bins is None else {bin.images[0]: bin.file for bin in bins}
        prefix = npy_header(recipe.shape, recipe.dtype) if suffix == ".npy" else b""
        self._recipe = recipe
        self._paths = OutputPaths(os.fspath(folder), suffix, files, _part(tag), prefix)
        self.nbytes_each = recipe.nbytes + len(prefix)
        self.space_each = -(-self.nbytes_each // _core.PAGE) * _core.PAGE  # files take blocks

    def completed(self, items: Sequence[Item], names: Sequence[str]) -> NDArray[np.bool_]:
        files = NameIndex(self._files(names))
        is_whole = _sizes(self._paths.folder, files) == self.nbytes_each
        places = files.places(self._files(Names(items)))
        is_whole = np.append(is_whole, False)  # for the place -1
        completed: NDArray[np.bool_] = is_whole[places]
        return completed

    def remove_unfinished(self, names: Sequence[str]) -> None:
        """Removes what other processes, which have ended, left unfinished."""
        _sizes(self._paths.folder, NameIndex(self._files(names)))

    def _files(self, names: Sequence[str]) -> Mapped[str]:
        return Mapped(names, self._paths.file)

    def store(
        self,
        source: Source,
        items: Sequence[Item],
        threads: int,
        max_file_bytes: int,
        cache: PixelCache | None,
        stored: Stored,
    ) -> None:
        _make_folders(self._paths.folder, (self._paths.files or {}).values())
        with FileWriter(
            source,
            self._recipe,
            self._paths,
            items=items,
            threads=threads,
            max_file_bytes=max_file_bytes,
            cache=cache,
        ) as writer:
            for batch in writer:
                stored(batch, writer.stats)

    def finish(self) -> None:
        """Nothing is left to do: every file has its final name."""


def _part(tag: str) -> str:
    """Ends a file's temporary name."""
    return f".{tag}{PART}" if tag else PART


def _entries(folder: str, files: Iterable[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The entries of `folder` and of its folders that `files` are in, each with its path there.

    A link to a folder elsewhere is not followed.
    """
    for part in sorted({os.path.dirname(file) for file in files} | {""}):
        where = os.path.join(folder, part)
        if os.path.isdir(where) and not (part and os.path.islink(where)):
            with write_errors(where), os.scandir(where) as entries:
                for entry in entries:
                    yield os.path.join(part, entry.name), entry


def _sizes(folder: str, files: NameIndex, keep: Set[str] = frozenset()) -> NDArray[np.int64]:
    """(n,): the size of each of `files`, -1 for one that is not in `folder`. Removes those that are
    not whole, apart from the temporary names `keep`."""
    sizes = np.full(len(files), -1, np.int64)
    for file, entry in _entries(folder, files.names):
        if _is_unfinished(file, files):
            if file not in keep:
                with write_errors(entry.path):
                    os.unlink(entry.path)
        elif (place := files.place(file)) >= 0 and entry.is_file(follow_symlinks=False):
            sizes[place] = entry.stat().st_size
    return sizes


def _is_unfinished(file: str, files: NameIndex) -> bool:
    """Whether `file` is the temporary name of one of `files`, with a tag or without."""
    if not file.endswith(PART):
        return False
    name = file.removesuffix(PART)
    return files.place(name) >= 0 or files.place(name.rpartition(".")[0]) >= 0


def stored_files(names: Sequence[str], format: str, bins: Sequence[Bin] | None) -> Sequence[str]:
    """The files of the tensors of the images `names`, relative to their folder. format: one of
    FORMATS. bins: None where each image has a file of its own name."""
    if format == "pack":
        return [PACK, names_path(Path(PACK)).name]
    if bins is None:
        return Mapped(names, lambda name: f"{name}.{format}")
    return [file for bin in bins for file in bin.files]


def remove_files(folder: str, files: Sequence[str]) -> None:
    """Removes `files` of `folder`, whole or unfinished, and nothing else."""
    for entry in _existing(folder, files):
        with write_errors(entry.path):
            os.unlink(entry.path)


def space_of_files(folder: str, files: Sequence[str]) -> int:
    """The bytes on the disk that `remove_files` would free."""
    found = (entry.stat(follow_symlinks=False) for entry in _existing(folder, files))
    return sum(512 * each.st_blocks for each in found if each.st_nlink == 1)


def _existing(folder: str, files: Sequence[str]) -> Iterator[os.DirEntry[str]]:
    """Those of `files` that are in `folder`, whole or unfinished."""
    ours = NameIndex(files)
    for file, entry in _entries(folder, files):
        if ours.place(file) >= 0 or _is_unfinished(file, ours):
            yield entry


def _make_folders(folder: str, files: Iterable[str]) -> None:
    for part in {os.path.dirname(file) for file in files} - {""}:
        where = os.path.join(folder, part)
        if os.path.islink(where):
            raise OutputError(f"{where}: is a link to another folder; remove the link")
        with write_errors(where):
            os.makedirs(where, exist_ok=True)


class BinSink:
    """Bins of several images, and bins with a mirrored copy. Rows are in the source's order.

    The row of an image that failed, and the rows behind the last image, are zeros. A bin with a
    failed image gets its final name in `finish`, when the manifest lists the failures: a run that
    is killed before leaves no bin whose zeros nobody knows of.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        packing: Packing,
        bins: Sequence[Bin],
        failed: frozenset[str],
        tag: str = "",
    ) -> None:
        """tag: in the temporary names, where several processes may write the same file."""
        self._part = _part(tag)
        self._folder, self._recipe, self._packing = os.fspath(folder), recipe, packing
        self._bins, self._failed = bins, failed
        self.held: dict[str, str] = {}  # file that lacks an image -> its temporary name
        copies = 2 if packing.mirror else 1
        self.nbytes_each = self.space_each = recipe.nbytes * copies

    def completed(self, items: Sequence[Item], names: Sequence[str]) -> NDArray[np.bool_]:
        nbytes = self._recipe.nbytes * self._packing.images
        is_whole = iter((_sizes(self._folder, NameIndex(self._files())) == nbytes).tolist())
        completed: set[str] = set()
        for bin in self._bins:
            of_bin = [next(is_whole) for _ in bin.files]
            if all(of_bin) and "" not in bin.images and not self._failed.intersection(bin.images):
                completed.update(bin.images)
        return np.fromiter((name in completed for name in Names(items)), bool, len(items))

    def _files(self) -> list[str]:
        return [file for bin in self._bins for file in bin.files]

    def remove_unfinished(self) -> None:
        """Removes what other processes, which have ended, left unfinished, apart from `held`."""
        _sizes(self._folder, NameIndex(self._files()), set(self.held.values()))

    def store(
        self,
        source: Source,
        items: Sequence[Item],
        threads: int,
        max_file_bytes: int,
        cache: PixelCache | None,
        stored: Stored,
    ) -> None:
        _make_folders(self._folder, self._files())
        # Whole bins are left to be done, in order: `completed` says it of all images of a bin.
        names = {item.name for item in items if item.problem is None}
        todo = [bin for bin in self._bins if "" in bin.images or names.intersection(bin.images)]
        rows = np.zeros((self._packing.images, *self._recipe.shape), self._recipe.dtype)
        filled, is_whole = 0, True
        left = iter(todo)
        bin = next(left, None)
        with Loader(
            source,
            self._recipe,
            items=items,
            threads=threads,
            max_file_bytes=max_file_bytes,
            cache=cache,
        ) as loader:
            for batch in loader:
                row_of = {name: row for row, name in enumerate(batch.names)}
                for item in batch.items:
                    if item.problem is not None and not self._packing.is_numbered:
                        continue  # it has no bin; see plan_bins
                    assert bin is not None
                    row = None if item.problem is not None else row_of.get(item.name)
                    rows[filled] = 0 if row is None else batch.array[row]
                    is_whole &= row is not None
                    filled += 1
                    if filled == len(bin.images):
                        rows[filled:] = 0
                        self._write(bin, rows, is_whole)
                        filled, is_whole, bin = 0, True, next(left, None)
                stored(batch, loader.stats)

    def _write(self, bin: Bin, rows: NDArray[Any], is_whole: bool) -> None:
        nchw = self._recipe.layout == "NCHW"
        for file in bin.files:
            data = rows if file == bin.file else rows[..., ::-1] if nchw else rows[:, :, ::-1]
            path = os.path.join(self._folder, file)
            with write_errors(path):
                Path(path + self._part).unlink(missing_ok=True)  # a killed run's, or a link
                with open(path + self._part, "xb") as stream:
                    stream.write(np.ascontiguousarray(data).data)
                if is_whole:
                    os.replace(path + self._part, path)
                else:
                    self.held[file] = file + self._part

    def finish(self) -> None:
        """Gives their final names to the bins that lack an image."""
        for file, part in self.held.items():
            path = os.path.join(self._folder, file)
            with write_errors(path):
                os.replace(os.path.join(self._folder, part), path)
        self.held.clear()


class PackSink:
    """One `pack.npy` of (N, *recipe.shape) with the names beside it; see zoofast.base.rows.

    Rows are in the source's order. Images that failed have no row. rows: the file; `store` appends
    to it, and `finish` puts it into order and ends it.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._recipe = recipe
        self.rows = NamedRows(folder / PACK, recipe.shape, recipe.dtype)
        self.nbytes_each = self.space_each = recipe.nbytes
        self._index: NameIndex | None = None  # of the items, where rows may have to be put in order

    def completed(self, items: Sequence[Item], names: Sequence[str]) -> NDArray[np.bool_]:
        """As Sink says. Raises OutputError for rows of images that are not of `items`."""
        completed = np.zeros(len(items), bool)
        index = NameIndex(Names(items))

        def count_valid(stored: Collection[str]) -> int:
            """How many names, from the first, are of images; what is behind them is damaged."""
            places, count = index.places(stored), 0
            for place in places:
                if place < 0 or completed[place]:
                    break
                completed[place] = True
                count += 1
            name = next(islice(stored, count, None), "")
            if name and places[count] < 0 and name in names:
                raise OutputError(
                    f"{self.rows.path}: has a row of {name}, which is none of the images of this "
                    "run; resume with the same images, --limit and --shard, or replace the rows "
                    "with --overwrite"
                )
            if not np.array_equal(places[:count], np.arange(count)):
                self._index = index
            return count

        self.rows.reopen(count_valid)
        return completed

    def store(
        self,
        source: Source,
        items: Sequence[Item],
        threads: int,
        max_file_bytes: int,
        cache: PixelCache | None,
        stored: Stored,
    ) -> None:
        try:
            with Loader(
                source,
                self._recipe,
                items=items,
                threads=threads,
                max_file_bytes=max_file_bytes,
                cache=cache,
            ) as loader:
                for batch in loader:
                    self.rows.append(batch.names, batch.array)
                    stored(batch, loader.stats)
        finally:
            self.rows.close()

    def finish(self) -> None:
        """Ends the pack. An image that an earlier run could not prepare comes to its place."""
        order = None
        if self._index is not None:
            order = np.argsort(self._index.places(self.rows.names()))
        self.rows.finish(order)


def open_sink(
    format: str,
    folder: Path,
    recipe: Recipe,
    packing: Packing = PLAIN,
    bins: Sequence[Bin] | None = None,
    failed: frozenset[str] = frozenset(),
    tag: str = "",
) -> Sink:
    """The sink for one of FORMATS. bins: None where each image has a file of its own name. failed:
    the images that an earlier run could not prepare. tag: as FileSink takes it."""
    if format == "pack":
        return PackSink(folder, recipe)
    if bins is not None and (packing.images > 1 or packing.mirror):
        return BinSink(folder, recipe, packing, bins, failed, tag)
    return FileSink(folder, recipe, "." + format, bins, tag)
