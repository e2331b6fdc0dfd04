"""`zoofast optimize`: rewrites an ONNX graph, and proves that its results are equal."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoofast.base.text import counted
from zoofast.commands.shared.console import say, working
from zoofast.conversion import rewrites
from zoofast.conversion.optimize import optimize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "rewrites: " + "; ".join(
        f"{rewrite.name}: {rewrite.summary}" for rewrite in rewrites.registry().values()
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="ONNX to read")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.onnx", help="ONNX to write"
    )
    parser.add_argument(
        "-k", "--knowledges", required=True, metavar="NAMES", help="rewrites, comma-separated"
    )


def run(args: argparse.Namespace) -> int:
    with working(f"rewriting {args.model}"):
        result = optimize(args.model, args.output, args.knowledges.split(","))
    for name, count in result.applied.items():
        if count:
            say(f"{name}: applied {counted(count, 'time')}")
        else:
            say(f"{name}: nothing to do: {rewrites.load(name).unused}")
    say(f"{args.output}: {result.nodes_before} nodes -> {result.nodes_after}")
    say(f"equal in every bit on {counted(result.agreement.images, 'random image')} (ONNX Runtime)")
    return 0
