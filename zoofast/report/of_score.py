"""What `zoofast score` found, as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoofast.report.about import about
from zoofast.report.accuracy import accuracy_figures, accuracy_sections
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
    shown = {mistake.name for mistake in score.mistakes}
    files: dict[str, bytes] = {}
    if images is not None:
        with open_source(images) as source:
            for item in source.items:
                if item.name in shown:
                    try:
                        files[item.name] = source.read(item)
                    except OSError:
                        continue  # shown without a picture
    accuracy = ", ".join(
        f"top-{place} {100 * score.tally.accuracy()[place - 1]:.2f} %"
        for place in sorted({1, score.tally.k})
    )
    summary = [f"{accuracy} over {score.tally.images:,} images."]
    dropped = score.problems.dropped()
    if dropped:
        summary.append(f"{dropped:,} samples could not be scored, or not soundly; see below.")
    run = {"results": results, "labels": str(score.labels.source), "scores": score.scores}
    sections = [*accuracy_sections(score, files.get), about(command, more=run)]
    return ReportData("Accuracy", results, accuracy_figures(score, published), summary, sections)
