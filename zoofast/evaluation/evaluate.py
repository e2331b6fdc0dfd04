"""Images in, accuracy out: a stream through a model, scored, with nothing but answers kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from zoofast.base.provenance import model_digest, versions
from zoofast.base.rows import NamedRows
from zoofast.errors import BackendError, ImageError, LabelError, OutputError, ZoofastError
from zoofast.evaluation.journal import Journal
from zoofast.inference.backends import TensorInfo, Times, backend_of
from zoofast.inference.folder import check_recipe
from zoofast.inference.stream import Devices, ModelSpec, Streamed, ring_depth, stream
from zoofast.preprocess.loader import Failure, Loader, Stats
from zoofast.preprocess.recipe import Recipe, resize_order
from zoofast.preprocess.sources import Item, Source
from zoofast.scoring.labels import Labels
from zoofast.scoring.score import (
    Predictions,
    Problems,
    Score,
    ScoreOptions,
    automatic_offset,
    match_labels,
    score_predictions,
    true_classes,
)
from zoofast.scoring.topk import TopK
from zoofast.timing.timeline import CALLER, Timeline
from zoofast.timing.trace import TraceWriter

DEVICE_TIMEOUT = 600.0


@dataclass(frozen=True)
class Options:
    """How to evaluate. specs: the model, once for each device. threads, depth (batches in the
    ring): None for what fits. journal: what a killed run is resumed from. logits: a .npy to save
    them to. trace: a file to write, see zoofast.timing.trace. details: the timeline has the workers
    as well, for a report."""

    specs: Sequence[ModelSpec]
    threads: int | None = None
    depth: int | None = None
    output_index: int = 0
    scoring: ScoreOptions = field(default_factory=ScoreOptions)
    on_error: str = "skip"  # or "stop", at the first image that fails
    timeout: float = DEVICE_TIMEOUT
    journal: Path | None = None
    logits: Path | None = None
    resume: bool = False
    trace: Path | None = None
    details: bool = False


@dataclass
class Running:
    """How far an evaluation is: what a progress bar shows."""

    kept: int  # from an earlier run
    images: int  # tried in this run
    failures: int
    scored: int  # of these, kept ones included, with a label
    hits: tuple[int, int]  # top-1, top-k of those
    device_busy: float  # part of the devices' time so far
    nbytes_in: int


@dataclass
class Evaluation:
    """What a run found. Times and rates are of this run; kept images were of an earlier one."""

    recipe: Recipe
    source: str
    specs: Sequence[ModelSpec]
    total: int  # images chosen
    skipped: int  # files that are no images
    kept: int = 0
    images: int = 0  # through the model in this run
    failures: list[Failure] = field(default_factory=list)
    state: str = "running"  # then complete or partial
    seconds: float = 0.0  # first image to last answer, without loading and closing the model
    threads: int = 0
    depth: int = 0
    lanes: int = 0  # batches that all devices compute at once
    input: TensorInfo | None = None
    times: list[Times] = field(default_factory=list)  # of each device
    stats: Stats = field(default_factory=Stats)
    timeline: Timeline = field(default_factory=lambda: Timeline(0))
    score: Score | None = None

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds > 0 else 0.0

    def device_share(self, stage: str) -> float:
        """The part of the devices' time that went to `stage`, "infer" or "wait"."""
        per_thread = self.timeline.busy_ns
        devices = [busy for name, busy in per_thread.items() if name.startswith("device")]
        whole = sum(ns for busy in devices for ns in busy.values())
        return sum(busy.get(stage, 0) for busy in devices) / (whole or 1)

    def device_rate(self) -> float:
        """Images a second that the devices would compute with nothing around them."""
        if self.input is None:
            return 0.0
        batch, lanes = self.input.shape[0], self.lanes / len(self.specs)
        means = [float(np.mean(times.compute)) for times in self.times if times.compute]
        return sum(1000 * batch * lanes / max(mean, 1e-9) for mean in means)

    def waiting(self) -> str:
        """Who waits for whom, in words."""
        busy = self.device_share("infer")
        who = "the device waits for this host" if busy < 0.5 else "this host waits for the device"
        if 0.5 <= busy < 0.9:
            who = "host and device are about equally fast"
        return f"{who}: the device computes {busy:.0%} of the time"

    def as_dict(self) -> dict[str, Any]:
        """Everything but the sampled spans, for JSON."""
        spec = self.specs[0]
        return {
            "tool": "zoofast eval",
            "versions": versions(),
            "state": self.state,
            "model": spec.model,
            "model_digest": model_digest(spec.model),
            "backend": backend_of(spec.model, spec.backend),
            "devices": [each.device for each in self.specs],
            "input": str(self.input),
            "batchsize": self.input.shape[0] if self.input else None,
            "recipe": {"name": self.recipe.name, "digest": self.recipe.digest},
            "source": self.source,
            "total": self.total,
            "skipped_as_no_image": self.skipped,
            "kept_from_before": self.kept,
            "images": self.images,
            "failures": [asdict(failure) for failure in self.failures],
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "device_images_per_second": self.device_rate(),
            "device_busy": self.device_share("infer"),
            "threads": self.threads,
            "ring_depth": self.depth,
            "lanes": self.lanes,
            "stage_seconds": self.stats.stage_seconds,
            "decoders": self.stats.decoders,
            "per_thread": self.timeline.shares(),
            "rate_over_time": self.timeline.rate.points(),
            "score": self.score.as_dict() if self.score else None,
        }


