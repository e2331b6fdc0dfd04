"""Two models' answers to the same images: differences in accuracy, in classes and in logits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.files import read_file
from zoofast.base.parsing import parse_json
from zoofast.base.text import counted
from zoofast.errors import LabelError, ResultError
from zoofast.scoring.class_names import ClassNames, name_classes
from zoofast.scoring.labels import Labels
from zoofast.scoring.logit_sources import FolderLogits, LogitSource, SavedLogits
from zoofast.scoring.results import DEFAULT_READING, ReadOptions
from zoofast.scoring.score import DEFAULT_SCORING, ScoreOptions, true_classes
from zoofast.scoring.tally import Tally
from zoofast.scoring.topk import TopK

IMAGES_PER_CHUNK = 1024  # whose logits are in memory at a time
MAX_WORST = 10  # images in each list of the worst
_GUIDE_ACCURACY = re.compile(r"Top([0-9]{1,9}) accuracy")


@dataclass(frozen=True)
class Accuracies:
    """Accuracies (0 to 1) by "top1", "top2" …, and the number of images that they are of.

    no_label, failed: the images that they are not of, see Comparison.
    """

    source: str
    images: int
    accuracy: Mapping[str, float]
    no_label: list[str] = field(default_factory=list)
    failed: Mapping[str, str] = field(default_factory=dict)


def read_accuracies(path: Path) -> Accuracies:
    """Reads a result.json of the guides, or what score or eval write with --json.

    Raises ResultError naming the file.
    """
    try:
        content = parse_json(read_file(path))
        if "value" in content:
            values = {entry["key"]: entry["value"] for entry in content["value"]}
            images = int(values["Number of images"].strip())
            accuracy = {
                f"top{match[1]}": float(values[key].removesuffix("%")) / 100
                for key in values
                if (match := _GUIDE_ACCURACY.fullmatch(key))
            }
        else:
            score = content.get("score", content)
            if score is None:
                raise ResultError(f"{path}: holds no score, because eval had no labels")
            images, accuracy = score["images"], dict(score["accuracy"])
        if type(images) is not int or not 0 <= images < 1 << 63 or not accuracy:
            raise ValueError("no number of images, or no accuracy")
        for value in accuracy.values():
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise ValueError(f"{value!r} is no accuracy")
        return Accuracies(str(path), images, accuracy)
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(
            f"{path}: is neither a result.json nor what score or eval write with --json"
        ) from error


def open_results(
    path: Path,
    reading: ReadOptions = DEFAULT_READING,
    labelled: Mapping[str, int] | None = None,
) -> FolderLogits | SavedLogits | Accuracies:
    """Opens a result folder, a .npy of saved logits, or a .json. Raises ResultError.

    labelled: as in FolderLogits.
    """
    if path.is_dir():
        return FolderLogits(path, reading, labelled)
    if path.suffix == ".npy":
        return SavedLogits(path)
    if path.suffix == ".json":
        return read_accuracies(path)
    raise ResultError(f"{path}: not a folder of results, a .npy of logits or a .json")


@dataclass(frozen=True)
class Flip:
    """An image whose best class differs. truth: the model's class, None without a label."""

    name: str
    a: int
    b: int
    truth: int | None


@dataclass(frozen=True)
class LogitDifference:
    """How much the logits of an image differ.

    difference: the largest absolute difference; infinite where one side is not finite and the other
    is another value. class_index: the class of this difference. cosine: the cosine of the angle
    between the two rows, -1 to 1; 1 for equal rows, NaN where it is not defined.
    """

    name: str
    difference: float
    class_index: int
    cosine: float


