"""What a disk alone allows: reading images, and writing tensors, with nothing computed."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from zoofast import _core
from zoofast.errors import OutputError
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import Item, Source


@dataclass(frozen=True)
class Ceiling:
    """What a disk alone would allow."""

    bytes_per_second: float
    images_per_second: float
    how: str


def read_ceiling(source: Source, items: Sequence[Item], threads: int) -> Ceiling:
    """Reading the items' bytes alone, after asking the kernel to forget them."""
    fds = [source.fd] if source.fd >= 0 else []
    for item in items:
        if not item.in_archive:
            try:
                fds.append(os.open(item.path, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                continue  # counted as a failure when it is to be prepared
            os.posix_fadvise(fds[-1], 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fds.pop())
        else:
            os.posix_fadvise(source.fd, item.offset, item.nbytes, os.POSIX_FADV_DONTNEED)

    def read(item: Item) -> int:
        try:
            return len(source.read(item))
        except OSError:
            return 0

    begin = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        sizes = list(pool.map(read, items))
    seconds = time.monotonic() - begin
    how = f"{len(items)} files, {threads} at a time, dropped from the page cache before"
    return Ceiling(sum(sizes) / seconds, len(items) / seconds, how)


def write_ceiling(folder: str, recipe: Recipe, threads: int) -> Ceiling:
    """Writing tensors of the recipe alone, as prep does, until they are on the disk."""
    count = max(16, min(256, 200_000_000 // recipe.nbytes))
    page = _core.PAGE
    slots = -(-recipe.nbytes // page) * page
    memory = mmap.mmap(-1, slots)  # page-aligned, for direct I/O
    tensor = np.frombuffer(memory, np.uint8)[: recipe.nbytes]
    paths = [os.path.join(folder, f"{i}.bin") for i in range(count)]

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
                f"cannot write {path}: {error.strerror}; name another folder by --scratch"
            ) from error

    begin = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, paths))
    seconds = time.monotonic() - begin
    for path in paths:
        os.unlink(path)
    how = f"{count} files of {recipe.nbytes:,} bytes, {threads} at a time, synced"
    return Ceiling(count * recipe.nbytes / seconds, count / seconds, how)
