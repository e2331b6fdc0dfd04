"""One evaluation while it runs: the answers so far, the journal, the progress, the score."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.lock import output_lock
from zoofast.base.provenance import model_digest
from zoofast.base.rows import NamedRows
from zoofast.errors import ImageError, LabelError, OutputError, ZoofastError
from zoofast.evaluation.journal import Journal
from zoofast.evaluation.options import EvalOptions
from zoofast.evaluation.result import EvalProgress, Evaluation
from zoofast.inference.backends import backend_of
from zoofast.preprocess.loader import Failure
from zoofast.preprocess.recipe import resize_order
from zoofast.preprocess.sources import Item
from zoofast.scoring.labels import Labels
from zoofast.scoring.score import (
    Predictions,
    Problems,
    Score,
    ScoreOptions,
    match_labels,
    score_predictions,
    true_classes,
)
from zoofast.scoring.topk import TopK

PROGRESS_NS = 100_000_000  # between two reports of progress

# Called when everything is loaded, then after batches, every PROGRESS_NS at most.
Progress = Callable[[EvalProgress], None]


class Answers:
    """The best classes of the images that are done, each at the place of its image in `items`."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._order = np.empty(len(items), np.int64)  # the places in the order of the answers
        self.count = 0
        self._best: TopK | None = None

    @cached_property
    def _places(self) -> dict[str, int]:
        return {item.name: place for place, item in enumerate(self._items)}

    def places(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Raises KeyError for a name that is not among the items."""
        return np.array([self._places[name] for name in names], np.int64)

    def add(self, places: NDArray[np.int64], best: TopK) -> None:
        """Takes the answers of at least one image. places (n,): of the images in the items."""
        # Allocated once, for all images: many small arrays that outlive large ones fragment the
        # heap.
        if self._best is None:
            self._best = TopK.empty(len(self._items), best.classes.shape[1])
        # The images of a batch are in the source's order, mostly without a gap.
        first, end = int(places[0]), int(places[-1]) + 1
        is_run = end - first == len(places) and bool((np.diff(places) == 1).all())
        self._best.put(slice(first, end) if is_run else places, best)
        self._order[self.count : self.count + len(places)] = places
        self.count += len(places)

    def names(self, first: int = 0) -> list[str]:
        """The names of the answers from number `first` on, in the order of the answers."""
        return [self._items[place].name for place in self._order[first : self.count].tolist()]

    def reorder(self, names: Sequence[str]) -> None:
        """Takes the answers in another order."""
        self._order[: self.count] = self.places(names)

    def classes(self, first: int) -> NDArray[np.int32]:
        """(n, k): the best classes of names(first)."""
        if self._best is None:
            return np.empty((0, 1), np.int32)
        return self._best.classes[self._order[first : self.count]]

    def in_source_order(self) -> tuple[list[str], TopK] | None:
        """All names and answers; None when there is no answer."""
        if self._best is None:
            return None
        places = np.sort(self.order)
        return [self._items[place].name for place in places.tolist()], self._best[places]

    @property
    def order(self) -> NDArray[np.int64]:
        """(n,): the places of the images in the order of their answers."""
        return self._order[: self.count]

    def source_order(self) -> list[int]:
        """Numbers of the answers, sorted by the place of the image."""
        order: list[int] = np.argsort(self.order).tolist()
        return order

    def place(self, name: str) -> int:
        return self._places[name]


def lock_outputs(options: EvalOptions, stack: ExitStack) -> None:
    """Locks the outputs to which a run adds, until `stack` is closed. Raises OutputError."""
    for path in (options.journal, options.logits):
        if path is not None:
            stack.enter_context(output_lock(path))


class Run:
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
        self._evaluation, self._labels, self.options = evaluation, labels, options
        self._stack = stack
        self._items, self._progress = list(items), progress
        self.answers = Answers(items)
        self._journal: Journal | None = None
        self._logits: NamedRows | None = None
        if options.journal is not None:
            self._resume(options.journal, stack)
        is_todo = np.ones(len(items), bool)
        is_todo[self.answers.order] = False
        self.todo = np.flatnonzero(is_todo)  # (n,): the places of the images without an answer
        evaluation.resumed = len(items) - len(self.todo)
        self.state = EvalProgress(evaluation.resumed)
        self._counted = 0  # answers that self.state.hits includes
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
            path, self._run_description(), self.options.resume, self.options.overwrite
        )
        stack.callback(self._journal.close)
        resumed, self._journal.resumed = self._journal.resumed, []  # freed when taken
        for names, best in resumed:
            try:
                self.answers.add(self.answers.places(names), best)
            except KeyError as error:
                raise OutputError(
                    f"{path}: holds {error.args[0]}, which is not among this run's images; "
                    "resume with the same source and choice, or begin anew with --overwrite"
                ) from None

    def _run_description(self) -> dict[str, Any]:
        """What a run must have in common with the run that it resumes."""
        spec = self.options.specs[0]
        return {
            "model": model_digest(spec.model),
            "backend": backend_of(spec.model, spec.backend),
            "recipe": self._evaluation.recipe.digest,
            "Pillow, of another resize order,": resize_order(),
            "output": self.options.output_index,
            "top-k": self.options.scoring.top_k,
        }

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Says how the run ended that the block makes, and scores what is done, also after Ctrl-C.

        With a journal, an error says that what is done is kept.
        """
        evaluation, options = self._evaluation, self.options
        try:
            yield
            evaluation.state = "complete"
        except KeyboardInterrupt:
            evaluation.state = "partial"
        except ZoofastError as error:
            if options.journal is None or not self.answers.count:
                raise
            message = f"{error}; the images that are done are kept, and --resume continues"
            raise type(error)(message) from error
        self._finish()

    def begin(self, classes: int) -> None:
        """Call this when the model is loaded, of `classes` classes, and before the first `add`."""
        self._evaluation.classes = classes
        self._check_resumed()
        self._load_labels()
        if self._journal is not None:
            self._journal.begin()
        if self.options.logits is not None:
            self._logits = self._reopen_logits(self.options.logits)
            self._stack.callback(self._logits.close)

    def _check_resumed(self) -> None:
        """Raises OutputError when the journal's classes cannot be of this model."""
        classes = self.answers.classes(0)
        k = min(self.options.scoring.top_k + 1, self._evaluation.classes)
        if classes.size and not (
            classes.shape[1] == k
            and -1 <= classes.min() <= classes.max() < self._evaluation.classes
        ):
            raise OutputError(
                f"{self.options.journal}: holds other classes than the model's "
                f"{self._evaluation.classes}; begin anew with --overwrite"
            )

    def finish_logits(self) -> None:
        """Call this after the last `add`: writes the file of all logits, in source order, if there
        is to be one. Raises OutputError."""
        if self._logits is not None:
            self._logits.finish(self.answers.source_order())

    def _reopen_logits(self, path: Path) -> NamedRows:
        """The file of all logits, with those of the images that are done. `add` writes to it."""
        rows = NamedRows(path, (self._evaluation.classes,), "float32")
        if not self.answers.count:
            rows.clear_parts()
            return rows
        done = set(self.answers.names())

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

    def must_stop(self) -> bool:
        """Whether an image has failed and the run is to stop at the first."""
        return self.options.on_error == "stop" and bool(self._evaluation.failures)

    def check_stop(self) -> None:
        """Raises ImageError if the run was to stop at the first failure."""
        if self.must_stop():
            first = min(self._evaluation.failures, key=self._place)
            raise ImageError(f"{first} (stopped at the first failure)")

    def _place(self, failure: Failure) -> int:
        return self.answers.place(failure.name)

    def add(
        self,
        names: Sequence[str],
        best: TopK,
        failures: Sequence[Failure] = (),
        logits: NDArray[np.float32] | None = None,
        places: NDArray[np.int64] | None = None,
    ) -> None:
        """Takes the answers of some images, and the failures of others. logits: of `names`.
        places: of `names`, if they are known."""
        evaluation = self._evaluation
        evaluation.failures += failures
        if names:
            # The logits are written before the journal: a resumed run cuts off logits that the
            # journal does not have.
            if self._logits is not None and logits is not None:
                self._logits.append(names, logits)
            if self._journal is not None:
                self._journal.append(list(names), best)
            self.answers.add(self.answers.places(names) if places is None else places, best)
            evaluation.images += len(names)
        self.state.images += len(names) + len(failures)
        if time.monotonic_ns() - self._reported_ns > PROGRESS_NS:
            self.report_progress()

    def report_progress(self) -> None:
        """Tells `progress` how far the run is."""
        evaluation, state = self._evaluation, self.state
        names = self.answers.names(self._counted)
        classes = self.answers.classes(self._counted)[:, : self.options.scoring.top_k]
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
        offset = self.options.scoring.offset(self._evaluation.classes)
        names = [item.name for item in self._items if item.name in self._labels.by_name]
        truth = true_classes(names, self._labels, self._evaluation.classes, offset)
        self._label_of = dict(zip(names, truth.tolist(), strict=True))

    def _finish(self) -> None:
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
            labels_of_run = labels.of(failed.keys() | set(names))
        samples = len({item.name for item in self._items} | labels.by_name.keys())
        predictions = Predictions(names, best, evaluation.classes, self.options.output_index)
        evaluation.score = score_answers(
            predictions, labels_of_run, failed, samples, self.options.scoring
        )


def score_answers(
    predictions: Predictions,
    labels: Labels,
    failed: dict[str, str],
    samples: int,
    options: ScoreOptions,
) -> Score | None:
    """Scores the answers that have a label; None when none has. failed: image -> why it could not
    be prepared. samples: how many have a label or a result."""
    names, problems = predictions.names, Problems(failed=failed)
    usable = np.flatnonzero(match_labels(names, failed, labels, problems))
    if not len(usable):
        return None
    chosen = replace(
        predictions,
        names=[names[i] for i in usable.tolist()],
        best=predictions.best[usable],
    )
    return score_predictions(chosen, labels, problems, samples, options)
