"""One evaluation while it runs: the answers so far, the journal, the progress, the score."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from itertools import islice
from operator import eq
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.by_name import NameIndex
from zoofast.base.lock import output_lock
from zoofast.base.provenance import model_digest
from zoofast.base.rows import NamedRows
from zoofast.base.sequences import Selection
from zoofast.errors import ImageError, LabelError, OutputError, SourceError, ZoofastError
from zoofast.evaluation.answers import Answers, Places
from zoofast.evaluation.journal import Journal, check_new
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
        if not items:
            raise SourceError(
                f"{evaluation.source}: there is no image to evaluate: it has fewer images than "
                "shards, or the list of items is empty"
            )
        self._evaluation, self._labels, self.options = evaluation, labels, options
        self._stack = stack
        self._items, self._progress = items, progress
        self.answers = Answers(items)
        self._journal: Journal | None = None
        self._logits: NamedRows | None = None
        if labels is not None:
            labels.by_name.share(self.answers.names_of_items)
        is_todo = np.ones(len(items), bool)
        if options.journal is not None:
            self._resume(options.journal, is_todo)
        # (n,): the places of the images without an answer
        self.todo: Places = np.flatnonzero(is_todo).astype(np.int32)
        self._failed: list[int] = []  # the places of evaluation.failures
        self._has_begun = False
        evaluation.resumed = len(items) - len(self.todo)
        self.state = EvalProgress(evaluation.resumed)
        self._counted = 0  # answers that self.state.hits includes
        self._reported_ns = 0  # when progress was last reported, monotonic
        # (n,): the model's class of each image, -1 if it has no label. `begin` sets it.
        self._truth = np.empty(0, np.int32)
        if labels is not None and not self._has_label(labels).any():
            raise LabelError(
                f"{labels.source}: no image has a label: the names do not match "
                f"({items[0].name} against {next(iter(labels.by_name), 'no label')})"
            )

    def _has_label(self, labels: Labels) -> NDArray[np.bool_]:
        """Which of the images have a label, (n,)."""
        return labels.by_name.places(self.answers.names_of_items) >= 0

    def _resume(self, path: Path, is_todo: NDArray[np.bool_]) -> None:
        """Opens the journal, and with --resume takes the answers that it holds. is_todo (n,): of
        the images; becomes False for those that have an answer."""
        index = cache(lambda: NameIndex(self.answers.names_of_items))

        def take(names: list[str], best: TopK) -> None:
            places = index().places(names)
            if (places < 0).any():
                raise OutputError(
                    f"{path}: holds {names[int(np.argmin(places))]}, which is not among this "
                    "run's images; resume with the same source and choice, or begin anew with "
                    "--overwrite"
                )
            check_new(names, (~is_todo[places]).tolist())
            is_todo[places] = False
            self.answers.add(places, best)

        options = self.options
        self._journal = Journal(
            path, self._run_description(), take if options.resume else None, options.overwrite
        )
        self._stack.callback(self._journal.close)

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
        """Sets evaluation.state when the block ends, and scores what is done, also after Ctrl-C.

        With a journal, an error says that what is done is kept; before the end of `begin`, an error
        says itself how to go on.
        """
        evaluation, options = self._evaluation, self.options
        try:
            yield
            if self._journal is not None:
                self._journal.finish()
            evaluation.state = "complete"
        except KeyboardInterrupt:
            evaluation.state = "partial"
        except ZoofastError as error:
            if options.journal is None or not self.answers.count or not self._has_begun:
                raise
            message = f"{error}; the images that are done are kept, and --resume continues"
            raise type(error)(message) from error
        self._finish()

    def begin(self, classes: int) -> None:
        """Call this when the model is loaded, of `classes` classes, and before the first `add`."""
        self._evaluation.classes = classes
        self._check_resumed()
        # Labels that do not fit the model end the run here, before it has taken time.
        self._truth = self._true_classes(classes)
        if self._journal is not None:
            self._journal.begin()
        if self.options.logits is not None:
            self._logits = self._reopen_logits(self.options.logits)
            self._stack.callback(self._logits.close)
        self._has_begun = True

    def _check_resumed(self) -> None:
        """Raises OutputError when the journal's classes cannot be of this model."""
        k = min(self.options.scoring.top_k + 1, self._evaluation.classes)
        for _, classes in self.answers.classes():
            if not (
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
        count = self.answers.count

        def as_in_journal(names: Collection[str]) -> int:
            """All, if these are the images that are done, whose order becomes theirs."""
            first = islice(names, count)
            if len(names) >= count and all(map(eq, self.answers.names(), first)):
                return count
            index = NameIndex(self.answers.names_of_items)
            places = index.places(names)[:count]
            if not np.array_equal(np.sort(places), np.sort(self.answers.order)):
                return 0
            self.answers.reorder(places)
            return count

        if rows.reopen(as_in_journal) < count:
            raise OutputError(
                f"{path}: has not the logits of the {count} images that are done; begin anew with "
                "--overwrite"
            )
        return rows

    def must_stop(self) -> bool:
        """Whether an image has failed and the run is to stop at the first."""
        return self.options.on_error == "stop" and bool(self._evaluation.failures)

    def check_stop(self) -> None:
        """Raises ImageError if the run was to stop at the first failure."""
        if self.must_stop():
            first = self._evaluation.failures[int(np.argmin(self._failed))]
            raise ImageError(f"{first} (stopped at the first failure)")

    def add(
        self,
        places: Places,
        is_good: NDArray[np.bool_],
        best: TopK,
        failures: Sequence[Failure],
        logits: NDArray[np.float32] | None = None,
    ) -> None:
        """Takes what became of the images at `places` (n,). is_good (n,): which have an answer.

        best, logits: of the images with an answer. failures: of the others."""
        evaluation, good = self._evaluation, places[is_good]
        evaluation.failures += failures
        self._failed += places[~is_good].tolist()
        if len(good):
            names = [self._items[place].name for place in good.tolist()]
            # The logits are written before the journal: a resumed run cuts off logits that the
            # journal does not have.
            if self._logits is not None and logits is not None:
                self._logits.append(names, logits)
            if self._journal is not None:
                self._journal.append(names, best)
            self.answers.add(good, best)
            evaluation.images += len(good)
        self.state.images += len(places)

    def report_if_due(self) -> None:
        """Tells `progress` how far the run is, if the last report is PROGRESS_NS ago."""
        if time.monotonic_ns() - self._reported_ns > PROGRESS_NS:
            self.report_progress()

    def report_progress(self) -> None:
        """Tells `progress` how far the run is."""
        evaluation, state = self._evaluation, self.state
        for places, classes in self.answers.classes(self._counted):
            truth = self._truth[places]
            is_best = classes[:, : self.options.scoring.top_k] == truth[:, None]
            hits = is_best & (truth >= 0)[:, None]
            top1, top_k = state.hits
            state.hits = (top1 + int(hits[:, 0].sum()), top_k + int(hits.any(axis=1).sum()))
            state.scored += int((truth >= 0).sum())
        self._counted = self.answers.count
        state.failures = len(evaluation.failures)
        state.nbytes_in = evaluation.stats.nbytes_in
        state.device_busy = evaluation.device_share("infer")
        self._progress(state)
        self._reported_ns = time.monotonic_ns()

    def _true_classes(self, classes: int) -> NDArray[np.int32]:
        """The class of each image, see `_truth`. Raises LabelError for one that a model of
        `classes` classes does not have."""
        labels, names = self._labels, self.answers.names_of_items
        if labels is None:
            return np.full(len(names), -1, np.int32)
        has_label, offset = self._has_label(labels), self.options.scoring.offset(classes)
        if has_label.all():
            return true_classes(names, labels, classes, offset)
        truth = np.full(len(names), -1, np.int32)
        labelled = Selection.where(names, has_label)
        truth[has_label] = true_classes(labelled, labels, classes, offset)
        return truth

    def _finish(self) -> None:
        """Scores the images that are done."""
        evaluation, labels = self._evaluation, self._labels
        in_order = np.argsort(self._failed, kind="stable").tolist()
        evaluation.failures = [evaluation.failures[i] for i in in_order]
        answers = self.answers.in_source_order()
        if labels is None or answers is None:
            return
        names, best = answers
        failed = {failure.name: failure.reason for failure in evaluation.failures}
        labels_of_run = labels
        if evaluation.state != "complete":
            labels_of_run = labels.of(failed.keys() | set(names))
        without = np.flatnonzero(~self._has_label(labels)).tolist()
        unlabelled = {self._items[place].name for place in without}
        samples = len(labels.by_name) + len(unlabelled)
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
    has_label = match_labels(names, failed, labels, problems)
    if not has_label.any():
        return None
    if not has_label.all():
        usable = np.flatnonzero(has_label)
        predictions = replace(
            predictions,
            names=[names[i] for i in usable.tolist()],
            best=predictions.best[usable],
        )
    return score_predictions(predictions, labels, problems, samples, options)
