"""Top-k accuracy and what surrounds it: by class, confusion, calibration, what was not scored."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from zoofast.commands.console import progress
from zoofast.errors import LabelError, ResultError
from zoofast.scoring.labels import Labels
from zoofast.scoring.results import Reader, fault
from zoofast.scoring.tally import Tally
from zoofast.scoring.topk import TopK

ALL_OF_IMAGENET = 50_000  # only with all of them does an accuracy compare with a published one
MISTAKES_KEPT = 24  # to be looked at
PAIRS_KEPT, PAIR_MISTAKES_KEPT = 15, 3  # of the most confused, and of each


@dataclass(frozen=True)
class Mistake:
    """A wrongly classified image; classes are the model's, confidence is of the prediction."""

    name: str
    truth: int
    predicted: int
    confidence: float


def surest_mistakes(
    names: Sequence[str],
    truth: NDArray[np.integer[Any]],
    predicted: NDArray[np.integer[Any]],
    confidence: NDArray[np.floating[Any]],
    most: int = MISTAKES_KEPT,
) -> list[Mistake]:
    """The wrong predictions of which the model is most confident, the surest first.

    All of length n. Those of unknown confidence (NaN) are left out; equal ones go by name.
    """
    wrong = np.flatnonzero((truth != predicted) & np.isfinite(confidence))
    if len(wrong) > most:  # sorts only those that have a chance, equal ones at the end included
        least = np.partition(confidence[wrong], len(wrong) - most)[len(wrong) - most]
        wrong = wrong[confidence[wrong] >= least]
    surest = sorted(wrong.tolist(), key=lambda i: (-float(confidence[i]), names[i]))[:most]
    return [
        Mistake(names[i], int(truth[i]), int(predicted[i]), float(confidence[i])) for i in surest
    ]


@dataclass(frozen=True)
class Confusion:
    """Images of one class taken for another; surest: those of which the model is most confident."""

    truth: int
    predicted: int
    images: int
    surest: list[Mistake]


def confusions(
    pairs: Sequence[tuple[int, int, int]],
    names: Sequence[str],
    truth: NDArray[np.integer[Any]],
    predicted: NDArray[np.integer[Any]],
    confidence: NDArray[np.floating[Any]],
) -> list[Confusion]:
    """pairs: as Tally.confused gives them. The rest, of length n, as in surest_mistakes."""
    found = []
    for true, taken_for, images in pairs:
        of_pair = np.flatnonzero((truth == true) & (predicted == taken_for))
        surest = surest_mistakes(
            [names[i] for i in of_pair.tolist()],
            truth[of_pair],
            predicted[of_pair],
            confidence[of_pair],
            PAIR_MISTAKES_KEPT,
        )
        found.append(Confusion(true, taken_for, images, surest))
    return found


@dataclass
class Problems:
    """What was not scored, or not as it seems; every list is of names."""

    failed: dict[str, str] = field(default_factory=dict)  # image -> why it could not be prepared
    no_label: list[str] = field(default_factory=list)  # a prediction, but no label
    no_result: list[str] = field(default_factory=list)  # a label, but no prediction
    duplicates: dict[str, list[str]] = field(default_factory=dict)  # name -> files
    broken: dict[str, str] = field(default_factory=dict)  # file -> why it has no row
    other_length: dict[str, int] = field(default_factory=dict)  # file -> its values
    not_a_score: list[str] = field(default_factory=list)  # scored, but the best value is NaN
    unrecognized_files: list[str] = field(default_factory=list)

    def lines(self) -> list[tuple[str, list[str]]]:
        """(what is wrong, the names) for each kind that occurs."""
        failed = [f"{image} ({why})" for image, why in self.failed.items()]
        broken = [f"{file} ({why})" for file, why in self.broken.items()]
        lengths = [f"{file} ({n} values)" for file, n in self.other_length.items()]
        twice = [f"{name} ({', '.join(files)})" for name, files in self.duplicates.items()]
        kinds = [
            ("image that cannot be prepared", failed),
            ("result without a label", self.no_label),
            ("label without a result", self.no_result),
            ("sample with several results", twice),
            ("result file that cannot be read", broken),
            ("result with another number of classes", lengths),
            ("result whose best score is NaN", self.not_a_score),
            ("file that is no result", self.unrecognized_files),
        ]
        return [(what, names) for what, names in kinds if names]

    def dropped(self) -> int:
        """Samples that have no part in the accuracy, or no sound one."""
        return sum(len(names) for what, names in self.lines()) - len(self.unrecognized_files)


