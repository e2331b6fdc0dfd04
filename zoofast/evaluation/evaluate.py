"""Images in, accuracy out: streams the images through a model and scores the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.files import MAX_FILE_BYTES
from zoofast.base.lock import output_lock
from zoofast.base.provenance import model_digest
from zoofast.base.rows import NamedRows
from zoofast.errors import BackendError, ImageError, LabelError, OutputError, ZoofastError
from zoofast.evaluation.journal import Journal
from zoofast.evaluation.result import EvalProgress, Evaluation
from zoofast.inference.backends import backend_of
from zoofast.inference.devices import Devices
from zoofast.inference.spec import DEVICE_TIMEOUT, ModelSpec, check_recipe
from zoofast.inference.stream import InferredBatch, ring_depth, stream
from zoofast.preprocess.loader import Failure, Loader
from zoofast.preprocess.recipe import Recipe, resize_order
from zoofast.preprocess.sources import Item, Source
from zoofast.scoring.labels import Labels
from zoofast.scoring.score import (
    Predictions,
    Problems,
    ScoreOptions,
    match_labels,
    score_predictions,
    true_classes,
)
from zoofast.scoring.topk import TopK
from zoofast.timing.timeline import CALLER, Timeline
from zoofast.timing.trace import TraceWriter

PROGRESS_NS = 100_000_000  # between two reports of progress


@dataclass(frozen=True)
class EvalOptions:
    """How to evaluate.

    specs: the model, once for each device. threads, depth (of the ring, in batches): None for
    defaults. on_error: "skip", or "stop" at the first image that fails. max_file_bytes: of an image
    file; a larger one fails. timeout: as in zoofast.inference.devices.Devices; for each batch.
    journal: the file that a stopped run is resumed from. overwrite: forget what the journal holds.
    logits: a .npy file for all scores. trace: a file to write, see zoofast.timing.trace. details:
    record the loader's threads too, for a report.
    """

    specs: Sequence[ModelSpec]
    threads: int | None = None
    depth: int | None = None
    output_index: int = 0
    scoring: ScoreOptions = field(default_factory=ScoreOptions)
    on_error: str = "skip"
    max_file_bytes: int = MAX_FILE_BYTES
    timeout: float = DEVICE_TIMEOUT
    journal: Path | None = None
    logits: Path | None = None
    resume: bool = False
    overwrite: bool = False
    trace: Path | None = None
    details: bool = False


# Called when everything is loaded, then after batches, every PROGRESS_NS at most.
Progress = Callable[[EvalProgress], None]


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
    change the result. The other devices compute what a lost device did not.

    Raises BackendError (a model that cannot be loaded or does not take the recipe's tensors; no
    device left), ImageError (with on_error "stop"), ResultError, LabelError, OutputError (also
    when another process writes the journal or the logits). With a journal, the images that are
    done are not lost, however the run ends; see zoofast.evaluation.journal.end_journal.
    """
    evaluation = Evaluation(recipe, source.where, options.specs, len(items), len(source.skipped))
    with ExitStack() as stack:
        for path in (options.journal, options.logits):
            if path is not None:
                stack.enter_context(output_lock(path))
        run = _Run(evaluation, items, labels, options, progress, stack)
        devices = stack.enter_context(Devices(options.specs, options.timeout))
        check_recipe(devices.input, recipe)
        check_output(devices, options.output_index)
        evaluation.input, evaluation.concurrency = devices.input, devices.concurrency
        on_host = devices.concurrency > len(devices)
        evaluation.depth = options.depth or ring_depth(
            devices.input.shape[0], devices.prefetch, on_host
        )
        try:
            run.run_all(source, devices)
            evaluation.state = "complete"
        except KeyboardInterrupt:
            evaluation.state = "partial"
        except ZoofastError as error:
            if options.journal is None or not run.answers.names:
                raise
            message = f"{error}; the images that are done are kept, and --resume continues"
            raise type(error)(message) from error
        evaluation.lost_devices = dict(devices.lost)
        run.finish()
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


