"""The report of `zoofast score`."""

from __future__ import annotations

from collections.abc import Sequence

from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import open_source
from zoofast.report.about import about
from zoofast.report.accuracy import (
    accuracy_figures,
    accuracy_sections,
    accuracy_summary,
    mistaken_images,
)
from zoofast.report.data import ReportData
from zoofast.scoring.score import Score


def score_report(
    score: Score,
    command: Sequence[str],
    results: str,
    recipe: Recipe | None = None,
    images: str | None = None,
) -> ReportData:
    """The page of a score. results: the folder of result files. recipe: of the images, None where
    it is unknown. images: the source of the images, to show mistakes.

    Raises SourceError when the images cannot be listed.
    """
    files: dict[str, bytes] = {}
    if images is not None:
        with open_source(images) as source:
            files = mistaken_images(score, source)
    run = {"results": results, "labels": str(score.labels.source), "scores": score.scores}
    sections = [*accuracy_sections(score, files.get), about(command, recipe, run)]
    figures = accuracy_figures(score, recipe.accuracy if recipe else None)
    return ReportData("Accuracy", results, figures, accuracy_summary(score), sections)
