"""Two sets of answers to the same images: what changed, in accuracy, in classes and in numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from zoofast.base.rows import read_named_rows
from zoofast.errors import LabelError, ResultError
from zoofast.scoring.labels import Labels
from zoofast.scoring.results import list_results, read_logits
from zoofast.scoring.score import automatic_offset, truth_of
from zoofast.scoring.tally import Tally
from zoofast.scoring.topk import TopK

CHUNK = 1024  # images that are held at a time
WORST_KEPT = 10


class Answers(Protocol):
    """Logits by sample name."""

    @property
    def where(self) -> str: ...

    @property
    def names(self) -> Sequence[str]: ...

    def row(self, name: str) -> NDArray[np.float32]:
        """(classes,). Raises ResultError naming the file."""


class FolderAnswers:
    """Result files, as `zoofast score` reads them."""

    def __init__(
        self, folder: Path, output_index: int | None = None, bin_dtype: DTypeLike = "float32"
    ) -> None:
        self.where, self._bin_dtype = str(folder), bin_dtype
        found = list_results(folder, output_index)
        self._files = {
            name: folder / file for name, file in zip(found.names, found.files, strict=True)
        }
        self.names, self.duplicates = found.names, found.duplicates

    def row(self, name: str) -> NDArray[np.float32]:
        return read_logits(self._files[name], bin_dtype=self._bin_dtype)


class SavedAnswers:
    """A file of `zoofast eval --save-logits`."""

    duplicates: Mapping[str, list[str]] = {}

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self.names, self._rows = read_named_rows(path)
        if self._rows.ndim != 2 or self._rows.dtype.kind != "f":
            raise ResultError(f"{path}: holds {self._rows.dtype}{self._rows.shape}, no logits")
        self._at = {name: i for i, name in enumerate(self.names)}

    def row(self, name: str) -> NDArray[np.float32]:
        return np.asarray(self._rows[self._at[name]], np.float32)


@dataclass(frozen=True)
class Accuracies:
    """What a JSON says: fractions by "top1" and so on, of so many images."""

    where: str
    images: int
    accuracy: Mapping[str, float]


def read_accuracies(path: Path) -> Accuracies:
    """From a result.json of the guides, or from --json of score or eval.

    Raises ResultError naming the file.
    """
    try:
        found = json.loads(path.read_bytes())
        if "value" in found:
            values = {entry["key"]: entry["value"] for entry in found["value"]}
            accuracy = {
                f"top{key.split()[0].removeprefix('Top')}": float(value.rstrip("%")) / 100
                for key, value in values.items()
                if key.endswith("accuracy")
            }
            return Accuracies(str(path), int(values["Number of images"]), accuracy)
        score = found.get("score", found)
        return Accuracies(str(path), int(score["images"]), dict(score["accuracy"]))
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(
            f"{path}: is neither a result.json nor what score or eval write with --json"
        ) from error


def open_answers(
    where: str, output_index: int | None = None, bin_dtype: DTypeLike = "float32"
) -> FolderAnswers | SavedAnswers | Accuracies:
    """A result folder, a .npy of saved logits, or a .json. Raises ResultError."""
    path = Path(where)
    if path.is_dir():
        return FolderAnswers(path, output_index, bin_dtype)
    if path.suffix == ".npy":
        return SavedAnswers(path)
    if path.suffix == ".json":
        return read_accuracies(path)
    raise ResultError(f"{where}: is no folder of results, no .npy of logits and no .json")


@dataclass(frozen=True)
class Flip:
    """An image whose first class differs. truth: the model's class, None without label."""

    name: str
    a: int
    b: int
    truth: int | None


@dataclass(frozen=True)
class Apart:
    """How far an image's logits are apart. difference: the largest, of class `at`; infinite where
    one side is not finite and the other differs. cosine: NaN where it is not defined."""

    name: str
    difference: float
    at: int
    cosine: float


