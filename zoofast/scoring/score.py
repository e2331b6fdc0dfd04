"""Predictions and labels -> accuracy, by class too, and the list of all that was not scored."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.checks import check_least, check_one_of
from zoofast.errors import LabelError, ResultError
from zoofast.scoring.bins import images_of, name_images, read_bins
from zoofast.scoring.class_names import ClassNames, name_classes
from zoofast.scoring.formats import SCORES, find_record, recorded_in
from zoofast.scoring.labels import Labels
from zoofast.scoring.listing import ResultFolder
from zoofast.scoring.mistakes import Confusion, Mistake, confusions, most_confident_mistakes
from zoofast.scoring.results import DEFAULT_READING, ReadOptions, ResultReader, read_failure
from zoofast.scoring.tally import Tally
from zoofast.scoring.topk import TopK

ALL_OF_IMAGENET = 50_000  # a published accuracy is of all of them
TALLIED_AT_ONCE = 1 << 18  # images, so that little else is in memory
MAX_CONFUSIONS = 15  # pairs of classes in Score.confusions


@dataclass(frozen=True)
class ScoreOptions:
    """How predictions are scored.

    top_k: accuracies top-1 … top-k are counted. label_offset: is added to a label to get the
    model's class; None: 1 for models of 1001 classes, else 0. scores: confidences are the softmax
    of "logits", or the "probabilities" themselves; "auto" takes them for probabilities if every row
    is a distribution. Raises ValueError for a top_k below 1 and for other scores.
    """

    top_k: int = 5
    label_offset: int | None = None
    scores: str = "auto"

    def __post_init__(self) -> None:
        check_least(1, top_k=self.top_k)
        check_one_of(SCORES, scores=self.scores)

    def offset(self, classes: int) -> int:
        """The label offset of a model with so many classes. Of 1001 classes, class 0 is a
        background class, as in the guides."""
        if self.label_offset is not None:
            return self.label_offset
        return 1 if classes == 1001 else 0


DEFAULT_SCORING = ScoreOptions()


@dataclass(frozen=True)
class Predictions:
    """A model's answers to n images.

    names: n sample names. best: the best classes of each image; one class more than the top-k of
    the options shows ties at the last place. classes: how many classes the model has.
    output_index: the model output that the answers are of. other_outputs: output index -> result
    files of that output, which are not scored.
    """

    names: Sequence[str]
    best: TopK
    classes: int
    output_index: int = 0
    other_outputs: Mapping[int, int] = field(default_factory=dict)


@dataclass
class Problems:
    """What was not scored, or may be wrong."""

    failed: dict[str, str] = field(default_factory=dict)  # image -> why it could not be prepared
    no_label: list[str] = field(default_factory=list)  # samples that have a result only
    no_result: list[str] = field(default_factory=list)  # samples that have a label only
    duplicates: dict[str, list[str]] = field(default_factory=dict)  # sample -> its result files
    unreadable: dict[str, str] = field(default_factory=dict)  # result file -> why
    wrong_length: dict[str, int] = field(default_factory=dict)  # result file -> number of values
    nan_scores: list[str] = field(default_factory=list)  # samples, scored, whose best score is NaN
    unrecognized_files: list[str] = field(default_factory=list)  # files that are no results

    def lines(self) -> list[tuple[str, list[str]]]:
        """(what the problem is, the names) for each kind that occurs."""
        failed = [f"{image} ({why})" for image, why in self.failed.items()]
        unreadable = [f"{file} ({why})" for file, why in self.unreadable.items()]
        lengths = [f"{file} ({n} values)" for file, n in self.wrong_length.items()]
        duplicates = [f"{name} ({', '.join(files)})" for name, files in self.duplicates.items()]
        kinds = [
            ("image that cannot be prepared", failed),
            ("result without a label", self.no_label),
            ("label without a result", self.no_result),
            ("sample with several results", duplicates),
            ("result file that cannot be read", unreadable),
            ("result with another number of classes", lengths),
            ("result whose best score is NaN", self.nan_scores),
            ("file that is not a result", self.unrecognized_files),
        ]
        return [(what, names) for what, names in kinds if names]

    def dropped(self) -> int:
        """Samples that are not in the accuracy, or whose scores are NaN."""
        return sum(len(names) for _, names in self.lines()) - len(self.unrecognized_files)


@dataclass(frozen=True)
class Score:
    """The accuracy of a model's predictions."""

    tally: Tally
    problems: Problems
    samples: int  # all that have a label or a result
    label_offset: int
    output_index: int
    other_outputs: Mapping[int, int]  # output index -> result files that were not scored
    scores: str  # "logits" or "probabilities"
    labels: Labels
    mistakes: list[Mistake]  # the most confident
    confusions: list[Confusion]  # the most frequent

    @cached_property
    def class_names(self) -> ClassNames:
        return name_classes(self.tally.classes, self.label_offset, self.labels.class_names)

    def describe_class(self, index: int) -> str:
        """The model's class `index` as text, see ClassNames.describe."""
        return self.class_names.describe(index)

    def classes(self) -> list[dict[str, Any]]:
        """A row for each class that has images: the model's class, its label and name, images,
        hits, accuracies (0 to 1), and the class that it is most often mistaken for."""
        most_frequent: dict[int, tuple[int, int]] = {}
        for true, predicted, n in self.tally.confused():
            most_frequent.setdefault(true, (predicted, n))
        rows = []
        for index in np.flatnonzero(self.tally.class_images).tolist():
            images = int(self.tally.class_images[index])
            hits = self.tally.class_hits[index]
            row: dict[str, Any] = {
                "model_class": index,
                "label": self.class_names.label(index),
                "name": self.class_names.name(index),
                "images": images,
            }
            for place in sorted({1, self.tally.k}):
                row[f"top{place}_hits"] = int(hits[place - 1])
                row[f"top{place}"] = int(hits[place - 1]) / images
            mistaken_for, times = most_frequent.get(index, (None, 0))
            row["mistaken_for_model_class"] = mistaken_for
            row["mistaken_for_label"] = (
                None if mistaken_for is None else self.class_names.label(mistaken_for)
            )
            rows.append(row | {"times": times})
        return rows

    def classes_csv(self) -> str:
        """`classes` as CSV, with a line of headings."""
        out = io.StringIO()
        rows = self.classes()
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON. Accuracies and confidences are fractions, not percentages."""
        return {
            "images": self.tally.images,
            "samples": self.samples,
            "classes": self.tally.classes,
            "label_offset": self.label_offset,
            "labels": self.labels.source,
            "class_names_of_imagenet": self.class_names.of_imagenet,
            "output_index": self.output_index,
            "scores": self.scores,
            "accuracy": {f"top{i}": a for i, a in enumerate(self.tally.accuracy(), 1)},
            "ties": {f"top{i}": int(n) for i, n in enumerate(self.tally.ties, 1)},
            "tie_rule": "equal scores: the lower class index first; NaN last",
            "ece": self.tally.ece(),
            "calibration": self.tally.calibration(),
            "confused": [
                {
                    "true": true,
                    "predicted": predicted,
                    "true_label": self.class_names.label(true),
                    "predicted_label": self.class_names.label(predicted),
                    "images": n,
                }
                for true, predicted, n in self.tally.confused()
            ],
            "by_class": self.classes(),
            "problems": asdict(self.problems),
        }


def true_classes(
    names: Sequence[str], labels: Labels, classes: int, label_offset: int
) -> NDArray[np.int32]:
    """The model's class of each name, (n,). All have a label. Raises LabelError for a class out of
    range."""
    truth = labels.by_name.numbers[labels.by_name.places(names)]
    outside = np.flatnonzero((truth < -label_offset) | (truth >= classes - label_offset))
    if len(outside):
        name = names[int(outside[0])]
        raise LabelError(
            f"{labels.source}: the label of {name} is {truth[outside[0]]}, with offset "
            f"{label_offset} outside the model's {classes} classes; set --label-offset"
        )
    truth += label_offset  # in place: there may be millions
    return truth


Progress = Callable[[int, int], None]  # files read so far, all files


def score_folder(
    folder: Path | str,
    labels: Labels,
    options: ScoreOptions = DEFAULT_SCORING,
    reading: ReadOptions = DEFAULT_READING,
    progress: Progress = lambda done, total: None,
) -> Score:
    """Scores a folder of result files against labels, joined by sample name.

    What cannot be scored is listed in Score.problems. Raises ResultError when nothing can be
    scored, LabelError for labels that the model cannot have.
    """
    record = find_record(Path(folder))
    k = options.top_k + 1  # one class more than is scored shows ties at the last place
    values: int | None
    if record is not None and record.images and record.images_per_file > 1:
        listing, results, best, values = read_bins(folder, record, k, reading, progress)
    else:
        with ResultReader(folder, k, reading) as reader:
            listing, values = reader.listing, reader.values
            results, best = reader.finish(progress)
        if record is not None and record.images:
            listing = name_images(listing, record, labels.by_name)
    problems = Problems(
        duplicates=listing.duplicates, unrecognized_files=listing.unrecognized_files
    )
    rows = np.flatnonzero([bool(name) for name in listing.names])  # not filling, mirrored copies
    if len(rows) < len(listing.names):
        listing = replace(
            listing,
            names=[listing.names[i] for i in rows.tolist()],
            files=[listing.files[i] for i in rows.tolist()],
        )
        results, best = results[rows], best[rows]
    not_ranked = {name for sample in listing.duplicates for name in images_of(record, sample)}
    has_label = match_labels(listing.names, not_ranked, labels, problems)
    classes = _class_count(listing, results, values, problems)
    usable = np.flatnonzero((results["status"] == 0) & (results["count"] == classes) & has_label)
    if not len(usable):
        raise ResultError(
            f"{folder}: no result has a label in {labels.source}: the names do not match "
            f"({listing.names[0]} against {next(iter(labels.by_name))})"
        )
    predictions = Predictions(
        [listing.names[i] for i in usable.tolist()],
        best[usable],
        classes,
        listing.output_index,
        listing.other_outputs,
    )
    samples = len(listing.names) + len(listing.duplicates) + len(problems.no_result)
    return score_predictions(predictions, labels, problems, samples, options)


def _class_count(
    listing: ResultFolder, results: NDArray[np.void], recorded: int | None, problems: Problems
) -> int:
    """How many classes the results have: as recorded by infer, or else as most results have. Adds
    the results of other lengths, and those that cannot be read, to `problems`."""
    readable = results["status"] == 0
    for i in np.flatnonzero(~readable).tolist():
        problems.unreadable[listing.files[i]] = read_failure(results[i]) or ""
    if not readable.any():
        first = next(iter(problems.unreadable.items()), None)
        reason = f"{first[0]}: {first[1]}" if first else "every sample has several"
        raise ResultError(f"{listing.folder}: no result can be read ({reason})")
    lengths, times = np.unique(results["count"][readable], return_counts=True)
    classes = int(lengths[np.argmax(times)])
    if recorded not in (None, classes):
        raise ResultError(
            f"{listing.folder}: most results have {classes} values, but by infer's record "
            f"({recorded_in(listing)}) {recorded}; run infer anew, or delete the record if another "
            "program has made the results"
        )
    for i in np.flatnonzero(readable & (results["count"] != classes)).tolist():
        problems.wrong_length[listing.files[i]] = int(results["count"][i])
    return classes


def match_labels(
    names: Sequence[str], not_ranked: Iterable[str], labels: Labels, problems: Problems
) -> NDArray[np.bool_]:
    """Which of the names have a label, (n,). Adds to `problems` the samples that have only a result
    or only a label.

    not_ranked: samples whose results cannot be ranked; their labels are not missed.
    """
    by_name = labels.by_name
    places = by_name.places(names)
    has_label = places >= 0
    problems.no_label += [names[i] for i in np.flatnonzero(~has_label).tolist()]
    has_result = np.zeros(len(by_name) + 1, bool)  # the last one is for the place -1, of no label
    has_result[places] = True
    has_result[by_name.places(list(not_ranked))] = True
    without = np.flatnonzero(~has_result[:-1])
    problems.no_result += sorted(by_name.names[i] for i in without.tolist())
    return has_label


def _are_distributions(best: TopK, parts: Sequence[slice]) -> bool:
    """Whether the scores of each image are none below 0, and sum to 1. Images with a score that is
    no finite number do not count."""
    is_any = False
    for part in parts:
        is_finite = np.isfinite(best.total[part])
        is_any |= bool(is_finite.any())
        is_one = (best.min_score[part] >= 0) & (np.abs(best.total[part] - 1) < 1e-3)
        if not is_one[is_finite].all():
            return False
    return is_any


def _check_probabilities(best: TopK, parts: Sequence[slice], names: Sequence[str]) -> None:
    """Raises ResultError for scores that are no probabilities, beyond float16's rounding."""
    for part in parts:
        is_wrong = (best.min_score[part] < -0.01) | (best.values[part, 0] > 1.01)
        if is_wrong.any():
            name = names[part.start + int(np.argmax(is_wrong))]
            raise ResultError(
                f"{name}: its scores are not all from 0 to 1, so that they are no probabilities; "
                "leave --scores probabilities out"
            )


