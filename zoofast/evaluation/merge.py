"""The journals of an evaluation's shards -> the score, and the logits, of the whole source."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.by_name import NameIndex
from zoofast.base.lock import output_lock
from zoofast.base.rows import names_path, read_named_rows, write_by_place
from zoofast.base.shards import (
    check_names,
    check_shards,
    parse_shard,
    shard_places,
    shard_total,
)
from zoofast.errors import OutputError, ResultError
from zoofast.evaluation.answers import Places
from zoofast.evaluation.journal import SUFFIX, JournalContent, check_new, is_journal
from zoofast.evaluation.result import Evaluation
from zoofast.evaluation.run import score_answers
from zoofast.preprocess.loader import Failure
from zoofast.preprocess.sources import Item, Names
from zoofast.scoring.labels import Labels
from zoofast.scoring.score import Predictions, Score, ScoreOptions
from zoofast.scoring.topk import TopK


def shard_record(
    evaluation: Evaluation,
    items: Sequence[Item],
    shard: tuple[int, int],
    limit: int | None,
    images: int,
    journal: Path,
    logits: Path | None,
) -> dict[str, Any]:
    """What `read_shard` needs besides the journal's batches. items: of the shard. images: of the
    whole source. Raises OutputError."""
    index, found = NameIndex(Names(items)), list[Places]()
    JournalContent(journal, lambda names, best: found.append(index.places(names)))
    places = np.concatenate(found or [np.empty(0, np.int32)]).astype("<i4")
    if (places < 0).any():
        raise OutputError(f"{journal}: holds images that are not of this run")
    return {
        "shard": f"{shard[0]}/{shard[1]}",
        "limit": limit,
        "images": images,
        "total": evaluation.total,
        "classes": evaluation.classes,
        "places": base64.b64encode(places.tobytes()).decode(),
        "failures": [asdict(each) for each in evaluation.failures],
        "logits": None if logits is None else os.path.relpath(logits, journal.parent),
    }


@dataclass(frozen=True)
class Shard:
    """One shard's journal. Names, answers and failures are in the order of the source.

    places (n,): of `names` in the whole source. failures: with the places of their images.
    """

    path: Path
    description: dict[str, Any]
    shard: tuple[int, int]
    limit: int | None
    images: int  # of the whole source
    classes: int
    names: list[str]
    best: TopK
    places: NDArray[np.int64]
    failures: list[tuple[int, Failure]]
    logits: Path | None

    @property
    def files(self) -> Iterator[Path]:
        """All that the shard's run has written, as far as its journal tells."""
        yield self.path
        yield self.path.with_name(self.path.name.removesuffix(SUFFIX))
        if self.logits is not None:
            yield from (self.logits, names_path(self.logits))


def read_shard(path: Path) -> Shard:
    """Reads the journal of a shard: `path`, or `path` and ".journal".

    Raises OutputError: there is none, it is damaged, the run has not ended, or is no shard's.
    """
    journal = path.with_name(path.name + SUFFIX)
    if not journal.exists():
        journal = path
    names, bests, known = list[str](), list[TopK](), set[str]()

    def take(of_batch: list[str], best: TopK) -> None:
        check_new(of_batch, [name in known for name in of_batch])
        known.update(of_batch)
        names.extend(of_batch)
        bests.append(best)

    try:
        content = JournalContent(journal, take) if is_journal(journal) else None
    except OSError as error:
        raise OutputError(f"{journal}: cannot be read: {error.strerror}") from error
    if content is None or (not content.batches and content.end is None):
        raise OutputError(f"{path}: there is no journal of a shard at {path}{SUFFIX}")
    if content.end is None:
        raise OutputError(f"{journal}: the evaluation has not ended; continue it with --resume")
    if "shard" not in content.end:
        raise OutputError(f"{journal}: not the journal of a shard; evaluate with --shard I/N")
    try:
        return _shard(journal, content.description, content.end, names, bests)
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise OutputError(f"{journal}: the last line is damaged ({error!r})") from error


