"""`zoofast simplify`: computes the constant parts of an ONNX graph in advance."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from zoofast.commands import arguments
from zoofast.commands.console import working
from zoofast.conversion.simplify import simplify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="ONNX to read")
    parser.add_argument("-o", "--output", type=Path, required=True, help="ONNX to write")
    parser.add_argument(
        "--batchsize",
        type=arguments.batch_size,
        metavar="N",
        help="fixed batch size of the result [as in MODEL]",
    )


def run(args: argparse.Namespace) -> int:
    with working(f"simplifying {args.model}"):
        result = simplify(args.model, args.output, args.batchsize)
    table = Table("operator", box=None, pad_edge=False)
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for operator in sorted(result.before | result.after):
        table.add_row(operator, str(result.before[operator]), str(result.after[operator]))
    table.add_section()
    table.add_row("all", str(result.before.total()), str(result.after.total()))
    Console().print(table)
    print(f"{args.output}: equal to {args.model} on {result.agreement}")
    return 0