@dataclass
class Score:
    """The accuracy of one result folder."""

    tally: Tally
    problems: Problems
    samples: int  # all that have a label or a result
    label_offset: int
    output_index: int
    other_outputs: dict[int, int]
    scores: str  # "logits" or "probabilities": how confidence was read
    labels: Labels
    mistakes: list[Mistake]  # the surest
    confusions: list[Confusion]  # the most frequent

    def class_name(self, index: int) -> str:
        """The name of one of the model's classes, '' when unknown."""
        if self.label_offset == 1 and index == 0:
            return "background"
        return self.labels.class_names.get(index - self.label_offset, "")

    def classes(self) -> list[dict[str, Any]]:
        """One row per class that has images: index, name, images, hits, accuracies, mistake."""
        worst: dict[int, tuple[int, int]] = {}
        for true, predicted, n in self.tally.confused():
            worst.setdefault(true, (predicted, n))
        rows = []
        for index in np.flatnonzero(self.tally.class_images).tolist():
            images = int(self.tally.class_images[index])
            hits = self.tally.class_hits[index]
            mistaken, times = worst.get(index, ("", 0))
            row = {"class": index, "name": self.class_name(index), "images": images}
            for place in sorted({1, self.tally.k}):
                row[f"top{place}_hits"] = int(hits[place - 1])
                row[f"top{place}"] = int(hits[place - 1]) / images
            rows.append(row | {"most_often_taken_for": mistaken, "times": times})
        return rows

    def classes_csv(self) -> str:
        out = io.StringIO()
        rows = self.classes()
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Everything, for machines; fractions, not percentages."""
        problems = self.problems
        return {
            "images": self.tally.images,
            "samples": self.samples,
            "classes": self.tally.classes,
            "label_offset": self.label_offset,
            "labels": self.labels.source,
            "output_index": self.output_index,
            "scores": self.scores,
            "accuracy": {f"top{i}": a for i, a in enumerate(self.tally.accuracy(), 1)},
            "ties": {f"top{i}": int(n) for i, n in enumerate(self.tally.ties, 1)},
            "tie_rule": "equal scores: the lower class index first; NaN last",
            "ece": self.tally.ece(),
            "calibration": self.tally.calibration(),
            "confused": [
                {"true": true, "predicted": predicted, "images": n}
                for true, predicted, n in self.tally.confused()
            ],
            "by_class": self.classes(),
            "problems": {
                "failed": problems.failed,
                "no_label": problems.no_label,
                "no_result": problems.no_result,
                "duplicates": problems.duplicates,
                "broken": problems.broken,
                "other_length": problems.other_length,
                "not_a_score": problems.not_a_score,
                "unrecognized_files": problems.unrecognized_files,
            },
        }


def automatic_offset(classes: int) -> int:
    """1 for 1001 classes, where index 0 is a background class, else 0: as in the guides."""
    return 1 if classes == 1001 else 0


def truth_of(
    names: Iterable[str], labels: Labels, classes: int, label_offset: int
) -> NDArray[np.int64]:
    """The model's class index of each name. Raises LabelError for one out of range."""
    names = list(names)
    truth = np.array([labels.by_name[name] for name in names], np.int64) + label_offset
    outside = np.flatnonzero((truth < 0) | (truth >= classes))
    if len(outside):
        name = names[int(outside[0])]
        raise LabelError(
            f"{labels.source}: the label of {name} is {labels.by_name[name]}, with offset "
            f"{label_offset} outside the model's {classes} classes; set --label-offset"
        )
    return truth


