"""Sections about accuracy, which `score` and `eval` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from zoofast.base.text import counted, listed
from zoofast.preprocess.sources import Source
from zoofast.report.data import (
    Bars,
    Block,
    Cell,
    Column,
    Figure,
    Lines,
    Pair,
    Pairs,
    Picture,
    Pictures,
    Section,
    Series,
    Table,
)
from zoofast.report.pictures import SIDE, thumbnail
from zoofast.scoring.mistakes import Mistake
from zoofast.scoring.score import ALL_OF_IMAGENET, Score
from zoofast.scoring.tally import ECE_BINS

MAX_CLASSES = 10  # in the tables of the best and of the worst classes
MAX_NAMES = 20  # of each kind of problem
PAIR_SIDE = 96  # pixels of the longer side of an image in a pair

ReadImage = Callable[[str], bytes | None]  # sample name -> the image file's bytes


def accuracy_figures(score: Score, published: Mapping[str, float] | None = None) -> list[Figure]:
    """The headline figures of a score. published: "top1" … -> percent, of all of ImageNet."""
    figures, complete = [], score.tally.images == ALL_OF_IMAGENET
    for place in sorted({1, score.tally.k}):
        known = published.get(f"top{place}") if published else None
        note = "" if known is None else f"the guide: {known} %"
        if note and not complete:
            note += f", of all {ALL_OF_IMAGENET:,} images"
        figures.append(
            Figure(f"top-{place}", 100 * score.tally.accuracy()[place - 1], "%", 2, note)
        )
    figures.append(Figure("images scored", score.tally.images, note=f"of {score.samples:,}"))
    ece = score.tally.ece()
    if ece is not None:
        note = f"ECE, {ECE_BINS} bins"
        figures.append(Figure("calibration error", 100 * ece, "%", 2, note))
    return figures


def accuracy_summary(score: Score) -> list[str]:
    """The accuracy in a sentence, and whether samples are missing in it."""
    accuracy = ", ".join(
        f"top-{place} {100 * score.tally.accuracy()[place - 1]:.2f} %"
        for place in sorted({1, score.tally.k})
    )
    summary = [f"{accuracy} over {score.tally.images:,} images."]
    dropped = score.problems.dropped()
    if dropped:
        summary.append(f"{counted(dropped, 'sample')} could not be scored; see below.")
    return summary


def mistaken_images(score: Score, source: Source) -> dict[str, bytes]:
    """Name -> bytes of each image file that the page shows and that can be read."""
    shown = {mistake.name for mistake in score.mistakes}
    shown |= {mistake.name for pair in score.confusions for mistake in pair.examples}
    files: dict[str, bytes] = {}
    for item in source.items:
        if item.name in shown:
            with suppress(OSError):
                files[item.name] = source.read(item)
    return files


def accuracy_sections(score: Score, read: ReadImage | None = None) -> list[Section]:
    """Classes, mistakes, calibration, and what could not be scored.

    read: gives the images to show; with None, the page shows only their names.
    """
    sections = [Section("Accuracy by class", _classes(score))]
    wrong: list[Block] = []
    if score.mistakes:
        wrong.append(_mistakes(score, read))
    if score.confusions:
        wrong.append(_confused(score, read))
    if wrong:
        sections.append(Section("Mistakes", wrong))
    if score.tally.ece() is not None:
        sections.append(Section("Confidence", [_calibration(score)]))
    problems = score.problems.lines()
    if problems:
        rows = [(what, len(names), listed(names, MAX_NAMES)) for what, names in problems]
        columns = [Column("what"), Column("count"), Column("which")]
        sections.append(Section("Problems", [Table("", columns, rows)]))
    return sections


def _classes(score: Score) -> list[Block]:
    def tie_break(row: dict[str, Any]) -> tuple[int, int]:
        return -row["images"], row["model_class"]

    rows = sorted(score.classes(), key=lambda row: (row["top1"], *tie_break(row)))
    counts = [0] * 10
    for row in rows:
        counts[min(int(row["top1"] * 10), 9)] += 1
    labels = [f"{10 * i}–{10 * i + 10} %" for i in range(10)]
    note = f"{len(rows):,} of {counted(score.tally.classes, 'class', 'classes')} have images."
    if score.class_names.of_imagenet:
        note += " The names are ImageNet's; --synsets FILE gives other names."
    elif not score.class_names.by_class:
        note += " --synsets FILE gives classes their names."
    spread = Bars("Classes by top-1 accuracy", labels, counts, "classes", note=note)
    best = sorted(rows, key=lambda row: (-row["top1"], *tie_break(row)))
    return [
        spread,
        _class_table("Worst classes", score, rows[:MAX_CLASSES]),
        _class_table("Best classes", score, best[:MAX_CLASSES]),
    ]


def _class_table(title: str, score: Score, rows: list[dict[str, Any]]) -> Table:
    last = f"top{score.tally.k}"
    cells: list[list[Cell]] = []
    for row in rows:
        mistaken_for, mistaken = row["mistaken_for_model_class"], ""
        if mistaken_for is not None:
            mistaken = f"{score.describe_class(mistaken_for)} ({row['times']}×)"
        name = score.describe_class(row["model_class"])
        cells.append([name, row["images"], 100 * row["top1"], 100 * row[last], mistaken])
    columns = [
        Column("class"),
        Column("images"),
        Column("top-1", "%", 1),
        Column(f"top-{score.tally.k}", "%", 1),
        Column("most often mistaken for"),
    ]
    if not any(row[-1] for row in cells):
        columns, cells = columns[:-1], [row[:-1] for row in cells]
    return Table(title, columns, cells)


def _confused(score: Score, read: ReadImage | None) -> Pairs:
    pairs = [
        Pair(
            score.describe_class(pair.truth),
            score.describe_class(pair.predicted),
            pair.images,
            [_picture(score, mistake, read, PAIR_SIDE) for mistake in pair.examples],
        )
        for pair in score.confusions
    ]
    note = "" if read is None else "Pictures: the most confident mistakes of each pair."
    return Pairs("Most confused pairs", pairs, note)


def _mistakes(score: Score, read: ReadImage | None) -> Pictures:
    pictures = [_picture(score, mistake, read, SIDE) for mistake in score.mistakes]
    note = "Wrong predictions of the highest confidence. Wrong labels are often among them."
    return Pictures("Most confident mistakes", pictures, note)


def _picture(score: Score, mistake: Mistake, read: ReadImage | None, side: int) -> Picture:
    data = read(mistake.name) if read is not None else None
    return Picture(
        None if data is None else thumbnail(data, side),
        mistake.name,
        score.describe_class(mistake.truth),
        score.describe_class(mistake.predicted),
        mistake.confidence * 100,
    )


def _calibration(score: Score) -> Lines:
    bins = score.tally.calibration()
    confidences = [100 * row["confidence"] for row in bins]
    return Lines(
        "Accuracy by confidence",
        [
            Series("measured", confidences, [100 * row["accuracy"] for row in bins]),
            Series("perfect calibration", [0, 100], [0, 100], dashed=True),
        ],
        "confidence, %",
        "accuracy, %",
        digits=1,
    )
