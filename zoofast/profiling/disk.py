"""The rates of a disk alone: reading images, and writing tensors, without computing."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from zoofast import _core
from zoofast.base.files import MAX_FILE_BYTES, opened
from zoofast.errors import OutputError
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import FetchedSource, Item, Source
from zoofast.preprocess.sources.readahead import nbytes_of

MIN_FILES, MAX_FILES, MAX_BYTES = 16, 256, 200_000_000  # written by measure_writing


@dataclass(frozen=True)
class DiskRate:
    """How fast a disk is when nothing is computed."""

    bytes_per_second: float
    images_per_second: float
    method: str  # of the measurement, in words


def measure_reading(source: Source, items: Sequence[Item], threads: int) -> DiskRate:
    """Reads the bytes of all items, which are dropped from the page cache before.

    Of a source that fetches: fetches them, as the loader does.
    """
    if isinstance(source, FetchedSource):
        return _measure_fetching(source, [item for item in items if item.problem is None])
    for item in items:
        _drop_from_cache(source, item)

    def read(item: Item) -> int:
        try:
            return len(source.read(item))
        except OSError:
            return 0  # the image counts as a failure when it is prepared

    begin = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        nbytes = sum(pool.map(read, items))
    seconds = time.monotonic() - begin
    method = f"{len(items)} files, {threads} at a time, dropped from the page cache before"
    return DiskRate(nbytes / seconds, len(items) / seconds, method)


def _measure_fetching(source: FetchedSource, items: Sequence[Item]) -> DiskRate:
    begin, nbytes = time.monotonic(), 0
    with source.open_reader(items, MAX_FILE_BYTES) as reader:
        left = len(items)
        while left:
            fetched = reader.take(left)
            nbytes += nbytes_of(fetched)
            left -= len(fetched)
    seconds = time.monotonic() - begin
    return DiskRate(nbytes / seconds, len(items) / seconds, f"{len(items)} images, read ahead")


def _drop_from_cache(source: Source, item: Item) -> None:
    if item.problem is not None:
        return
    if item.offset is not None:
        fd = source.fds[item.archive]
        os.posix_fadvise(fd, item.offset, item.nbytes, os.POSIX_FADV_DONTNEED)
        return
    # What cannot be opened, or is no regular file, is a failure when it is prepared.
    with suppress(OSError), opened(item.path) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_writing(folder: str, recipe: Recipe, threads: int) -> DiskRate:
    """Writes tensors of the recipe, as `zoofast prep` does, until they are on the disk.

    Raises OutputError.
    """
    files = max(MIN_FILES, min(MAX_FILES, MAX_BYTES // recipe.nbytes))
    pages = -(-recipe.nbytes // _core.PAGE)
    memory = mmap.mmap(-1, pages * _core.PAGE)  # direct I/O takes page-aligned memory only
    tensor = np.frombuffer(memory, np.uint8)[: recipe.nbytes]
    paths = [os.path.join(folder, f"{i}.bin") for i in range(files)]

    def write(path: str) -> None:
        try:
            _core.write_file(path, path + ".part", tensor)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written: {error.strerror}; name another folder by --scratch"
            ) from error

    begin = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, paths))
    seconds = time.monotonic() - begin
    for path in paths:
        os.unlink(path)
    method = f"{files} files of {recipe.nbytes:,} bytes, {threads} at a time, synced"
    return DiskRate(files * recipe.nbytes / seconds, files / seconds, method)
