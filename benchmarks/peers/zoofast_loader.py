"""zoofast's Loader with two threads. It reads the files; the other peers get bytes in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import zoofast
from zoofast.preprocess.sources import Item, Source

LABEL = "zoofast, Loader with 2 threads, from files"
EXACT = True
PACKAGES = ("zoofast",)

_recipe = zoofast.load_recipe("alexnet")


def prepare_files(paths: Sequence[Path]) -> Iterator[NDArray[np.float32]]:
    source = Source("files", [Item(path.stem, str(path)) for path in paths])
    with zoofast.Loader(source, _recipe, threads=2) as loader:
        for batch in loader:
            if batch.failures:
                raise RuntimeError(str(batch.failures[0]))
            yield from batch.array
