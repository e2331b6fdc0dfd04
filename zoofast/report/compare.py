"""What `zoofast compare` found, as a report."""

from __future__ import annotations

from collections.abc import Sequence

from zoofast.report.about import about
from zoofast.report.data import Block, Column, Figure, ReportData, Section, Table
from zoofast.scoring.compare import Apart, Comparison

FLIPS_SHOWN = 200
NAMES_SHOWN = 20


def compare_report(found: Comparison, failed: Sequence[str], command: Sequence[str]) -> ReportData:
    """The page of a comparison. failed: what is beyond its thresholds, in words."""
    figures = [Figure("compared", found.images, "images")]
    if found.has_logits:
        agreeing = 100 * (1 - len(found.flips) / found.images)
        figures += [
            Figure("same first class", agreeing, "%", 2, f"{len(found.flips):,} images differ"),
            Figure("least cosine", found.least_cosine, digits=6),
            Figure("largest difference", found.largest_difference, digits=6),
        ]
    sections: list[Section] = []
    if found.accuracy:
        sections.append(Section("Accuracy", [_accuracy(found)]))
    if found.flips:
        sections.append(Section("Images that change their class", [_flips(found)]))
    if found.has_logits:
        apart: list[Block] = [
            _apart("Least alike", found.least_alike),
            _apart("Farthest apart", found.farthest),
        ]
        sections.append(Section("Logits", apart))
    missing = found.missing()
    if missing:
        rows = [(what, len(names), ", ".join(names[:NAMES_SHOWN])) for what, names in missing]
        columns = [Column("what"), Column("count"), Column("which")]
        sections.append(Section("Not compared", [Table("", columns, rows)]))
    sections.append(about(command, more={"A": found.a, "B": found.b}))
    summary = [f"Beyond the threshold: {line}." for line in failed]
    if not summary:
        summary = ["No threshold that was given is exceeded."]
    return ReportData("Comparison", f"{found.a} · {found.b}", figures, summary, sections)


def _accuracy(found: Comparison) -> Table:
    rows = [
        (place.replace("top", "top-"), 100 * a, 100 * b, 100 * (b - a))
        for place, (a, b) in found.accuracy.items()
    ]
    columns = [
        Column(""),
        Column("A", "%", 2),
        Column("B", "%", 2),
        Column("difference", "points", 2),
    ]
    note = f"Of {found.scored[0]:,} and {found.scored[1]:,} images."
    return Table("", columns, rows, note)


def _flips(found: Comparison) -> Table:
    rows = [
        (flip.name, str(flip.a), str(flip.b), "" if flip.truth is None else str(flip.truth))
        for flip in found.flips[:FLIPS_SHOWN]
    ]
    more = len(found.flips) - len(rows)
    note = f"And {more:,} more." if more else ""
    return Table("", [Column("image"), Column("A"), Column("B"), Column("truth")], rows, note)


def _apart(title: str, worst: Sequence[Apart]) -> Table:
    rows = [(each.name, each.cosine, each.difference, str(each.at)) for each in worst]
    columns = [
        Column("image"),
        Column("cosine", digits=8),
        Column("difference", digits=6),
        Column("of class"),
    ]
    return Table(title, columns, rows)
