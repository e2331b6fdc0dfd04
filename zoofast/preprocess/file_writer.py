"""Tensors written to files by the core's threads, as batches of a ring."""

from __future__ import annotations

from collections.abc import Sequence

from zoofast.base.files import MAX_FILE_BYTES
from zoofast.preprocess.cache import PixelCache
from zoofast.preprocess.loader import BatchOutcome, OutputPaths, Ring
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import Item, Source

DEPTH = 6  # batches; more than in memory, so that no computing thread waits for the disk


class FileWriter(Ring[BatchOutcome]):
    """Like Loader, but each tensor is written to its file of `paths`.

    When a batch is delivered, its files are whole under their final names. Raises OutputError
    when a file cannot be written.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        paths: OutputPaths,
        *,
        items: Sequence[Item] | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        max_file_bytes: int = MAX_FILE_BYTES,
        cache: PixelCache | None = None,
    ) -> None:
        self._paths = paths
        super().__init__(
            source,
            recipe,
            items=items,
            batch_size=batch_size,
            threads=threads,
            depth=DEPTH,
            max_file_bytes=max_file_bytes,
            cache=cache,
        )

    def _deliver(self, outcome: BatchOutcome) -> BatchOutcome:
        return outcome