def score_folder(
    folder: Path | str,
    labels: Labels,
    *,
    top_k: int = 5,
    output_index: int | None = None,
    kind: str | None = None,
    bin_dtype: DTypeLike = "float32",
    label_offset: int | None = None,
    scores: str = "auto",
    threads: int = 1,
    quiet: bool = True,
) -> Score:
    """Scores a folder of result files against labels, joined by sample name.

    label_offset: added to a label to get the model's class; None: automatic_offset. scores:
    whether confidences are a softmax of "logits", or the "probabilities" themselves; "auto"
    looks whether every row is a distribution. Whatever cannot be scored is in Score.problems.
    Raises ResultError when nothing can be, LabelError for labels the model cannot have.
    """
    with Reader(
        folder,
        top_k + 1,  # one more, to see ties at the last place
        output_index=output_index,
        kind=kind,
        threads=threads,
        bin_dtype=bin_dtype,
    ) as reader:
        listing = reader.listing
        problems = Problems(
            duplicates=listing.duplicates, unrecognized_files=listing.unrecognized_files
        )
        labelled = join_labels(listing.names, listing.duplicates, labels, problems)
        with progress("score", len(listing.names), quiet) as meter:
            results, top_k_of_all = reader.finish(meter.advance)
    readable = results["status"] == 0
    for i in np.flatnonzero(~readable).tolist():
        problems.broken[listing.files[i]] = fault(results[i]) or ""
    if not readable.any():
        first = next(iter(problems.broken.items()), None)
        reason = f"{first[0]}: {first[1]}" if first else "every sample has several"
        raise ResultError(f"{folder}: no result can be read ({reason})")
    lengths, times = np.unique(results["count"][readable], return_counts=True)
    classes = int(lengths[np.argmax(times)])
    for i in np.flatnonzero(readable & (results["count"] != classes)).tolist():
        problems.other_length[listing.files[i]] = int(results["count"][i])
    usable = np.flatnonzero(readable & (results["count"] == classes) & labelled)
    if not len(usable):
        raise ResultError(
            f"{folder}: no result has a label in {labels.source}: the names do not match "
            f"({listing.names[0]} against {next(iter(labels.by_name))})"
        )
    score = score_ranked(
        [listing.names[i] for i in usable.tolist()],
        top_k_of_all[usable],
        classes,
        labels,
        problems,
        top_k=top_k,
        label_offset=label_offset,
        scores=scores,
    )
    score.samples = len(listing.names) + len(listing.duplicates) + len(problems.no_result)
    score.output_index, score.other_outputs = listing.output_index, listing.other_outputs
    return score


def join_labels(
    names: Sequence[str], tried: Iterable[str], labels: Labels, problems: Problems
) -> NDArray[np.bool_]:
    """Which of the names have a label, (n,); adds to `problems` what has no partner.

    tried: samples that are there, but gave nothing to score.
    """
    unlabelled = [name for name in names if name not in labels.by_name]
    problems.no_label += unlabelled
    problems.no_result += sorted(labels.by_name.keys() - {*names, *tried})
    labelled = np.ones(len(names), bool)
    if unlabelled:
        labelled[:] = [name in labels.by_name for name in names]
    return labelled


def score_ranked(
    names: Sequence[str],
    ranked: TopK,
    classes: int,
    labels: Labels,
    problems: Problems,
    *,
    top_k: int = 5,
    label_offset: int | None = None,
    scores: str = "auto",
) -> Score:
    """Scores images `names`, ranked in that order; all have a label, and there is one at least.

    classes: the model's. problems: those found so far, which are added to. The rest as in
    score_folder. `samples` is of these images alone.
    """
    offset = automatic_offset(classes) if label_offset is None else label_offset
    if labels.class_count not in (None, classes, classes - offset):
        raise LabelError(
            f"{labels.source}: has {labels.class_count} classes, the results {classes}; "
            "give the list of all synsets with --synsets"
        )
    truth = truth_of(names, labels, classes, offset)
    if scores == "auto":
        distribution = (ranked.min_score >= 0) & (np.abs(ranked.total - 1) < 1e-3)
        scores = "probabilities" if distribution.all() else "logits"
    best = ranked.values[:, 0]
    problems.not_a_score += [names[i] for i in np.flatnonzero(np.isnan(best)).tolist()]
    confidence = best if scores == "probabilities" else ranked.confidence
    tally = Tally(classes, top_k)
    tally.add(truth, ranked.classes, ranked.values, confidence)
    predicted = ranked.classes[:, 0]
    return Score(
        tally,
        problems,
        len(names),
        offset,
        0,
        {},
        scores,
        labels,
        surest_mistakes(names, truth, predicted, confidence),
        confusions(tally.confused(PAIRS_KEPT), names, truth, predicted, confidence),
    )
