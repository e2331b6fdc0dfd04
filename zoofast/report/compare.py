"""The report of `zoofast compare`."""

from __future__ import annotations

from collections.abc import Sequence

from zoofast.base.text import listed
from zoofast.report.about import about
from zoofast.report.data import Block, Column, Figure, ReportData, Section, Table
from zoofast.scoring.compare import Comparison, LogitDifference

FLIPS_SHOWN = 200
NAMES_SHOWN = 20


def compare_report(
    comparison: Comparison, failed: Sequence[str] | None, command: Sequence[str]
) -> ReportData:
    """The page of a comparison. failed: what is beyond its thresholds, in words; None if it has
    none."""
    figures = [Figure("compared", comparison.images, "images")]
    if comparison.has_logits:
        agreeing = 100 * (1 - len(comparison.flips) / comparison.images)
        figures += [
            Figure("same best class", agreeing, "%", 2, f"{len(comparison.flips):,} images differ"),
            Figure("minimum cosine", comparison.min_cosine, digits=6),
            Figure("largest difference", comparison.max_difference, digits=6),
        ]
    sections: list[Section] = []
    if comparison.accuracy:
        sections.append(Section("Accuracy", [_accuracy(comparison)]))
    if comparison.flips:
        sections.append(Section("Images that change their class", [_flips(comparison)]))
    if comparison.has_logits and not comparison.identical:
        differences: list[Block] = [
            _differences("Lowest cosines", comparison.lowest_cosines),
            _differences("Largest differences", comparison.largest_differences),
        ]
        sections.append(Section("Logits", differences))
    problems = comparison.problems()
    if problems:
        rows = [(what, len(names), listed(names, NAMES_SHOWN)) for what, names in problems]
        columns = [Column("what"), Column("count"), Column("which")]
        sections.append(Section("Not compared", [Table("", columns, rows)]))
    sections.append(about(command, more={"A": comparison.a, "B": comparison.b}))
    summary = [f"Beyond the threshold: {line}." for line in failed or ()]
    if failed is not None and not failed:
        summary = ["No threshold that was given is exceeded."]
    if comparison.identical:
        summary.append("The logits are identical.")
    summary += [f"{line}." for line in comparison.nan_lines()]
    return ReportData("Comparison", f"{comparison.a} · {comparison.b}", figures, summary, sections)


def _accuracy(comparison: Comparison) -> Table:
    rows = [
        (place.replace("top", "top-"), 100 * a, 100 * b, 100 * (b - a))
        for place, (a, b) in comparison.accuracy.items()
    ]
    columns = [
        Column(""),
        Column("A", "%", 2),
        Column("B", "%", 2),
        Column("difference", "points", 2),
    ]
    note = f"Of {comparison.scored[0]:,} and {comparison.scored[1]:,} images."
    return Table("", columns, rows, note)


def _flips(comparison: Comparison) -> Table:
    rows = [
        (flip.name, *(_class(comparison, index) for index in (flip.a, flip.b, flip.truth)))
        for flip in comparison.flips[:FLIPS_SHOWN]
    ]
    more = len(comparison.flips) - len(rows)
    note = f"And {more:,} more." if more else ""
    return Table("", [Column("image"), Column("A"), Column("B"), Column("truth")], rows, note)


def _class(comparison: Comparison, index: int | None) -> str:
    return "" if index is None else comparison.class_names.describe(index)


def _differences(title: str, worst: Sequence[LogitDifference]) -> Table:
    rows = [(each.name, each.cosine, each.difference, str(each.class_index)) for each in worst]
    columns = [
        Column("image"),
        Column("cosine", digits=8),
        Column("difference", digits=6),
        Column("of class"),
    ]
    return Table(title, columns, rows)
