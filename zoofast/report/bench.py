"""The report of `zoofast bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoofast.report.about import about
from zoofast.report.data import (
    Column,
    Facts,
    Figure,
    Lines,
    ReportData,
    Section,
    Series,
    Table,
)

QUANTILES = ("min", "mean", "median", "p90", "p99", "max")


def bench_report(numbers: Mapping[str, Any], command: Sequence[str]) -> ReportData:
    """The page of a benchmark. numbers: the content of `zoofast bench --json`."""
    rows = sorted(numbers["rows"], key=lambda row: int(row["batchsize"]))
    best = next(row for row in rows if row["best"])
    figures = [
        Figure("best throughput", best["images_per_second"], "images/s"),
        Figure("at batch size", best["batchsize"]),
        Figure("median latency there", best["latency_ms"]["median"], "ms", 3),
    ]
    sizes = [row["batchsize"] for row in rows]
    throughput = Lines(
        "Throughput",
        [Series("throughput", sizes, [row["images_per_second"] for row in rows])],
        "batch size",
        "images/s",
        log_x=True,
    )
    latency = Lines(
        "Latency of a batch",
        [
            Series(name, sizes, [row["latency_ms"][name] for row in rows])
            for name in ("median", "p99")
        ],
        "batch size",
        "ms",
        log_x=True,
        digits=3,
    )
    table = Table(
        "All batch sizes",
        [
            Column("batch size"),
            Column("throughput", "images/s", 1),
            *(Column(name, "ms", 3) for name in QUANTILES),
        ],
        [
            (
                row["batchsize"],
                row["images_per_second"],
                *(row["latency_ms"][name] for name in QUANTILES),
            )
            for row in rows
        ],
        "Throughput is the batch size over the mean time on the device, as ais_bench counts it.",
    )
    sections = [Section("Batch sizes", [throughput, latency, table])]
    if numbers["failures"]:
        failed = {f"batch size {size}": why for size, why in numbers["failures"].items()}
        sections.append(Section("Not measured", [Facts(failed)]))
    summary = [
        f"{best['images_per_second']:,.0f} images/s at batch size {best['batchsize']}, the best "
        f"of {len(rows)}."
    ]
    run = {"model": str(numbers["model"]), "executions": f"{numbers['loop']} per batch size"}
    sections.append(about(command, more=run))
    return ReportData(
        "Benchmark", f"{numbers['model']} · device {numbers['device']}", figures, summary, sections
    )
