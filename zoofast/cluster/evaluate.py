"""An evaluation on a Ray cluster. The score, the journal and the report are the driver's."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoofast.base.files import read_file
from zoofast.base.nodes import NodeReport
from zoofast.base.onnx_weights import weight_files
from zoofast.base.provenance import model_digest
from zoofast.base.text import counted
from zoofast.cluster.connection import RayCluster
from zoofast.cluster.driver import Driver
from zoofast.cluster.shared import read_logits, shared_folder
from zoofast.cluster.work import Done, EvalWork, Images, NodeCache, names_digests
from zoofast.errors import BackendError, OutputError
from zoofast.evaluation.answers import Places
from zoofast.evaluation.options import EvalOptions
from zoofast.evaluation.result import Evaluation
from zoofast.evaluation.run import Progress, Run, lock_outputs
from zoofast.preprocess.recipe import Recipe, resize_order
from zoofast.preprocess.sources import Item, Source
from zoofast.scoring.labels import Labels
from zoofast.timing.timeline import Timeline

MAX_MODEL_BYTES = 16 << 30
NODES_LOGITS = ".nodes"  # ends the name of the folder of the nodes' logits, beside the file of all


def images_of(
    source: Source,
    items: Sequence[Item],
    limit: int | None,
    shard: tuple[int, int],
    max_file_bytes: int,
) -> Images:
    """What a node must know to list `items` itself."""
    where, digests = source.where, names_digests(items)
    return Images(where, limit, shard, digests, resize_order(), os.getcwd(), max_file_bytes)


def check_options(options: EvalOptions) -> None:
    """Raises OutputError for options that need one machine."""
    if options.trace:
        raise OutputError("--trace is for one machine, without --ray")


def evaluate_on(
    cluster: RayCluster,
    source: Source,
    items: Sequence[Item],
    recipe: Recipe,
    labels: Labels | None,
    options: EvalOptions,
    progress: Progress = lambda state: None,
    limit: int | None = None,
    shard: tuple[int, int] = (1, 1),
) -> Evaluation:
    """Like zoofast.evaluation.evaluate.evaluate, on the nodes of `cluster`.

    `limit` and `shard` are those that `items` were chosen with. Every node lists the source itself
    and uses all its devices; `options.threads` are of each node. The result is the same, byte for
    byte. A node that is lost is in the result's lost_nodes. Raises what evaluate raises.
    """
    check_options(options)
    evaluation = Evaluation(recipe, source.where, options.specs, len(items), len(source.skipped))
    spec = options.specs[0]

    def read_model() -> NDArray[np.uint8]:
        with _model_errors(spec.model):
            if further := weight_files(spec.model):
                raise BackendError(
                    f"{spec.model}: a node has not the same model, and it cannot be sent, since "
                    f"its weights lie in {counted(len(further), 'further file')} ({further[0]}); "
                    "put the model on storage that all nodes share, or save it as one file"
                )
            return np.frombuffer(read_file(spec.model, MAX_MODEL_BYTES), np.uint8)

    with _model_errors(spec.model):
        digest = model_digest(spec.model) if Path(spec.model).is_file() else ""

    with ExitStack() as stack:
        lock_outputs(options, stack)
        mark = ""
        if options.logits is not None:
            folder = options.logits.with_name(options.logits.name + NODES_LOGITS)
            mark = stack.enter_context(shared_folder(folder))
        work = EvalWork(
            images_of(source, items, limit, shard, options.max_file_bytes),
            recipe,
            spec,
            digest,
            options.depth,
            options.output_index,
            options.scoring.top_k,
            options.timeout,
            mark,
            NodeCache.of(options.cache),
        )
        run = Run(evaluation, items, labels, options, progress, stack)
        driver = stack.enter_context(
            Driver(cluster, work, items, read_model, options.threads, options.cache)
        )
        opened = driver.open()
        evaluation.input, evaluation.depth = opened.input, opened.depth
        with run.ending():
            try:
                _run_all(run, evaluation, driver, opened.classes, mark)
            finally:
                evaluation.nodes, evaluation.lost_nodes = driver.reports, driver.lost
    return evaluation


@contextmanager
def _model_errors(model: str) -> Iterator[None]:
    """Turns an OSError into a BackendError that names the model."""
    try:
        yield
    except OSError as error:
        raise BackendError(f"{model}: cannot be read: {error.strerror}") from error


def _run_all(
    run: Run,
    evaluation: Evaluation,
    driver: Driver,
    classes: int,
    mark: str,
) -> None:
    """Runs the images that have no answer."""
    run.begin(classes)
    begin = time.monotonic_ns()
    evaluation.timeline = Timeline(begin, images=False)
    try:
        run.report_progress()
        for number, (places, done, node) in enumerate(driver.results(run.todo)):
            if done.best is None or done.best.classes.shape[1:] != (
                min(run.options.scoring.top_k + 1, classes),
            ):
                raise BackendError(f"{node.name}: has answered with another number of classes")
            run.state.lost_nodes = driver.lost
            _add(run, evaluation, places, done, mark)
            run.report_if_due()
            _count(evaluation, done, node, number)
            if run.must_stop():
                break
        run.report_progress()
        run.check_stop()
    finally:
        evaluation.seconds = (time.monotonic_ns() - begin) / 1e9
        evaluation.threads = sum(node.threads for node in driver.reports)
        evaluation.concurrency = driver.concurrency
    run.finish_logits()


def _add(
    run: Run,
    evaluation: Evaluation,
    places: Places,
    done: Done,
    mark: str,
) -> None:
    assert done.best is not None
    evaluation.stats.add_stats(done.stats)
    with ExitStack() as stack:
        logits = None
        if mark and done.is_good.any():
            shape = int(done.is_good.sum()), evaluation.classes
            logits = stack.enter_context(read_logits(mark, done.file, shape))
        run.add(places, done.is_good, done.best, done.failures, logits)


def _count(evaluation: Evaluation, done: Done, node: NodeReport, number: int) -> None:
    """Records how long the devices of a node computed, in one row of the timeline."""
    timeline, executors = evaluation.timeline, max(done.executors, 1)
    busy = timeline.busy_ns.setdefault(f"devices of {node.name}", {})
    for stage, ns in zip(("infer", "wait"), done.device_ns, strict=True):
        busy[stage] = busy.get(stage, 0) + ns // executors
    timeline.end_ns = time.monotonic_ns()
    timeline.finish(number, len(done.is_good), timeline.end_ns)
