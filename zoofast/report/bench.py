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
    within = numbers.get("best_within")
    sections = [_batch_sizes(rows), _host_to_host(rows)]
    if numbers["failures"]:
        failed = {f"batch size {size}": why for size, why in numbers["failures"].items()}
        sections.append(Section("Not measured", [Facts(failed)]))
    effort = f"{numbers['loop']} executions" if numbers["loop"] else f"{numbers['duration']:g} s"
    run = {"model": str(numbers["model"]), "each measurement": effort}
    sections.append(about(command, more=run))
    return ReportData(
        "Benchmark",
        f"{numbers['model']} · device {numbers['device']}",
        _figures(best, within),
        _summary(best, within, numbers.get("max_latency_ms"), len(rows)),
        sections,
    )


def _figures(best: Mapping[str, Any], within: Mapping[str, Any] | None) -> list[Figure]:
    """best: the row of the best batch size; within: the best measurement within the limit of the
    latency, None without a limit, or where there is none."""
    if within is None:
        return [
            Figure("best throughput", best["images_per_second"], "images/s"),
            Figure("at batch size", best["batchsize"]),
            Figure("median latency at this size", best["latency_ms"]["median"], "ms", 3),
        ]
    note = "from host to host"
    return [
        Figure("throughput", within["images_per_second"], "images/s", note=note),
        Figure("at batch size", within["batchsize"]),
        Figure("at concurrency", within["concurrency"]),
        Figure("p99 latency", within["host_latency_ms"]["p99"], "ms", 3, note),
    ]


def _summary(
    best: Mapping[str, Any], within: Mapping[str, Any] | None, limit: float | None, count: int
) -> list[str]:
    """limit: of the latency, in milliseconds; None: not asked for. count: of batch sizes."""
    if within is not None:
        return [
            f"{within['images_per_second']:,.0f} images/s from host to host at batch size "
            f"{within['batchsize']} and concurrency {within['concurrency']}: the best with a p99 "
            f"latency of at most {limit:g} ms."
        ]
    summary = [
        f"{best['images_per_second']:,.0f} images/s at batch size {best['batchsize']}, the best "
        f"of {count}."
    ]
    if limit is not None:
        summary.insert(0, f"No batch size has a p99 latency of at most {limit:g} ms.")
    return summary


def _batch_sizes(rows: Sequence[Mapping[str, Any]]) -> Section:
    """Throughput and latency of the device alone, at each batch size."""
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
    return Section("Batch sizes", [throughput, latency, table])


def _host_to_host(rows: Sequence[Mapping[str, Any]]) -> Section:
    """Latency and throughput with the copies, at each concurrency."""
    levels = [(row, level) for row in rows for level in row["levels"]]
    by_level: dict[int, list[tuple[float, float]]] = {}
    for _, level in levels:
        point = (level["host_latency_ms"]["p99"], level["images_per_second"])
        by_level.setdefault(level["concurrency"], []).append(point)

    def series(concurrency: int, points: list[tuple[float, float]]) -> Series:
        xs, ys = zip(*sorted(points), strict=True)
        return Series(f"concurrency {concurrency}", xs, ys)

    plot = Lines(
        "Throughput over latency, a point for each batch size",
        [series(concurrency, points) for concurrency, points in by_level.items()],
        "p99 latency, ms",
        "images/s",
        digits=3,
    )
    copies = [
        Column(f"{name}, {quantile}", "ms", 3)
        for name in ("copy in", "copy out")
        for quantile in ("median", "p99")
    ]
    timed = any("copies_ms" in row for row in rows)
    table = Table(
        "From host to host",
        [
            Column("batch size"),
            Column("concurrency"),
            Column("throughput", "images/s", 1),
            *(Column(name, "ms", 3) for name in QUANTILES),
            *(copies if timed else []),
        ],
        [
            (
                row["batchsize"],
                level["concurrency"],
                level["images_per_second"],
                *(level["host_latency_ms"][name] for name in QUANTILES),
                *(
                    row.get("copies_ms", {}).get(copy, {}).get(quantile)
                    for copy in ("to_device", "from_device") * timed
                    for quantile in ("median", "p99")
                ),
            )
            for row, level in levels
        ],
        "From the batch's memory on the host to the outputs' memory on the host.",
    )
    return Section("Host to host", [plot, table])