def _shard(
    path: Path,
    description: dict[str, Any],
    end: dict[str, Any],
    names: list[str],
    bests: list[TopK],
) -> Shard:
    shard, limit, images = parse_shard(end["shard"]), end["limit"], int(end["images"])
    answered = np.frombuffer(base64.b64decode(end["places"], validate=True), "<i4")
    failures = [Failure(**each) for each in end["failures"]]
    places = shard_places(shard, shard_total(shard, images, limit))
    failed = np.delete(places, answered)  # raises IndexError for a place that is too large
    if len(answered) != len(names) or len(failed) != len(failures):
        raise ValueError(f"{len(names)} answers and {len(failures)} failures of {len(places)}")
    if (answered < 0).any():
        raise ValueError("the place of an image is none")
    order = np.argsort(answered)
    return Shard(
        path,
        description,
        shard,
        limit,
        images,
        int(end["classes"]),
        [names[i] for i in order.tolist()],
        _joined(bests)[order],
        places[np.sort(answered)],
        list(zip(failed.tolist(), failures, strict=True)),
        None if end["logits"] is None else path.parent / end["logits"],
    )


def _joined(parts: Sequence[TopK]) -> TopK:
    """The answers of several parts; none where all images failed."""
    return TopK.joined(parts) if parts else TopK.empty(0, 1)


@dataclass(frozen=True)
class Merged:
    """The shards of an evaluation as one. Names, answers and failures are in source order."""

    names: list[str]
    best: TopK
    failures: list[Failure]
    classes: int
    output_index: int
    top_k: int
    images: int  # of the whole source

    def score(self, labels: Labels, options: ScoreOptions) -> Score | None:
        """As `evaluate` scores the whole; None where no image has a label. Raises LabelError."""
        failed = {failure.name: failure.reason for failure in self.failures}
        known = failed.keys() | set(self.names)
        if len(self.names) + len(self.failures) < self.images:  # --limit
            labels = labels.of(known)
        predictions = Predictions(self.names, self.best, self.classes, self.output_index)
        samples = len(known | labels.by_name.keys())
        return score_answers(predictions, labels, failed, samples, options)


def merge_evaluations(shards: Sequence[Shard], logits: Path | None = None) -> Merged:
    """Joins all shards of an evaluation, in any order. logits: also joins their logits there.

    Raises OutputError: a shard is missing or there twice, or was evaluated in another way.
    """
    shards = sorted(shards, key=lambda shard: shard.shard)
    check_shards([(str(each.path), each.shard) for each in shards])
    first = shards[0]
    for each in shards[1:]:
        ours = {**each.description, "limit": each.limit, "source": f"{each.images} images"}
        theirs = {**first.description, "limit": first.limit, "source": f"{first.images} images"}
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise OutputError(
                    f"{each.path}: is of another {key} ({value}) than {first.path} "
                    f"({theirs.get(key)})"
                )
    check_names([(str(each.path), each.names) for each in shards])
    if logits is not None:
        _merge_logits(shards, logits)
    order = np.argsort(np.concatenate([each.places for each in shards]))
    names = [name for each in shards for name in each.names]
    failures = sorted((pair for each in shards for pair in each.failures), key=lambda pair: pair[0])
    return Merged(
        [names[i] for i in order.tolist()],
        _joined([each.best for each in shards if each.names])[order],
        [failure for _, failure in failures],
        first.classes,
        int(first.description["output"]),
        int(first.description["top-k"]),
        first.images,
    )


def _merge_logits(shards: Sequence[Shard], path: Path) -> None:
    parts = []
    for each in shards:
        if each.logits is None:
            raise OutputError(f"{each.path}: its run saved no logits; evaluate with --save-logits")
        names, rows = read_named_rows(each.logits)
        if names != each.names or rows.shape[1:] != (each.classes,):
            raise ResultError(f"{each.logits}: is not of the run of {each.path}")
        parts.append((names, rows, each.places))
    with output_lock(path):
        write_by_place(path, parts)
