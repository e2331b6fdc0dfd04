"""The report of `zoofast eval`."""

from __future__ import annotations

from collections.abc import Sequence

from zoofast.base.provenance import model_digest
from zoofast.base.text import counted
from zoofast.evaluation.result import Evaluation
from zoofast.inference.backends import backend_of
from zoofast.preprocess.sources import Source
from zoofast.report.about import about
from zoofast.report.accuracy import (
    accuracy_figures,
    accuracy_sections,
    accuracy_summary,
    mistaken_images,
)
from zoofast.report.data import Block, Cell, Column, Figure, ReportData, Section, Table
from zoofast.report.running import failure_table, thread_shares, throughput, timeline


def eval_report(evaluation: Evaluation, command: Sequence[str], source: Source) -> ReportData:
    """The page of an evaluation. source: still open, to show the images of mistakes."""
    score = evaluation.score
    sections: list[Section] = []
    if score is not None:
        sections += accuracy_sections(score, mistaken_images(score, source).get)
    elif evaluation.failures:
        table = failure_table(evaluation.failures)
        sections.append(Section("Images that could not be prepared", [table]))
    if evaluation.nodes:
        sections.append(_nodes(evaluation))
    sections.append(_time(evaluation))
    sections.append(about(command, evaluation.recipe, _facts(evaluation)))
    subtitle = f"{evaluation.title} · {evaluation.recipe.name} · {evaluation.source}"
    return ReportData("Evaluation", subtitle, _figures(evaluation), _summary(evaluation), sections)


def _figures(evaluation: Evaluation) -> list[Figure]:
    score = evaluation.score
    accuracy = [] if score is None else accuracy_figures(score, evaluation.recipe.accuracy)
    images = counted(evaluation.images, "image")
    figures = [
        *accuracy,
        Figure("throughput", evaluation.images_per_second, "images/s", note=images),
        Figure("device busy", 100 * evaluation.device_share("infer"), "%"),
    ]
    if not evaluation.nodes:
        figures.insert(-1, Figure("device alone", evaluation.device_rate(), "images/s"))
    return figures


def _summary(evaluation: Evaluation) -> list[str]:
    summary = [] if evaluation.score is None else accuracy_summary(evaluation.score)
    summary.append(evaluation.bottleneck())
    summary += [f"Lost: {line}." for line in evaluation.lost_lines()]
    if evaluation.state != "complete":
        done = f"{evaluation.done:,} of {counted(evaluation.total, 'image')}"
        summary.insert(0, f"Partial: {done} are done.")
    if evaluation.resumed:
        summary.append(
            f"An earlier run evaluated {counted(evaluation.resumed, 'image')}; times and rates are "
            "those of this run."
        )
    return summary


def _nodes(evaluation: Evaluation) -> Section:
    columns = [
        Column("node"),
        Column("threads"),
        Column("devices"),
        Column("tasks"),
        Column("images"),
        Column("rate", "images/s"),
        Column("given up"),
    ]
    rows: list[list[Cell]] = [
        [
            node.name,
            node.threads,
            node.devices,
            node.tasks,
            node.images,
            node.images_per_second,
            node.lost,
        ]
        for node in evaluation.nodes
    ]
    return Section("Nodes", [Table("", columns, rows)])


def _time(evaluation: Evaluation) -> Section:
    note = (
        "The workers prepare images. The thread main scores, and decodes the images that the core "
        "leaves to Pillow."
    )
    recorded = evaluation.timeline
    blocks: list[Block] = [throughput(recorded.rate.points())]
    if not evaluation.nodes:  # their threads are not recorded
        blocks += [thread_shares(recorded.shares(), note), timeline(recorded.window())]
    return Section("Where the time goes", blocks)


def _facts(evaluation: Evaluation) -> dict[str, str]:
    spec = evaluation.specs[0]
    digest = model_digest(spec.model)
    facts = {
        "model": spec.model,
        **({"model digest": digest} if digest != spec.model else {}),
        "backend": backend_of(spec.model, spec.backend),
        "input": str(evaluation.input),
        "source": evaluation.source,
        "threads": str(evaluation.threads),
    }
    if not evaluation.nodes:
        facts |= {
            "devices": ", ".join(str(spec.device) for spec in evaluation.specs),
            "concurrency, in batches": str(evaluation.concurrency),
            "batches in the ring": str(evaluation.depth),
        }
    if evaluation.skipped:
        facts["skipped, not an image"] = f"{evaluation.skipped:,}"
    if evaluation.score is not None:
        facts["labels"] = str(evaluation.score.labels.source)
    return facts
