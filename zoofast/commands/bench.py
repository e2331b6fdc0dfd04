"""`zoofast bench`: the guides' performance table, a model at several batch sizes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from zoofast.base.extras import needs
from zoofast.commands import arguments
from zoofast.commands.console import Table, explain, progress, warn, write_json, write_result
from zoofast.commands.inference import add_model_arguments, dynamic_of
from zoofast.errors import BackendError
from zoofast.inference.backends import WITHOUT_FILE

COLUMNS = ("mean", "median", "p90", "p99")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--batchsize",
        type=arguments.batch_sizes,
        default=[1, 4, 8, 16, 32, 64],
        metavar="N[,N…]",
        help="{bs} in the model's path takes each (default: 1,4,8,16,32,64)",
    )
    parser.add_argument(
        "-l", "--loop", type=arguments.positive, default=100, help="executions each (default: 100)"
    )
    parser.add_argument(
        "-d", "--device", type=arguments.device, default=0, metavar="D", help="default: 0"
    )
    arguments.add_result(parser, "--markdown", metavar="FILE", text="write the table")
    arguments.add_json_and_report(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    if args.report:
        with needs("report"):  # before the work
            from zoofast.report import render
            from zoofast.report.bench import bench_report
    models = {size: args.model.replace("{bs}", str(size)) for size in args.batchsize}
    if args.backend not in WITHOUT_FILE:
        absent = [model for model in dict.fromkeys(models.values()) if not Path(model).is_file()]
        if absent:
            raise BackendError(f"{', '.join(absent)}: no such model file")
    rows: list[dict[str, Any]] = []
    failures: dict[int, str] = {}
    with progress("bench", len(models), args.quiet) as meter:
        for size, model in models.items():
            try:
                rows.append(_measure(args, size, model))
            except BackendError as error:  # the other batch sizes may still work
                failures[size] = str(error).removeprefix(f"{model}: ")
            meter.advance(1)
    if not rows:  # one reason may be that of all batch sizes
        raise BackendError(f"{args.model}: {'; '.join(dict.fromkeys(failures.values()))}")
    best = max(rows, key=lambda row: float(row["images_per_second"]))
    for row in rows:
        row["best"] = row is best
    notes = [note for row in rows for note in row.pop("notes") if row is best]
    numbers = {
        "model": args.model,
        "device": args.device,
        "loop": args.loop,
        "rows": rows,
        "failures": {str(size): why for size, why in failures.items()},
    }
    if args.markdown:
        write_result(args.markdown, _markdown(rows))
    if args.json:
        write_json(args.json, numbers)
    if args.report:
        write_result(args.report, render(bench_report(numbers, ["zoofast", *args.argv])))
    _table(rows, args.model).print()
    explain(*notes)
    for why in dict.fromkeys(failures.values()):
        sizes = [str(size) for size, reason in failures.items() if reason == why]
        which = f"size {sizes[0]} is" if len(sizes) == 1 else f"sizes {', '.join(sizes)} are"
        warn(f"batch {which} not measured: {why}")
    return 1 if failures else 0


def _measure(args: argparse.Namespace, size: int, model: str) -> dict[str, Any]:
    from zoofast.inference.backends import latency
    from zoofast.inference.job import InferJob
    from zoofast.inference.processes import run_jobs
    from zoofast.inference.spec import ModelSpec
    from zoofast.inference.transfer import Transfer

    job = InferJob(
        ModelSpec(
            model,
            args.backend,
            args.device,
            size,
            provider=args.provider,
            dynamic=dynamic_of(args),
        ),
        loop=args.loop,
        warmup=args.warmup_count,
        pure_data=args.pure_data_type,
    )
    (run_of_device,) = run_jobs([job], timeout=args.device_timeout)
    report = run_of_device.report
    transfer = Transfer.of(report.inputs, report.times)
    return {
        "batchsize": size,
        "images_per_second": report.throughput(),
        "latency_ms": latency(report.times.compute),
        **({"transfer": transfer.as_dict()} if transfer else {}),
        "notes": list(transfer.sentences()) if transfer else [],
    }


def _cells(row: dict[str, Any]) -> list[str]:
    times = [f"{row['latency_ms'][column]:.3f}" for column in COLUMNS]
    return [str(row["batchsize"]), f"{row['images_per_second']:.1f}", *times]


HEADINGS = ["batch size", "img/s", *(f"{column} ms" for column in COLUMNS)]


def _table(rows: list[dict[str, Any]], model: str) -> Table:
    table = Table(*HEADINGS, "", title=model, words=0)
    for row in rows:
        style = "bold green" if row["best"] else None
        table.add(*_cells(row), "best" if row["best"] else "", style=style)
    return table


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + " ---: |" * len(HEADINGS)]
    for row in rows:
        cells = [f"**{cell}**" if row["best"] else cell for cell in _cells(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