# called with no images when all is loaded, then after batches, but not more often than anyone sees
Progress = Callable[[Running], None]
PROGRESS_NS = 100_000_000


def evaluate(
    source: Source,
    items: Sequence[Item],
    recipe: Recipe,
    labels: Labels | None,
    options: Options,
    progress: Progress = lambda running: None,
) -> Evaluation:
    """Runs `items` of `source` through the model, and scores the answers against `labels`.

    Images that fail are left out, listed, and counted as not scored. Ctrl-C ends the run early:
    the score is then of what is through, and `state` is "partial". Without labels nothing is
    scored. Answers are taken in source order, so threads, batch size, ring and devices have no
    influence on the outcome.

    Raises BackendError (a model that cannot be loaded, does not take what the recipe makes, or
    fails), ImageError (with on_error "stop"), ResultError, LabelError, OutputError. With a
    journal, what is through is kept, whatever ends the run.
    """
    found = Evaluation(recipe, source.where, options.specs, len(items), len(source.skipped))
    with ExitStack() as stack:
        run = _Run(found, items, labels, options, progress, stack)
        devices = stack.enter_context(Devices(options.specs, options.timeout))
        check_recipe(devices.input, recipe)
        check_output(devices, options.output_index)
        found.input, found.lanes = devices.input, devices.lanes
        on_host = devices.lanes > len(devices)
        found.depth = options.depth or ring_depth(devices.input.shape[0], devices.ahead, on_host)
        try:
            run.through(source, devices)
            found.state = "complete"
        except KeyboardInterrupt:
            found.state = "partial"
        except ZoofastError as error:
            if options.journal is None:
                raise
            raise type(error)(f"{error}; what is through stays, and --resume continues") from error
        run.finish()
    return found


def check_output(devices: Devices, index: int) -> None:
    """Raises BackendError unless the model has output `index`, with a score for each class."""
    outputs = devices.outputs
    if index >= len(outputs):
        there = ", ".join(f"{i} {output}" for i, output in enumerate(outputs))
        raise BackendError(f"the model has no output {index}; it has {there}")
    if outputs[index].shape[0] != devices.input.shape[0]:
        raise BackendError(f"output {outputs[index]} has no row for each image of the batch")


