"""Timed runs of the loader: images in, tensors thrown away."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from zoofast.base.files import MAX_FILE_BYTES
from zoofast.preprocess.cache import PixelCache
from zoofast.preprocess.file_writer import DEPTH, FileWriter
from zoofast.preprocess.loader import BatchOutcome, Failure, Loader, OutputPaths, default_batch
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import Item, Source
from zoofast.timing.timeline import Timeline
from zoofast.timing.trace import CALLER


@dataclass
class PipelineRun:
    """What one run of the pipeline did and took."""

    images: int
    failures: list[Failure]
    seconds: float
    rate: float  # images per second, without the first batch, which begins with idle threads
    cpu_seconds: float  # of the whole process
    nbytes_in: int


def run_pipeline(
    source: Source,
    recipe: Recipe,
    items: Sequence[Item],
    threads: int,
    seconds: float,
    *,
    batch_size: int | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    paths: OutputPaths | None = None,
    cache: PixelCache | None = None,
    timeline: Timeline | None = None,
) -> PipelineRun:
    """Prepares `items` until all are done, or until the first batch after `seconds` and the first
    image.

    With `paths` each tensor is also written to a file, as `zoofast prep` does. Items of one name,
    whose tensors go to one file, must be `written_at_once` apart.
    """
    images, failures = 0, []
    ends: list[tuple[int, int]] = []  # (nanoseconds, images so far) at the end of each batch
    begin_cpu, begin = time.process_time(), time.monotonic_ns()
    work: dict[str, Any] = {
        "items": items,
        "batch_size": batch_size,
        "threads": threads,
        "max_file_bytes": max_file_bytes,
        "cache": cache,
    }
    with (
        FileWriter(source, recipe, paths, **work) if paths else Loader(source, recipe, **work)
    ) as loader:
        for number, (asked_ns, got_ns, batch) in enumerate(_timed_batches(loader)):
            images += len(batch.names)
            failures += batch.failures
            ends.append((got_ns, images))
            if timeline is not None:
                timeline.prepared(number, batch, asked_ns)
                timeline.span(CALLER, "use", got_ns, time.monotonic_ns(), number)
                timeline.finish(number, len(batch.names), got_ns)
            if images and got_ns - begin > seconds * 1e9:
                break
        nbytes_in = loader.stats.nbytes_in
        end, end_cpu = time.monotonic_ns(), time.process_time()
    elapsed = (end - begin) / 1e9
    rate = images / elapsed
    if len(ends) > 2 and ends[-1][1] > ends[0][1]:
        (first_ns, first_images), (last_ns, last_images) = ends[0], ends[-1]
        rate = (last_images - first_images) * 1e9 / (last_ns - first_ns)
    return PipelineRun(images, failures, elapsed, rate, end_cpu - begin_cpu, nbytes_in)


def _timed_batches(loader: Loader | FileWriter) -> Iterator[tuple[int, int, BatchOutcome]]:
    """(when it was asked for, when it came, the batch); nanoseconds of the monotonic clock."""
    batches = iter(loader)
    while True:
        asked_ns = time.monotonic_ns()
        batch = next(batches, None)
        if batch is None:
            return
        yield asked_ns, time.monotonic_ns(), batch


def written_at_once(threads: int, batch_size: int | None) -> int:
    """How many tensors a run may be writing at the same time."""
    return DEPTH * (batch_size or default_batch(threads))


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly spaced: the first images of a folder may all be of one
    class."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def repeated(items: Sequence[Item], count: float, apart: int = 1) -> list[Item]:
    """All items, so many times that there are at least 1.5 × `count`: the guess of how many a run
    needs may be too low.

    apart: two items of one name are at least so many places apart. A repeat that would be nearer
    gets another name: a dot and a number follow its name. No name of an image has a dot.
    """
    rounds = max(1, math.ceil(1.5 * count / len(items)))
    named = [list(items)]
    while len(named) < min(rounds, math.ceil(apart / len(items))):
        suffix = f".{len(named)}"
        named.append([item._replace(name=item.name + suffix) for item in items])
    return [item for i in range(rounds) for item in named[i % len(named)]]
