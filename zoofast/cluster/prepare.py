"""A preparation on a Ray cluster: every node writes to the folder, which all of them share."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoofast.base.sequences import Selection
from zoofast.cluster.connection import RayCluster
from zoofast.cluster.driver import Driver
from zoofast.cluster.evaluate import images_of
from zoofast.cluster.shared import shared_folder
from zoofast.cluster.work import PrepWork
from zoofast.errors import ImageError, OutputError
from zoofast.preprocess.folder import PrepOptions, PrepReport, Progress, Store, choose
from zoofast.preprocess.loader import Failure, Stats
from zoofast.preprocess.sinks import FileSink, Sink
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
        if not isinstance(sink, FileSink):
            raise OutputError(
                "--ray writes a file for each image: no --format pack, no --images-per-bin, no "
                "--mirror; use --shard and zoofast merge instead"
            )
        if options.cache is not None:
            raise OutputError("--cache is for one machine, without --ray")
        chosen = choose(source, options.limit, options.shard)
        images = images_of(source, chosen, options.limit, options.shard, options.max_file_bytes)
        folder = os.path.abspath(report.folder)
        failures: list[tuple[int, Failure]] = []
        stats = Stats()
        with ExitStack() as stack:
            mark = stack.enter_context(shared_folder(Path(folder, MARKED)))
            work = PrepWork(images, report.recipe, options.format, folder, mark, report.bins)
            driver = stack.enter_context(Driver(cluster, work, chosen, _no_model, options.threads))
            try:
                driver.open()
                for places, done, _ in driver.results(np.asarray(items.places, np.int32)):
                    failed = places[~done.is_good].tolist()
                    failures += zip(failed, done.failures, strict=True)
                    stats.add_stats(done.stats)
                    report.prepared += int(done.is_good.sum())
                    report.failures = [failure for _, failure in failures]
                    report.nodes = driver.reports
                    _count(report, stats, sink)
                    progress(report)
                    if failures and options.on_error == "stop":
                        raise ImageError(f"{failures[0][1]} (stopped at the first failure)")
            finally:
                report.nodes = driver.reports
                report.threads = sum(node.threads for node in driver.reports)
                failures.sort(key=lambda pair: pair[0])
                report.failures = [failure for _, failure in failures]
        if driver.lost:
            sink.remove_unfinished(report.names)

    return store


def _count(report: PrepReport, stats: Stats, sink: FileSink) -> None:
    report.nbytes_in = stats.nbytes_in
    report.nbytes_out = report.prepared * sink.nbytes_each
    report.stage_seconds, report.decoders = stats.stage_seconds, stats.decoders


def _no_model() -> NDArray[np.uint8]:
    raise AssertionError("a preparation has no model")
