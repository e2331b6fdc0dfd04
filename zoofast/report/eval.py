"""What `zoofast eval` found, as a report."""

from __future__ import annotations

from collections.abc import Sequence

from zoofast.base.provenance import model_digest
from zoofast.evaluation.evaluate import Evaluation
from zoofast.inference.backends import backend_of
from zoofast.preprocess.sources import Source
from zoofast.report.about import about
from zoofast.report.accuracy import (
    accuracy_figures,
    accuracy_sections,
    accuracy_summary,
    mistaken_images,
)
from zoofast.report.data import Figure, ReportData, Section
from zoofast.report.running import failures, thread_shares, throughput, timeline


def eval_report(found: Evaluation, command: Sequence[str], source: Source) -> ReportData:
    """The page of an evaluation. source: still open, for pictures of mistakes."""
    score, waiting = found.score, found.waiting()
    figures = [] if score is None else accuracy_figures(score, found.recipe.accuracy)
    figures += [
        Figure("throughput", found.images_per_second, "images/s", note=f"{found.images:,} images"),
        Figure("device alone", found.device_rate(), "images/s"),
        Figure("device busy", 100 * found.device_share("infer"), "%"),
    ]
    summary = [] if score is None else accuracy_summary(score)
    summary.append(f"{waiting[0].upper()}{waiting[1:]}.")
    if found.state != "complete":
        through = found.kept + found.images
        summary.insert(0, f"Partial: {through:,} of {found.total:,} images are through.")
    if found.kept:
        summary.append(f"{found.kept:,} images are from an earlier run; times are of the others.")
    sections: list[Section] = []
    if score is not None:
        sections += accuracy_sections(score, mistaken_images(score, source).get)
    elif found.failures:
        sections.append(Section("Images that could not be prepared", [failures(found.failures)]))
    note = "The workers prepare images; main scores, and decodes what only Pillow can."
    sections.append(
        Section(
            "Where the time goes",
            [
                throughput(found.timeline.rate.points()),
                thread_shares(found.timeline.shares(), note),
                timeline(found.timeline.window()),
            ],
        )
    )
    devices = ", ".join(str(spec.device) for spec in found.specs)
    spec = found.specs[0]
    digest = model_digest(spec.model)
    run = {
        "model": spec.model,
        **({"model digest": digest} if digest != spec.model else {}),
        "backend": backend_of(spec.model, spec.backend),
        "input": str(found.input),
        "devices": devices,
        "source": found.source,
        "threads": str(found.threads),
        "batches computed at once": str(found.lanes),
        "batches in the ring": str(found.depth),
    }
    if found.skipped:
        run["skipped as no image"] = f"{found.skipped:,}"
    if score is not None:
        run["labels"] = str(score.labels.source)
    sections.append(about(command, found.recipe, run))
    subtitle = f"{spec.model} · {found.recipe.name} · {found.source}"
    return ReportData("Evaluation", subtitle, figures, summary, sections)