def score_predictions(
    predictions: Predictions,
    labels: Labels,
    problems: Problems,
    samples: int,
    options: ScoreOptions,
) -> Score:
    """Scores predictions, one or more, of which every one has a label.

    problems: the known ones, to which samples are added. samples: how many have a label or a
    result. Raises LabelError for labels that the model cannot have.
    """
    names, best, classes = predictions.names, predictions.best, predictions.classes
    offset = options.offset(classes)
    if labels.class_count not in (None, classes, classes - offset):
        raise LabelError(
            f"{labels.source}: has {labels.class_count} classes, the results {classes}; "
            "give the list of all synsets with --synsets"
        )
    truth = true_classes(names, labels, classes, offset)
    parts = [slice(i, i + TALLIED_AT_ONCE) for i in range(0, len(names), TALLIED_AT_ONCE)]
    scores = options.scores
    if scores == "auto":
        scores = "probabilities" if _are_distributions(best, parts) else "logits"
    elif scores == "probabilities":
        _check_probabilities(best, parts, names)
    best_score, predicted = best.values[:, 0], best.classes[:, 0]
    problems.nan_scores += [names[i] for i in np.flatnonzero(np.isnan(best_score)).tolist()]
    confidence = best_score if scores == "probabilities" else best.confidence
    tally = Tally(classes, options.top_k)
    for part in parts:
        tally.add(truth[part], best.classes[part], best.values[part], confidence[part])
    return Score(
        tally,
        problems,
        samples,
        offset,
        predictions.output_index,
        predictions.other_outputs,
        scores,
        labels,
        most_confident_mistakes(names, truth, predicted, confidence),
        confusions(tally.confused(MAX_CONFUSIONS), names, truth, predicted, confidence),
    )
