"""`zoofast bench`: the guides' performance table, a model at several batch sizes; latency and
throughput from host to host."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from zoofast.base.extras import needs
from zoofast.commands.shared import arguments
from zoofast.commands.shared.console import (
    Table,
    explain,
    progress,
    say,
    warn,
    working,
    write_json,
    write_result,
)
from zoofast.commands.shared.inference import add_device, add_model_arguments, dynamic_of
from zoofast.errors import BackendError
from zoofast.inference.backends import WITHOUT_FILE
from zoofast.inference.lateness import DeviceTimeoutError

COLUMNS = ("mean", "median", "p90", "p99")
SIZES = [1, 4, 8, 16, 32, 64]
LARGEST = 1024  # batch size that the search tries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--batchsize",
        type=arguments.batch_sizes,
        metavar="N[,N…]",
        help="batch sizes to measure; each replaces {bs} in the model's path (default: "
        "1,4,8,16,32,64)",
    )
    parser.add_argument(
        "--concurrency",
        type=arguments.several(arguments.positive),
        default=[],
        metavar="N[,N…]",
        help="batches that are under way at a time (default: 1; with the backend acl 1,2,4)",
    )
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument(
        "-l",
        "--loop",
        type=arguments.positive,
        default=100,
        metavar="N",
        help="executions of each measurement (default: 100)",
    )
    effort.add_argument(
        "--duration",
        type=arguments.seconds,
        metavar="S",
        help="seconds of each measurement, in place of --loop",
    )
    parser.add_argument(
        "--max-latency",
        type=arguments.real_number(0.001, 1e6),
        metavar="MS",
        help="find the batch size with the best throughput of those with a p99 latency, from host "
        "to host, of at most MS; without --batchsize, up to 1024 is searched",
    )
    add_device(parser)
    arguments.add_result(parser, "--markdown", metavar="FILE", text="write the table")
    arguments.add_json_and_report(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    if args.report:
        with needs("report"):  # before the work
            from zoofast.report import render
            from zoofast.report.bench import bench_report
    search = args.max_latency is not None and not args.batchsize and "{bs}" not in args.model
    sizes = args.batchsize or ([1] if search else SIZES)
    _check_arguments(args, sizes)
    rows, failures, is_complete = _measure_all(args, sizes, search)
    within = None if args.max_latency is None else _best_within(rows, args.max_latency)
    notes = _mark_best(rows, within)
    numbers = _numbers(args, rows, failures, within)
    if args.markdown:
        write_result(args.markdown, _markdown(rows))
    if args.json:
        write_json(args.json, numbers)
    if args.report:
        write_result(args.report, render(bench_report(numbers, ["zoofast", *args.argv])))
    _table(rows, args.model).print()
    _level_table(rows).print()
    explain(*notes)
    if within is not None:
        say(
            f"best throughput with a p99 latency of at most {args.max_latency:g} ms: "
            f"{within['images_per_second']:,.1f} images/s, batch size {within['batchsize']}, "
            f"concurrency {within['concurrency']}, p99 {within['host_latency_ms']['p99']:.3f} ms"
        )
    elif args.max_latency is not None:
        warn(f"no batch size has a p99 latency of at most {args.max_latency:g} ms")
    _warn_of_failures(failures)
    return 0 if is_complete and (args.max_latency is None or within is not None) else 1


def _check_arguments(args: argparse.Namespace, sizes: Sequence[int]) -> None:
    """Raises what `check_files` raises, and BackendError for models that are not there."""
    if args.backend in WITHOUT_FILE:
        models: list[str] = []
    else:
        models = list(dict.fromkeys(_model(args, size) for size in sizes))
    arguments.check_files(
        [("--markdown", args.markdown), ("--json", args.json), ("--report", args.report)],
        [("--model", model) for model in models],
    )
    absent = [model for model in models if not Path(model).is_file()]
    if absent:
        raise BackendError(f"{', '.join(absent)}: no such model file")


def _measure_all(
    args: argparse.Namespace, sizes: Sequence[int], search: bool
) -> tuple[list[dict[str, Any]], dict[int, str], bool]:
    """A row for each batch size that could be measured; batch size -> why it could not; whether
    all is measured that was asked for. search: sizes up to LARGEST, as --max-latency asks.

    Raises BackendError if there is no row.
    """
    rows: list[dict[str, Any]] = []
    failures: dict[int, str] = {}
    is_complete = True
    try:
        if search:
            # A size that cannot be run ends a search as a size beyond the limit does.
            _search(args, rows, failures)
        else:
            with progress("bench", len(sizes), args.quiet) as meter:
                for size in sizes:
                    _try(args, size, rows, failures)
                    meter.advance(1)
            is_complete = not failures
    except DeviceTimeoutError as error:
        done = {row["batchsize"] for row in rows}
        failures |= {size: str(error) for size in sizes if size not in done | failures.keys()}
        is_complete = False
    if not rows:  # one reason may be that of all batch sizes
        raise BackendError(f"{args.model}: {'; '.join(dict.fromkeys(failures.values()))}")
    return rows, failures, is_complete


def _mark_best(rows: list[dict[str, Any]], within: dict[str, Any] | None) -> list[str]:
    """Sets "best" in each row, and takes "notes" out of it; returns those of the best row.

    The best row has the size of `within`, see `_best_within`; without it, the best throughput.
    """
    best = max(rows, key=lambda row: float(row["images_per_second"]))
    if within is not None:
        best = next(row for row in rows if row["batchsize"] == within["batchsize"])
    for row in rows:
        row["best"] = row is best
    return [note for row in rows for note in row.pop("notes") if row is best]


def _numbers(
    args: argparse.Namespace,
    rows: list[dict[str, Any]],
    failures: dict[int, str],
    within: dict[str, Any] | None,
) -> dict[str, Any]:
    """What --json writes."""
    numbers = {
        "model": args.model,
        "device": args.device,
        "loop": None if args.duration else args.loop,
        "duration": args.duration,
        "rows": rows,
        "failures": {str(size): why for size, why in failures.items()},
    }
    if args.max_latency is not None:
        numbers |= {"max_latency_ms": args.max_latency, "best_within": within}
    return numbers


def _warn_of_failures(failures: dict[int, str]) -> None:
    for why in dict.fromkeys(failures.values()):
        sizes = [str(size) for size, reason in failures.items() if reason == why]
        which = f"size {sizes[0]} is" if len(sizes) == 1 else f"sizes {', '.join(sizes)} are"
        warn(f"batch {which} not measured: {why}")


def _model(args: argparse.Namespace, size: int) -> str:
    return str(args.model.replace("{bs}", str(size)))


def _try(
    args: argparse.Namespace, size: int, rows: list[dict[str, Any]], failures: dict[int, str]
) -> bool:
    """Measures a batch size; the other sizes may work where it does not.

    Raises DeviceTimeoutError: a device that hangs would hang at each other size too."""
    try:
        rows.append(_measure(args, size, _model(args, size)))
    except BackendError as error:
        failures[size] = str(error).removeprefix(f"{_model(args, size)}: ")
        if isinstance(error, DeviceTimeoutError):
            raise
        return False
    return True


def _search(args: argparse.Namespace, rows: list[dict[str, Any]], failures: dict[int, str]) -> None:
    from zoofast.inference.measure import search_sizes

    def is_within(size: int) -> bool:
        show(f"bench: batch size {size}")
        if not _try(args, size, rows, failures):
            return False
        return bool(rows[-1]["levels"][0]["host_latency_ms"]["p99"] <= args.max_latency)

    with nullcontext(lambda what: None) if args.quiet else working("bench") as show:
        try:
            search_sizes(is_within, LARGEST)
        finally:
            rows.sort(key=lambda row: int(row["batchsize"]))


def _best_within(rows: list[dict[str, Any]], limit: float) -> dict[str, Any] | None:
    """The fastest of all measurements within the limit of the latency, in milliseconds."""
    fitting = [
        {"batchsize": row["batchsize"], **level}
        for row in rows
        for level in row["levels"]
        if level["host_latency_ms"]["p99"] <= limit
    ]
    return max(fitting, key=lambda level: float(level["images_per_second"]), default=None)


def _measure(args: argparse.Namespace, size: int, model: str) -> dict[str, Any]:
    from zoofast.inference.backends import latency
    from zoofast.inference.measure import BenchJob, BenchReport
    from zoofast.inference.parallel import run_jobs
    from zoofast.inference.spec import ModelSpec
    from zoofast.inference.transfer import Transfer

    job = BenchJob(
        ModelSpec(
            model,
            args.backend,
            args.device,
            size,
            provider=args.provider,
            dynamic=dynamic_of(args),
        ),
        loop=args.loop,
        seconds=args.duration,
        levels=tuple(args.concurrency),
        warmup=args.warmup_count,
        pure_data=args.pure_data_type,
    )
    (run_of_device,) = run_jobs([job], timeout=args.device_timeout)
    report = run_of_device.report
    assert isinstance(report, BenchReport)
    transfer = Transfer.of(report.inputs, report.times)
    row: dict[str, Any] = {
        "batchsize": size,
        "images_per_second": report.throughput(),
        "latency_ms": latency(report.times.compute),
        "levels": [level.as_dict() for level in report.levels],
        "notes": list(transfer.sentences()) if transfer else [],
    }
    if transfer:
        row["transfer"] = transfer.as_dict()
        row["copies_ms"] = {
            "to_device": latency(report.times.to_device),
            "from_device": latency(report.times.from_device),
        }
    return row


def _cells(row: dict[str, Any]) -> list[str]:
    times = [f"{row['latency_ms'][column]:.3f}" for column in COLUMNS]
    return [str(row["batchsize"]), f"{row['images_per_second']:.1f}", *times]


HEADINGS = ["batch size", "img/s", *(f"{column} ms" for column in COLUMNS)]


def _table(rows: list[dict[str, Any]], model: str) -> Table:
    table = Table(*HEADINGS, "", title=f"{model}, the device alone", words=0)
    for row in rows:
        style = "bold green" if row["best"] else None
        table.add(*_cells(row), "best" if row["best"] else "", style=style)
    return table


def _level_table(rows: list[dict[str, Any]]) -> Table:
    """Where the device's copies are timed, also their medians."""
    timed = any("copies_ms" in row for row in rows)
    copies = ["copy in ms", "copy out ms"] if timed else []
    headings = ["batch size", "concurrency", "img/s", "median ms", "p90 ms", "p99 ms", *copies]
    table = Table(*headings, title="From host to host", words=0)
    for row in rows:
        medians = [f"{times['median']:.3f}" for times in row.get("copies_ms", {}).values()]
        for level in row["levels"]:
            table.add(
                str(row["batchsize"]),
                str(level["concurrency"]),
                f"{level['images_per_second']:.1f}",
                *(f"{level['host_latency_ms'][name]:.3f}" for name in COLUMNS[1:]),
                *(medians or [""] * len(copies)),
            )
    return table


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + " ---: |" * len(HEADINGS)]
    for row in rows:
        cells = [f"**{cell}**" if row["best"] else cell for cell in _cells(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