@dataclass
class Comparison:
    """What two sets of answers have in common, and what not."""

    a: str
    b: str
    images: int  # compared
    classes: int = 0
    flips: list[Flip] = field(default_factory=list)
    least_cosine: float = 1.0
    mean_cosine: float = 1.0
    largest_difference: float = 0.0
    least_alike: list[Apart] = field(default_factory=list)  # by cosine
    farthest: list[Apart] = field(default_factory=list)  # by difference
    accuracy: dict[str, tuple[float, float]] = field(default_factory=dict)  # top-k -> fractions
    scored: tuple[int, int] = (0, 0)  # images that the accuracies are of
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    no_label: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)  # sample -> why it could not be compared
    has_logits: bool = True

    def drop(self) -> float:
        """By how many percentage points B's accuracy is below A's, at the worst place."""
        # rounded: 95 % is 5 points below 100 %, not 5.000000000000004
        return max((round(100 * (a - b), 9) for a, b in self.accuracy.values()), default=0.0)

    def missing(self) -> list[tuple[str, list[str]]]:
        """(what is wrong, the names) for each kind that occurs."""
        broken = [f"{name} ({why})" for name, why in self.broken.items()]
        kinds = [
            (f"only in {self.a}", self.only_a),
            (f"only in {self.b}", self.only_b),
            ("without a label", self.no_label),
            ("cannot be compared", broken),
        ]
        return [(what, names) for what, names in kinds if names]

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; fractions, not percentages. What is not finite is None."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def compare_accuracies(a: Accuracies, b: Accuracies) -> Comparison:
    """Two JSONs hold no more than accuracies; places that both have are compared."""
    common = {
        place: (value, b.accuracy[place])
        for place, value in a.accuracy.items()
        if place in b.accuracy
    }
    if not common:
        raise ResultError(f"{a.where} and {b.where} have no accuracy in common")
    return Comparison(
        a.where,
        b.where,
        min(a.images, b.images),
        accuracy=common,
        scored=(a.images, b.images),
        has_logits=False,
    )


def accuracies_of(
    answers: FolderAnswers | SavedAnswers,
    labels: Labels,
    *,
    top_k: int = 5,
    label_offset: int | None = None,
) -> Accuracies:
    """The accuracies of logits, to be compared with a JSON. Raises ResultError, LabelError."""
    alone = compare_answers(answers, answers, labels, top_k=top_k, label_offset=label_offset)
    accuracy = {place: ours for place, (ours, _) in alone.accuracy.items()}
    return Accuracies(answers.where, alone.scored[0], accuracy)


Progress = Callable[[int], None]


def compare_answers(
    a: FolderAnswers | SavedAnswers,
    b: FolderAnswers | SavedAnswers,
    labels: Labels | None = None,
    *,
    top_k: int = 5,
    label_offset: int | None = None,
    progress: Progress = lambda images: None,
) -> Comparison:
    """Compares logits of the samples that both have, joined by name, CHUNK at a time.

    Ranked as everywhere: equal scores go to the lower class, NaN last. Raises ResultError when
    nothing can be compared or the numbers of classes differ, LabelError for labels that do not
    fit.
    """
    theirs = set(b.names)
    common = [name for name in a.names if name in theirs]
    found = Comparison(a.where, b.where, 0)
    ours = set(a.names)
    found.only_a = [name for name in a.names if name not in theirs]
    found.only_b = [name for name in b.names if name not in ours]
    for side in (a, b):
        for name, files in side.duplicates.items():
            found.broken[name] = f"several in {side.where}: {', '.join(files)}"
    if not common:
        raise ResultError(f"{a.where} and {b.where} have no sample in common")
    if labels is not None and not any(name in labels.by_name for name in common):
        raise LabelError(f"{labels.source}: no sample has a label: the names do not match")
    tallies: tuple[Tally, Tally] | None = None
    cosines = 0.0
    for begin in range(0, len(common), CHUNK):
        names, pair = _rows(common[begin : begin + CHUNK], (a, b), found)
        progress(min(CHUNK, len(common) - begin))
        if not names:
            continue
        if tallies is None:
            classes = found.classes = pair[0].shape[1]
            tallies = Tally(classes, top_k), Tally(classes, top_k)
        apart = _apart(names, *pair)
        cosines += float(np.sum([each.cosine for each in apart]))
        found.images += len(names)
        _keep_worst(found, apart)
        _judge(found, names, pair, labels, label_offset, tallies)
    if tallies is None:
        name, why = next(iter(found.broken.items()))
        raise ResultError(f"{a.where} and {b.where}: nothing can be compared ({name}: {why})")
    found.mean_cosine = cosines / found.images
    # NaN is unlike anything
    found.least_cosine = found.least_alike[0].cosine
    found.largest_difference = found.farthest[0].difference
    if labels is not None:
        found.scored = (tallies[0].images, tallies[1].images)
        found.accuracy = {
            f"top{place}": both
            for place, both in enumerate(
                zip(tallies[0].accuracy(), tallies[1].accuracy(), strict=True), 1
            )
        }
    return found


