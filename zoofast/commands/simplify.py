"""`zoofast simplify`: computes the constant parts of an ONNX graph in advance."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoofast.commands.shared import arguments
from zoofast.commands.shared.console import Table, say, working
from zoofast.conversion.simplify import simplify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="ONNX to read")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.onnx", help="ONNX to write"
    )
    parser.add_argument(
        "--batchsize",
        type=arguments.batch_size,
        metavar="N",
        help="fixed batch size of the result (default: as in MODEL)",
    )


def run(args: argparse.Namespace) -> int:
    with working(f"simplifying {args.model}"):
        result = simplify(args.model, args.output, args.batchsize)
    table = Table("operator", "before", "after", frame=False)
    for operator in sorted(result.before | result.after):
        table.add(operator, str(result.before[operator]), str(result.after[operator]))
    table.add_line()
    table.add("all", str(result.before.total()), str(result.after.total()))
    table.print()
    say(f"{args.output}: equal to {args.model} on {result.agreement}")
    return 0
