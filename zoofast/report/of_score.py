"""What `zoofast score` found, as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoofast.report.about import about
from zoofast.report.accuracy import (
    accuracy_figures,
    accuracy_sections,
    accuracy_summary,
    mistaken_images,
)
from zoofast.report.data import ReportData
from zoofast.scoring import Score
from zoofast.sources import open_source


def score_report(
    score: Score,
    command: Sequence[str],
    results: str,
    published: Mapping[str, float] | None = None,
    images: str | None = None,
) -> ReportData:
    """The page of a score. images: the source of the images, to show the surest mistakes.

    Raises SourceError when the images cannot be listed.
    """
    files: dict[str, bytes] = {}
    if images is not None:
        with open_source(images) as source:
            files = mistaken_images(score, source)
    run = {"results": results, "labels": str(score.labels.source), "scores": score.scores}
    sections = [*accuracy_sections(score, files.get), about(command, more=run)]
    return ReportData(
        "Accuracy", results, accuracy_figures(score, published), accuracy_summary(score), sections
    )