class _Run:
    """The state of one evaluation: what was kept and what came in."""

    def __init__(
        self,
        found: Evaluation,
        items: Sequence[Item],
        labels: Labels | None,
        options: Options,
        progress: Progress,
        stack: ExitStack,
    ) -> None:
        self._found, self._labels, self._options = found, labels, options
        self._items, self._progress = list(items), progress
        # the answers so far: room for all at once, since small pieces that stay between large ones
        # that go would tear the heap to shreds
        self._names: list[str] = []
        self._ranked: TopK | None = None
        self._journal: Journal | None = None
        self._logits: NamedRows | None = None
        if options.journal is not None:
            self._journal = Journal(options.journal, self._about(), options.resume)
            stack.callback(self._journal.close)
            chosen = {item.name for item in items}
            for names, part in self._journal.kept:
                if not chosen.issuperset(names):
                    other = next(name for name in names if name not in chosen)
                    raise OutputError(
                        f"{options.journal}: holds {other}, which is not among this run's images; "
                        "resume with the same source and choice, or begin anew with --overwrite"
                    )
                self._keep(names, part)
        done = set(self._names)
        self._todo = [item for item in items if item.name not in done]
        found.kept = len(items) - len(self._todo)
        self._running = Running(found.kept, 0, 0, 0, (0, 0), 0.0, 0)
        self._counted = 0  # answers whose hits are in it
        self._told_ns = 0  # when
        self._truth: dict[str, int] = {}  # class by name, of images with a label
        if labels is not None and not any(item.name in labels.by_name for item in items):
            raise LabelError(
                f"{labels.source}: no image has a label: the names do not match "
                f"({items[0].name} against {next(iter(labels.by_name))})"
            )

    def _about(self) -> dict[str, Any]:
        spec = self._options.specs[0]
        return {
            "model": model_digest(spec.model),
            "backend": backend_of(spec.model, spec.backend),
            "recipe": self._found.recipe.digest,
            "Pillow, of another resize order,": resize_order(),
            "output": self._options.output_index,
            "top-k": self._options.scoring.top_k,
        }

    def through(self, source: Source, devices: Devices) -> None:
        """Runs what is to be done; KeyboardInterrupt leaves what is through."""
        found, options = self._found, self._options
        self._classes = int(np.prod(devices.outputs[options.output_index].shape[1:]))
        self._know_truth()
        if options.logits is not None:
            self._logits = self._open_logits(options.logits)
        begin = time.monotonic_ns()
        with ExitStack() as stack:
            trace = options.trace
            writer = stack.enter_context(TraceWriter(trace, begin)) if trace else None
            timeline = Timeline(begin, writer, images=options.details or trace is not None)
            found.timeline = timeline
            loader = stack.enter_context(
                Loader(
                    source,
                    found.recipe,
                    items=self._todo,
                    batch_size=devices.input.shape[0],
                    threads=options.threads,
                    depth=found.depth,
                    shared=devices.shared,
                )
            )
            found.threads, found.stats = loader.threads, loader.stats
            self._tell()
            try:
                for streamed in stream(loader, devices, options.output_index, timeline):
                    scoring = time.monotonic_ns()
                    self._take(streamed)
                    timeline.span(CALLER, "score", scoring, time.monotonic_ns(), streamed.number)
                self._tell()
            finally:
                found.seconds = (time.monotonic_ns() - begin) / 1e9
                if self._logits is not None:
                    self._logits.close()
            found.times = devices.finish()
            if self._logits is not None:
                self._logits.finish()

    def _open_logits(self, path: Path) -> NamedRows:
        rows = NamedRows(path, (self._classes,), "float32")
        if not self._options.resume:
            rows.clear()
            return rows
        done = self._names

        def as_in_journal(names: Sequence[str]) -> int:
            return len(done) if list(names[: len(done)]) == done else 0

        if len(rows.reopen(as_in_journal)) < len(done):
            raise OutputError(
                f"{path}: has not the logits of the {len(done)} images that are through; begin "
                "anew with --overwrite"
            )
        return rows

    def _take(self, streamed: Streamed) -> None:
        found, names = self._found, streamed.prepared.names
        found.failures += streamed.prepared.failures
        if streamed.prepared.failures and self._options.on_error == "stop":
            raise ImageError(f"{streamed.prepared.failures[0]} (stopped at the first failure)")
        if names:
            ranked = TopK.of_logits(streamed.logits, self._options.scoring.top_k + 1)
            if self._logits is not None:
                self._logits.append(names, streamed.logits)
            if self._journal is not None:
                self._journal.append(names, ranked)
            self._keep(names, ranked)
            found.images += len(names)
        self._running.images += len(streamed.prepared.items)
        if time.monotonic_ns() - self._told_ns > PROGRESS_NS:
            self._tell()

    def _tell(self) -> None:
        """Says how far it is, and counts the running accuracy, which nothing else needs."""
        found, running = self._found, self._running
        if self._ranked is not None:
            names = self._names[self._counted :]
            k = self._options.scoring.top_k
            classes = self._ranked.classes[self._counted : len(self._names), :k]
            truth = np.array([self._truth.get(name, -1) for name in names], np.int32)
            hits = classes == truth[:, None]
            first, any_ = running.hits
            running.hits = (first + int(hits[:, 0].sum()), any_ + int(hits.any(axis=1).sum()))
            running.scored += int((truth >= 0).sum())
            self._counted = len(self._names)
        running.failures = len(found.failures)
        running.nbytes_in = found.stats.nbytes_in
        running.device_busy = found.device_share("infer")
        self._progress(running)
        self._told_ns = time.monotonic_ns()

    def _know_truth(self) -> None:
        """Before the work, since labels that do not fit the model would be of no use after it."""
        if self._labels is None:
            return
        offset = self._options.scoring.label_offset
        if offset is None:
            offset = automatic_offset(self._classes)
        names = [item.name for item in self._items if item.name in self._labels.by_name]
        truth = true_classes(names, self._labels, self._classes, offset)
        self._truth = dict(zip(names, truth.tolist(), strict=True))

    def _keep(self, names: Sequence[str], ranked: TopK) -> None:
        if self._ranked is None:
            self._ranked = TopK.empty(len(self._items), ranked.classes.shape[1])
        self._ranked.put(len(self._names), ranked)
        self._names += names

    def finish(self) -> None:
        """Scores what is through. A run with nothing left to do leaves no journal."""
        found, labels = self._found, self._labels
        whole = found.state == "complete"
        if whole and not found.failures and self._journal is not None:
            self._journal.remove()
        if labels is None or self._ranked is None:
            return
        failed = {failure.name: failure.reason for failure in found.failures}
        known = labels
        if not whole:
            seen = failed.keys() | set(self._names)
            by_name = {name: label for name, label in labels.by_name.items() if name in seen}
            known = replace(labels, by_name=by_name)
        problems = Problems(failed=failed)
        usable = np.flatnonzero(match_labels(self._names, failed, known, problems))
        if not len(usable):
            return
        predictions = Predictions(
            [self._names[i] for i in usable.tolist()],
            self._ranked[usable],
            self._classes,
            self._options.output_index,
        )
        samples = len({item.name for item in self._items} | labels.by_name.keys())
        found.score = score_predictions(
            predictions, known, problems, samples, self._options.scoring
        )
