"""`zoofast simplify`: folds what is constant in an ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from zoofast.commands import arguments
from zoofast.commands.console import working
from zoofast.conversion.simplify import simplify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="the ONNX to read")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the ONNX to write")
    parser.add_argument(
        "--batchsize",
        type=arguments.batch_size,
        metavar="N",
        help="fix the batch to this size [kept as it is]",
    )


def run(args: argparse.Namespace) -> int:
    with working(f"simplifying {args.model}"):
        done = simplify(args.model, args.output, args.batchsize)
    table = Table("operator", box=None, pad_edge=False)
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for operator in sorted(done.before | done.after):
        table.add_row(operator, str(done.before[operator]), str(done.after[operator]))
    table.add_section()
    table.add_row("all", str(done.before.total()), str(done.after.total()))
    Console().print(table)
    print(f"{args.output}: equal to {args.model} on {done.agreement}")
    return 0