def _rows(
    names: Sequence[str], sides: Sequence[Answers], found: Comparison
) -> tuple[list[str], list[NDArray[np.float32]]]:
    """The samples that both sides can give, and their logits, (n, classes) each."""
    good: list[str] = []
    pairs: list[list[NDArray[np.float32]]] = []
    for name in names:
        try:
            rows = [side.row(name) for side in sides]
        except ResultError as error:
            found.broken[name] = str(error)
            continue
        lengths = [len(row) for row in rows]
        expected = found.classes or (len(pairs[0][0]) if pairs else lengths[0])
        if lengths[0] != lengths[1] and not pairs and not found.classes:
            raise ResultError(
                f"{sides[0].where} has {lengths[0]} classes and {sides[1].where} {lengths[1]} "
                f"(at {name}): only answers of one model's classes can be compared"
            )
        if lengths != [expected, expected]:
            found.broken[name] = f"{lengths[0]} and {lengths[1]} values, not {expected}"
            continue
        good.append(name)
        pairs.append(rows)
    return good, [np.stack([pair[i] for pair in pairs]) for i in (0, 1)] if pairs else []


def _apart(names: Sequence[str], a: NDArray[np.float32], b: NDArray[np.float32]) -> list[Apart]:
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        differences = np.where(same, 0.0, np.abs(x - y))
        differences[np.isnan(differences)] = np.inf
        norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        cosines = np.einsum("ij,ij->i", x, y) / norms
    cosines = np.where(same.all(axis=1), 1.0, np.clip(cosines, -1.0, 1.0))
    at = differences.argmax(axis=1)
    largest = differences[np.arange(len(names)), at]
    columns = (largest.tolist(), at.tolist(), cosines.tolist())
    return [Apart(name, *rest) for name, *rest in zip(names, *columns, strict=True)]


def _keep_worst(found: Comparison, apart: Iterable[Apart]) -> None:
    def unlike(each: Apart) -> float:
        return -2.0 if np.isnan(each.cosine) else each.cosine

    known = list(apart)
    found.least_alike = sorted([*found.least_alike, *known], key=unlike)[:WORST_KEPT]
    found.farthest = sorted([*found.farthest, *known], key=lambda each: -each.difference)[
        :WORST_KEPT
    ]


def _judge(
    found: Comparison,
    names: Sequence[str],
    pair: Sequence[NDArray[np.float32]],
    labels: Labels | None,
    label_offset: int | None,
    tallies: tuple[Tally, Tally],
) -> None:
    """Flips, and where there are labels, accuracy."""
    ranked = [TopK.of_logits(rows, tallies[0].k + 1) for rows in pair]
    truth: dict[str, int] = {}
    if labels is not None:
        offset = automatic_offset(found.classes) if label_offset is None else label_offset
        found.no_label += [name for name in names if name not in labels.by_name]
        known = [i for i, name in enumerate(names) if name in labels.by_name]
        named = [names[i] for i in known]
        classes = truth_of(named, labels, found.classes, offset)
        truth = dict(zip(named, classes.tolist(), strict=True))
        for tally, side in zip(tallies, ranked, strict=True):
            tally.add(classes, side.classes[known])
    first = [side.classes[:, 0].tolist() for side in ranked]
    found.flips += [
        Flip(name, x, y, truth.get(name))
        for name, x, y in zip(names, *first, strict=True)
        if x != y
    ]