@dataclass
class Comparison:
    """What differs between two results, A and B. Accuracies are fractions."""

    a: str
    b: str
    images: int  # compared
    classes: int = 0
    label_offset: int = 0  # of the model's classes, in which flips are
    class_names: ClassNames = field(default_factory=ClassNames)
    flips: list[Flip] = field(default_factory=list)
    min_cosine: float = 1.0
    mean_cosine: float = 1.0
    max_difference: float = 0.0
    lowest_cosines: list[LogitDifference] = field(default_factory=list)  # of logits that differ
    largest_differences: list[LogitDifference] = field(default_factory=list)
    accuracy: dict[str, tuple[float, float]] = field(default_factory=dict)  # "top1" -> (A, B)
    scored: tuple[int, int] = (0, 0)  # images that the accuracies are of
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    no_label: list[str] = field(default_factory=list)
    nan_a: list[str] = field(default_factory=list)  # samples, compared, whose logits of A have NaN
    nan_b: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # sample -> why it is not compared
    has_logits: bool = True

    @property
    def identical(self) -> bool:
        """All compared logits are equal."""
        return self.has_logits and self.max_difference == 0

    def accuracy_drop(self) -> float:
        """The largest drop from an accuracy of A to that of B, in percentage points."""
        # rounded: 95 % is 5 points below 100 %, not 5.000000000000004
        return max((round(100 * (a - b), 9) for a, b in self.accuracy.values()), default=0.0)

    def problems(self) -> list[tuple[str, list[str]]]:
        """(what the problem is, the names) for each kind that occurs."""
        failed = [f"{name} ({why})" for name, why in self.failed.items()]
        kinds = [
            (f"only in {self.a}", self.only_a),
            (f"only in {self.b}", self.only_b),
            ("without a label", self.no_label),
            ("cannot be compared", failed),
        ]
        if not self.has_logits and self.scored[0] != self.scored[1]:
            numbers = [f"{self.a} (of {self.scored[0]})", f"{self.b} (of {self.scored[1]})"]
            kinds.append(("accuracies are of different numbers of images", numbers))
        return [(what, names) for what, names in kinds if names]

    def nan_lines(self) -> list[str]:
        """Which side has NaN among its logits, in words."""
        return [
            f"NaN in the logits of {counted(len(names), 'image')} of {side}, such as {names[0]}"
            for side, names in ((self.a, self.nan_a), (self.b, self.nan_b))
            if names
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the class names, for JSON. NaN and infinite numbers become None."""
        values = asdict(replace(self, class_names=ClassNames()))
        del values["class_names"]
        return {key: _finite(value) for key, value in values.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def compare_accuracies(a: Accuracies, b: Accuracies) -> Comparison:
    """Compares the accuracies that both have. Raises ResultError when there is none."""
    common = {
        place: (value, b.accuracy[place])
        for place, value in a.accuracy.items()
        if place in b.accuracy
    }
    if not common:
        raise ResultError(f"{a.source} and {b.source} have no accuracy in common")
    return Comparison(
        a.source,
        b.source,
        min(a.images, b.images),
        accuracy=common,
        scored=(a.images, b.images),
        no_label=[*a.no_label, *b.no_label],
        failed={**a.failed, **b.failed},
        has_logits=False,
    )


def accuracies_of(
    logits: FolderLogits | SavedLogits, labels: Labels, options: ScoreOptions = DEFAULT_SCORING
) -> Accuracies:
    """The accuracies of logits, to be compared with a JSON. Raises ResultError, LabelError."""
    with_itself = compare_logits(logits, logits, labels, options)
    accuracy = {place: a for place, (a, _) in with_itself.accuracy.items()}
    return Accuracies(
        logits.source,
        with_itself.scored[0],
        accuracy,
        with_itself.no_label,
        with_itself.failed,
    )


Progress = Callable[[int, int], None]  # images compared so far, all images


def compare_logits(
    a: LogitSource,
    b: LogitSource,
    labels: Labels | None = None,
    options: ScoreOptions = DEFAULT_SCORING,
    progress: Progress = lambda done, total: None,
) -> Comparison:
    """Compares the logits of the samples that both have, joined by name.

    Classes are ranked as in TopK. Raises ResultError when nothing can be compared or the numbers of
    classes differ, LabelError for labels that the model cannot have.
    """
    comparison = Comparison(a.source, b.source, 0)
    common = _match_names(comparison, a, b, labels)
    tallies: list[Tally] = []
    cosine_sum = 0.0
    progress(0, len(common))
    for begin in range(0, len(common), IMAGES_PER_CHUNK):
        chunk = common[begin : begin + IMAGES_PER_CHUNK]
        names, rows = _read_rows(chunk, (a, b), comparison)
        if names:
            classes = comparison.classes = rows[0].shape[1]
            comparison.label_offset = options.offset(classes)
            tallies = tallies or [Tally(classes, options.top_k) for _ in rows]
            differences = logit_differences(names, *rows)
            cosine_sum += float(np.sum([each.cosine for each in differences]))
            comparison.images += len(names)
            _keep_worst(comparison, differences)
            for with_nan, logits in zip((comparison.nan_a, comparison.nan_b), rows, strict=True):
                with_nan += [names[i] for i in np.flatnonzero(np.isnan(logits).any(axis=1))]
            count_flips(comparison, names, rows, labels, tallies)
        progress(begin + len(chunk), len(common))
    if not tallies:
        name, why = next(iter(comparison.failed.items()))
        raise ResultError(f"{a.source} and {b.source}: nothing can be compared ({name}: {why})")
    by_label = labels.class_names if labels else None
    comparison.class_names = name_classes(comparison.classes, comparison.label_offset, by_label)
    comparison.mean_cosine = cosine_sum / comparison.images
    if comparison.largest_differences:
        comparison.min_cosine = comparison.lowest_cosines[0].cosine
        comparison.max_difference = comparison.largest_differences[0].difference
    if labels is not None:
        of_a, of_b = tallies
        comparison.scored = (of_a.images, of_b.images)
        both = zip(of_a.accuracy(), of_b.accuracy(), strict=True)
        comparison.accuracy = {f"top{place}": pair for place, pair in enumerate(both, 1)}
    return comparison


def _match_names(
    comparison: Comparison, a: LogitSource, b: LogitSource, labels: Labels | None
) -> list[str]:
    """The samples that both have. Adds the other samples to `comparison`."""
    in_a, in_b = set(a.names), set(b.names)
    common = [name for name in a.names if name in in_b]
    comparison.only_a = [name for name in a.names if name not in in_b]
    comparison.only_b = [name for name in b.names if name not in in_a]
    for side in (a, b):
        for name, files in side.duplicates.items():
            comparison.failed[name] = f"several in {side.source}: {', '.join(files)}"
    if not common:
        raise ResultError(f"{a.source} and {b.source} have no sample in common")
    if labels is not None and not any(name in labels.by_name for name in common):
        raise LabelError(f"{labels.source}: no sample has a label: the names do not match")
    return common


def _read_rows(
    names: Sequence[str], sides: Sequence[LogitSource], comparison: Comparison
) -> tuple[list[str], list[NDArray[np.float32]]]:
    """The samples that both sides have logits of, and the logits of each side, (n, classes).

    Adds the other samples to `comparison.failed`.
    """
    readable: list[str] = []
    pairs: list[list[NDArray[np.float32]]] = []
    for name in names:
        try:
            rows = [side.row(name) for side in sides]
        except ResultError as error:
            comparison.failed[name] = str(error)
            continue
        lengths = [len(row) for row in rows]
        expected = comparison.classes or (len(pairs[0][0]) if pairs else lengths[0])
        if lengths[0] != lengths[1] and not pairs and not comparison.classes:
            raise ResultError(
                f"{sides[0].source} has {lengths[0]} classes and {sides[1].source} {lengths[1]} "
                f"(at {name}): only results of the same classes can be compared"
            )
        if lengths != [expected, expected]:
            comparison.failed[name] = f"{lengths[0]} and {lengths[1]} values, not {expected}"
            continue
        readable.append(name)
        pairs.append(rows)
    return readable, [np.stack([pair[i] for pair in pairs]) for i in (0, 1)] if pairs else []


def logit_differences(
    names: Sequence[str], a: NDArray[np.float32], b: NDArray[np.float32]
) -> list[LogitDifference]:
    """a, b: (n, classes). Equal infinities, and NaN on both sides, do not differ."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        differences = np.where(same, 0.0, np.abs(x - y))
        differences[np.isnan(differences)] = np.inf
        norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        cosines = np.einsum("ij,ij->i", x, y) / norms
    cosines = np.where(same.all(axis=1), 1.0, np.clip(cosines, -1.0, 1.0))
    classes = differences.argmax(axis=1)
    largest = differences[np.arange(len(names)), classes]
    columns = (largest.tolist(), classes.tolist(), cosines.tolist())
    return [LogitDifference(name, *rest) for name, *rest in zip(names, *columns, strict=True)]


def _keep_worst(comparison: Comparison, differences: Iterable[LogitDifference]) -> None:
    def cosine(each: LogitDifference) -> float:
        return -2.0 if np.isnan(each.cosine) else each.cosine  # NaN is the worst

    known = [each for each in differences if each.difference > 0]
    lowest = sorted([*comparison.lowest_cosines, *known], key=cosine)
    comparison.lowest_cosines = lowest[:MAX_WORST]
    largest = sorted([*comparison.largest_differences, *known], key=lambda each: -each.difference)
    comparison.largest_differences = largest[:MAX_WORST]


def count_flips(
    comparison: Comparison,
    names: Sequence[str],
    rows: Sequence[NDArray[np.float32]],
    labels: Labels | None,
    tallies: Sequence[Tally],
) -> None:
    """Adds the images whose best class differs to `comparison`, and all that have a label to
    `tallies`. rows, tallies: of each side."""
    best = [TopK.of_logits(logits, tallies[0].k + 1) for logits in rows]
    truth: dict[str, int] = {}
    if labels is not None:
        comparison.no_label += [name for name in names if name not in labels.by_name]
        labelled = [i for i, name in enumerate(names) if name in labels.by_name]
        labelled_names = [names[i] for i in labelled]
        classes = true_classes(labelled_names, labels, comparison.classes, comparison.label_offset)
        truth = dict(zip(labelled_names, classes.tolist(), strict=True))
        for tally, side in zip(tallies, best, strict=True):
            tally.add(classes, side.classes[labelled])
    first = [side.classes[:, 0].tolist() for side in best]
    comparison.flips += [
        Flip(name, of_a, of_b, truth.get(name))
        for name, of_a, of_b in zip(names, *first, strict=True)
        if of_a != of_b
    ]
