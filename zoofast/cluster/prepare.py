"""A preparation on a Ray cluster: every node writes to the folder, which all of them share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoofast.base.files import write_errors
from zoofast.base.rows import COPY_BYTES, NamedRows, names_path, read_named_rows
from zoofast.base.sequences import Selection
from zoofast.cluster.connection import RayCluster
from zoofast.cluster.driver import Answer, Driver
from zoofast.cluster.evaluate import images_of
from zoofast.cluster.shared import shared_folder
from zoofast.cluster.work import Done, NodeCache, PrepWork, bins_digests
from zoofast.errors import ImageError, OutputError
from zoofast.evaluation.answers import Places
from zoofast.preprocess.folder import PrepOptions, PrepReport, Progress, Store, choose
from zoofast.preprocess.loader import Failure, Stats
from zoofast.preprocess.sinks import BinSink, FileSink, PackSink, Sink
from zoofast.preprocess.sources import Item, Source

MARKED = ".zoofast-ray"  # a folder in that of the tensors, by which nodes know it; see shared


def store_on(cluster: RayCluster) -> Store:
    """What zoofast.preprocess.folder.prepare_folder takes as `store`, to use the nodes of
    `cluster`."""

    def store(
        source: Source,
        items: Selection[Item],
        options: PrepOptions,
        sink: Sink,
        report: PrepReport,
        progress: Progress,
    ) -> None:
        chosen = choose(source, options.limit, options.shard)
        images = images_of(source, chosen, options.limit, options.shard, options.max_file_bytes)
        folder = os.path.abspath(report.folder)
        with ExitStack() as stack:
            mark = stack.enter_context(shared_folder(Path(folder, MARKED)))
            bins = bins_digests(chosen, options.packing)
            recipe, packing = report.recipe, options.packing
            cache = NodeCache.of(options.cache, (folder, len(items) * sink.space_each))
            work = PrepWork(images, recipe, options.format, folder, mark, packing, bins, cache)
            driver = stack.enter_context(
                Driver(cluster, work, chosen, _no_model, options.threads, options.cache)
            )
            stored = _Stored(chosen, mark, sink, report)
            try:
                driver.open()
                todo = np.asarray(items.places, np.int32)
                # Tensors of a pack that wait for those before them would be lost with the run.
                answers = driver.results(todo, in_order=isinstance(sink, PackSink))
                if isinstance(sink, PackSink):
                    stack.callback(sink.rows.close)
                    answers = _in_order(answers, todo)
                for places, done, _ in answers:
                    report.nodes = driver.reports
                    stored.add(places, done)
                    progress(report)
                    if report.failures and options.on_error == "stop":
                        raise ImageError(f"{report.failures[0]} (stopped at the first failure)")
            finally:
                report.nodes = driver.reports
                report.threads = sum(node.threads for node in driver.reports)
                stored.sort_failures()
        if isinstance(sink, BinSink):
            if driver.leaves_files:
                sink.remove_unfinished()
        elif isinstance(sink, FileSink) and driver.leaves_files:
            sink.remove_unfinished(report.names)

    return store


class _Stored:
    """Counts in `report` what nodes have stored. items: all that the run is about. mark: the file
    beside those of the nodes, see PrepWork."""

    def __init__(self, items: Sequence[Item], mark: str, sink: Sink, report: PrepReport) -> None:
        self._items, self._mark, self._sink, self._report = items, mark, sink, report
        self._failures: list[tuple[int, Failure]] = []
        self._stats = Stats()

    def add(self, places: Places, done: Done) -> None:
        """Takes what became of the images at `places`; adds the rows of a pack to it."""
        sink, report, stats = self._sink, self._report, self._stats
        if isinstance(sink, PackSink):
            names = [self._items[i].name for i in places.tolist()]
            _append(sink.rows, self._mark, done, names)
        elif isinstance(sink, BinSink):
            sink.held |= done.held
        failed = places[~done.is_good].tolist()
        self._failures += zip(failed, done.failures, strict=True)
        report.failures += done.failures
        stats.add_stats(done.stats)
        report.prepared += int(done.is_good.sum())
        report.nbytes_in = stats.nbytes_in
        report.nbytes_out = report.prepared * sink.nbytes_each
        report.stage_seconds, report.decoders = stats.stage_seconds, stats.decoders

    def sort_failures(self) -> None:
        """Puts the report's failures into source order; call this after the last answer."""
        self._failures.sort(key=lambda pair: pair[0])
        self._report.failures = [failure for _, failure in self._failures]


def _in_order(answers: Iterator[Answer], places: Places) -> Iterator[Answer]:
    """The answers in the order of `places`, of which each answer has some that follow one another.

    The tensors of those that wait for their turn lie in files, not in memory.
    """
    waiting: dict[int, Answer] = {}
    begin = 0
    for answer in answers:
        waiting[int(answer[0][0])] = answer
        while begin < len(places) and int(places[begin]) in waiting:
            following = waiting.pop(int(places[begin]))
            begin += len(following[0])
            yield following


def _append(rows: NamedRows, mark: str, done: Done, names: Sequence[str]) -> None:
    """Moves the rows of a task's file to the end of the pack. names: of the task's images."""
    path = Path(mark).with_name(done.file)
    stored, tensors = read_named_rows(path)
    if stored != [name for name, is_good in zip(names, done.is_good, strict=True) if is_good]:
        raise OutputError(f"{path}: holds tensors of other images than its task")
    each = max(1, COPY_BYTES // rows.nbytes_each)
    for i in range(0, len(stored), each):
        rows.append(stored[i : i + each], tensors[i : i + each])
    with write_errors(path):
        path.unlink()
        names_path(path).unlink()


def _no_model() -> NDArray[np.uint8]:
    raise AssertionError("a preparation has no model")