class _Answers:
    """The best classes of the images that are done, each at the place of its image in `items`."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._places = {item.name: place for place, item in enumerate(items)}
        self._size = len(items)
        self.names: list[str] = []  # in the order of their answers
        self._order: list[int] = []  # the places of `names`
        self._best: TopK | None = None

    def add(self, names: Sequence[str], best: TopK) -> None:
        """At least one name. Raises KeyError for a name that is not among the items."""
        places = [self._places[name] for name in names]
        # Allocated once, for all images: many small arrays that outlive large ones fragment the
        # heap.
        if self._best is None:
            self._best = TopK.empty(self._size, best.classes.shape[1])
        # The images of a batch are in the source's order, mostly without a gap.
        first, end = places[0], places[-1] + 1
        is_run = places == list(range(first, end))
        self._best.put(slice(first, end) if is_run else np.array(places, np.int64), best)
        self.names += names
        self._order += places

    def reorder(self, names: Sequence[str]) -> None:
        """Takes the answers in another order."""
        self.names = list(names)
        self._order = [self._places[name] for name in names]

    def classes(self, first: int) -> NDArray[np.int32]:
        """(n, k): the best classes of names[first:]."""
        if self._best is None:
            return np.empty((0, 1), np.int32)
        return self._best.classes[self._order[first:]]

    def in_source_order(self) -> tuple[list[str], TopK] | None:
        """All names and answers; None when there is no answer."""
        if self._best is None:
            return None
        order = self.source_order()
        places = np.array([self._order[i] for i in order], np.int64)
        return [self.names[i] for i in order], self._best[places]

    def source_order(self) -> list[int]:
        """Numbers of `names`, sorted by the place of the image."""
        return sorted(range(len(self._order)), key=self._order.__getitem__)

    def place(self, name: str) -> int:
        return self._places[name]


class _Run:
    """One evaluation while it runs: the answers so far, of this run and of the resumed one."""

    def __init__(
        self,
        evaluation: Evaluation,
        items: Sequence[Item],
        labels: Labels | None,
        options: EvalOptions,
        progress: Progress,
        stack: ExitStack,
    ) -> None:
        self._evaluation, self._labels, self._options = evaluation, labels, options
        self._items, self._progress = list(items), progress
        self.answers = _Answers(items)
        self._journal: Journal | None = None
        self._logits: NamedRows | None = None
        if options.journal is not None:
            self._resume(options.journal, stack)
        done = set(self.answers.names)
        self._todo = [item for item in items if item.name not in done]
        evaluation.resumed = len(items) - len(self._todo)
        self._state = EvalProgress(evaluation.resumed)
        self._counted = 0  # answers that self._state.hits includes
        self._reported_ns = 0  # when progress was last reported, monotonic
        self._label_of: dict[str, int] = {}  # image -> class of the model
        if labels is not None and not any(item.name in labels.by_name for item in items):
            raise LabelError(
                f"{labels.source}: no image has a label: the names do not match "
                f"({items[0].name} against {next(iter(labels.by_name))})"
            )

    def _resume(self, path: Path, stack: ExitStack) -> None:
        """Opens the journal and takes the answers that it holds."""
        self._journal = Journal(
            path, self._run_description(), self._options.resume, self._options.overwrite
        )
        stack.callback(self._journal.close)
        for names, best in self._journal.resumed:
            try:
                self.answers.add(names, best)
            except KeyError as error:
                raise OutputError(
                    f"{path}: holds {error.args[0]}, which is not among this run's images; "
                    "resume with the same source and choice, or begin anew with --overwrite"
                ) from None

    def _run_description(self) -> dict[str, Any]:
        """What a run must have in common with the run that it resumes."""
        spec = self._options.specs[0]
        return {
            "model": model_digest(spec.model),
            "backend": backend_of(spec.model, spec.backend),
            "recipe": self._evaluation.recipe.digest,
            "Pillow, of another resize order,": resize_order(),
            "output": self._options.output_index,
            "top-k": self._options.scoring.top_k,
        }

    def run_all(self, source: Source, devices: Devices) -> None:
        """Runs the images that have no answer. After a KeyboardInterrupt, `finish` may follow."""
        evaluation, options = self._evaluation, self._options
        self._state.lost_devices = devices.lost
        self._classes = int(np.prod(devices.outputs[options.output_index].shape[1:]))
        self._check_resumed()
        self._load_labels()
        if self._journal is not None:
            self._journal.begin()
        if options.logits is not None:
            self._logits = self._open_logits(options.logits)
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
                    items=self._todo,
                    batch_size=devices.input.shape[0],
                    threads=options.threads,
                    depth=evaluation.depth,
                    shared=devices.shared,
                    memory=devices.host_memory,
                    max_file_bytes=options.max_file_bytes,
                )
            )
            evaluation.threads, evaluation.stats = loader.threads, loader.stats
            self._report_progress()
            try:
                batches = stream(
                    loader, devices, options.output_index, timeline, stopped=self._must_stop
                )
                for batch in batches:
                    begin_ns = time.monotonic_ns()
                    self._add_batch(batch)
                    timeline.span(CALLER, "score", begin_ns, time.monotonic_ns(), batch.number)
                self._report_progress()
                if self._must_stop():
                    first = min(evaluation.failures, key=self._place)
                    raise ImageError(f"{first} (stopped at the first failure)")
            finally:
                evaluation.seconds = (time.monotonic_ns() - begin) / 1e9
                if self._logits is not None:
                    self._logits.close()
            evaluation.times = devices.finish()
            if self._logits is not None:
                self._logits.finish(self.answers.source_order())

    def _check_resumed(self) -> None:
        """Raises OutputError when the journal's classes cannot be of this model."""
        classes = self.answers.classes(0)
        k = min(self._options.scoring.top_k + 1, self._classes)
        if classes.size and not (
            classes.shape[1] == k and -1 <= classes.min() <= classes.max() < self._classes
        ):
            raise OutputError(
                f"{self._options.journal}: holds other classes than the model's {self._classes}; "
                "begin anew with --overwrite"
            )

    def _open_logits(self, path: Path) -> NamedRows:
        rows = NamedRows(path, (self._classes,), "float32")
        if not self.answers.names:
            rows.clear_parts()
            return rows
        done = set(self.answers.names)

        def as_in_journal(names: Sequence[str]) -> int:
            return len(done) if set(names[: len(done)]) == done else 0

        names = rows.reopen(as_in_journal)
        if len(names) < len(done):
            raise OutputError(
                f"{path}: has not the logits of the {len(done)} images that are done; begin "
                "anew with --overwrite"
            )
        self.answers.reorder(names)
        return rows

    def _must_stop(self) -> bool:
        return self._options.on_error == "stop" and bool(self._evaluation.failures)

    def _place(self, failure: Failure) -> int:
        return self.answers.place(failure.name)

    def _add_batch(self, batch: InferredBatch) -> None:
        evaluation, names = self._evaluation, batch.prepared.names
        evaluation.failures += batch.prepared.failures
        if names:
            best = TopK.of_logits(batch.logits, self._options.scoring.top_k + 1)
            # The logits are written before the journal: a resumed run cuts off logits that the
            # journal does not have.
            if self._logits is not None:
                self._logits.append(names, batch.logits)
            if self._journal is not None:
                self._journal.append(names, best)
            self.answers.add(names, best)
            evaluation.images += len(names)
        self._state.images += len(batch.prepared.items)
        if time.monotonic_ns() - self._reported_ns > PROGRESS_NS:
            self._report_progress()

    def _report_progress(self) -> None:
        evaluation, state = self._evaluation, self._state
        names = self.answers.names[self._counted :]
        classes = self.answers.classes(self._counted)[:, : self._options.scoring.top_k]
        truth = np.array([self._label_of.get(name, -1) for name in names], np.int32)
        hits = (classes == truth[:, None]) & (truth >= 0)[:, None]
        top1, top_k = state.hits
        state.hits = (top1 + int(hits[:, 0].sum()), top_k + int(hits.any(axis=1).sum()))
        state.scored += int((truth >= 0).sum())
        self._counted += len(names)
        state.failures = len(evaluation.failures)
        state.nbytes_in = evaluation.stats.nbytes_in
        state.device_busy = evaluation.device_share("infer")
        self._progress(state)
        self._reported_ns = time.monotonic_ns()

    def _load_labels(self) -> None:
        """Reads each image's class. Before the run, so that labels which do not fit the model cost
        no time."""
        if self._labels is None:
            return
        offset = self._options.scoring.offset(self._classes)
        names = [item.name for item in self._items if item.name in self._labels.by_name]
        truth = true_classes(names, self._labels, self._classes, offset)
        self._label_of = dict(zip(names, truth.tolist(), strict=True))

    def finish(self) -> None:
        """Scores the images that are done."""
        evaluation, labels = self._evaluation, self._labels
        evaluation.failures.sort(key=self._place)
        answers = self.answers.in_source_order()
        if labels is None or answers is None:
            return
        names, best = answers
        failed = {failure.name: failure.reason for failure in evaluation.failures}
        labels_of_run = labels
        if evaluation.state != "complete":
            tried = failed.keys() | set(names)
            by_name = {name: label for name, label in labels.by_name.items() if name in tried}
            labels_of_run = replace(labels, by_name=by_name)
        problems = Problems(failed=failed)
        usable = np.flatnonzero(match_labels(names, failed, labels_of_run, problems))
        if not len(usable):
            return
        predictions = Predictions(
            [names[i] for i in usable.tolist()],
            best[usable],
            self._classes,
            self._options.output_index,
        )
        samples = len({item.name for item in self._items} | labels.by_name.keys())
        evaluation.score = score_predictions(
            predictions, labels_of_run, problems, samples, self._options.scoring
        )
