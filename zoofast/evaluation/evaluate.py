"""Images in, accuracy out: streams the images through a model and scores the answers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import numpy as np

from zoofast.base.sequences import Selection
from zoofast.errors import BackendError
from zoofast.evaluation.options import EvalOptions
from zoofast.evaluation.result import Evaluation
from zoofast.evaluation.run import Progress, Run, lock_outputs
from zoofast.inference.devices import Devices
from zoofast.inference.spec import check_recipe
from zoofast.inference.stream import InferredBatch, ring_depth, stream
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import Item, Source
from zoofast.scoring.labels import Labels
from zoofast.scoring.topk import TopK
from zoofast.timing.timeline import Timeline
from zoofast.timing.trace import CALLER, TraceWriter

# Answers are ranked and recorded when so many bytes of logits have come, or when this time has
# passed since the last ranking. If each batch of 8 images is ranked by itself, this thread takes
# about 1.5 times as long.
RANKED_BYTES, RANKED_NS = 256 << 10, 100_000_000


def evaluate(
    source: Source,
    items: Sequence[Item],
    recipe: Recipe,
    labels: Labels | None,
    options: EvalOptions,
    progress: Progress = lambda state: None,
) -> Evaluation:
    """Runs `items` of `source` through the model and scores the answers against `labels`.

    Images that fail are left out, listed, and counted as not scored. Ctrl-C ends the run early: the
    score is then of the images that are done, and `state` is "partial". Without labels there is no
    score. Answers are scored in source order, so threads, batch size, ring and devices do not
    change the result. The other devices compute what a lost device did not. progress: is called
    when the model is loaded, then after batches, every 0.1 s at most.

    Raises SourceError (there are no items), BackendError (a model that cannot be loaded or does not
    take the recipe's tensors; no device left), ImageError (with on_error "stop"), RecipeError (an
    imported recipe that differs from its library), LabelError (no image has a label, or a label is
    no class of the model), OutputError (an output cannot be written, another process writes the
    journal or the logits, the journal is damaged or of another run), CpuLevelError, MemoryError.
    With a journal, the images that are done are not lost, however the run ends; see
    zoofast.evaluation.journal.end_journal. Only if the process is killed, the answers are lost that
    wait for their ranking.
    """
    evaluation = Evaluation(recipe, source.where, options.specs, len(items), len(source.skipped))
    with ExitStack() as stack:
        lock_outputs(options, stack)
        run = Run(evaluation, items, labels, options, progress, stack)
        devices = stack.enter_context(Devices(options.specs, options.timeout))
        check_recipe(devices.input, recipe)
        check_output(devices, options.output_index)
        evaluation.input, evaluation.concurrency = devices.input, devices.concurrency
        on_host = devices.concurrency > len(devices)
        evaluation.depth = options.depth or ring_depth(
            devices.input.shape[0], devices.prefetch, on_host
        )
        with run.ending():
            try:
                _run_all(run, evaluation, options, source, items, devices)
            finally:
                evaluation.lost_devices = dict(devices.lost)
    return evaluation


def check_output(devices: Devices, index: int) -> None:
    """Raises BackendError unless the model has output `index`, with a row for each image."""
    outputs, batch = devices.outputs, devices.input.shape[0]
    if index >= len(outputs):
        available = ", ".join(f"{i} {output}" for i, output in enumerate(outputs))
        raise BackendError(f"the model has no output {index}; it has {available}")
    shape = outputs[index].shape
    if not shape or shape[0] != batch:
        first = f"the first number of its shape is {shape[0]}" if shape else "it has no shape"
        raise BackendError(
            f"output {index}, {outputs[index]}, has no row for each image: {first}, but the batch "
            f"size is {batch}; choose another output with --output-index, or convert the model "
            "with an output of one row for each image"
        )


def _run_all(
    run: Run,
    evaluation: Evaluation,
    options: EvalOptions,
    source: Source,
    items: Sequence[Item],
    devices: Devices,
) -> None:
    """Runs the images that have no answer."""
    run.state.lost_devices = devices.lost
    run.begin(int(np.prod(devices.outputs[options.output_index].shape[1:])))
    begin = time.monotonic_ns()
    with ExitStack() as stack:
        trace = options.trace
        writer = stack.enter_context(TraceWriter(trace, begin)) if trace else None
        timeline = Timeline(begin, writer, images=options.details or trace is not None)
        evaluation.timeline = timeline
        loader = stack.enter_context(
            Loader(
                source,
                evaluation.recipe,
                items=Selection(items, run.todo),
                batch_size=devices.input.shape[0],
                threads=options.threads,
                depth=evaluation.depth,
                shared=devices.shared,
                memory=devices.host_memory,
                max_file_bytes=options.max_file_bytes,
                cache=options.cache,
            )
        )
        evaluation.threads, evaluation.stats = loader.threads, loader.stats
        run.report_progress()
        try:
            batches = stream(loader, devices, options.output_index, timeline, stopped=run.must_stop)
            _rank_all(run, batches, devices.input.shape[0], timeline)
            run.report_progress()
            run.check_stop()
        finally:
            evaluation.seconds = (time.monotonic_ns() - begin) / 1e9
        evaluation.times = devices.finish()
        run.finish_logits()


def _rank_all(
    run: Run, batches: Iterable[InferredBatch], batch_size: int, timeline: Timeline
) -> None:
    """Ranks the answers and adds them to `run`. Batches that come within RANKED_NS are ranked
    together, up to RANKED_BYTES of logits: one ranking of ten batches takes far less time than ten
    rankings."""
    waiting: list[InferredBatch] = []
    nbytes, ranked_ns = 0, 0
    try:
        for batch in batches:
            waiting.append(batch)
            nbytes += batch.logits.nbytes
            is_due = nbytes >= RANKED_BYTES or time.monotonic_ns() - ranked_ns >= RANKED_NS
            # A failure is recorded at once, since it may have to stop the run. In a trace, each
            # batch is followed to its ranking.
            if is_due or batch.prepared.failures or run.options.trace is not None:
                ranked, waiting, nbytes = waiting, [], 0
                _rank(run, ranked, batch_size, timeline)
                run.report_if_due()
                ranked_ns = time.monotonic_ns()
    finally:  # also after Ctrl-C, or when the last device is lost
        if waiting:
            _rank(run, waiting, batch_size, timeline)


def _rank(run: Run, batches: Sequence[InferredBatch], batch_size: int, timeline: Timeline) -> None:
    """Adds the answers of `batches`, one or more, to `run`. batch_size: images, of the model."""
    begin_ns = time.monotonic_ns()
    logits = np.concatenate([batch.logits for batch in batches])
    best = TopK.of_logits(logits, run.options.scoring.top_k + 1)
    places, is_good, failures = [], [], []
    for batch in batches:
        first = batch.number * batch_size
        places.append(run.todo[first : first + len(batch.prepared.items)])
        is_good.append(batch.prepared.is_good)
        failures += batch.prepared.failures
    run.add(np.concatenate(places), np.concatenate(is_good), best, failures, logits)
    timeline.span(CALLER, "score", begin_ns, time.monotonic_ns(), batches[-1].number)
