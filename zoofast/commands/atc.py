"""`zoofast atc`: compiles an ONNX to an .om for each batch size, as the guides do."""

from __future__ import annotations

import argparse

from zoofast.commands.shared import arguments, recipe_source
from zoofast.commands.shared.console import say
from zoofast.commands.shared.conversion import add_batch_sizes, add_soc_and_options, print_at_once
from zoofast.conversion import atc
from zoofast.conversion.npu_smi import soc_version


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="ONNX file; {batch} in the name stands for the batch size",
    )
    arguments.add_recipe(parser)
    add_batch_sizes(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="NAME",
        help=".om file to write, without its suffix; {batch} as above (default: the guide's name)",
    )
    parser.add_argument(
        "--aipp", metavar="FILE", help="AIPP configuration (default: as in the guide)"
    )
    add_soc_and_options(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands of ATC, and run nothing"
    )


def run(args: argparse.Namespace) -> int:
    recipe = recipe_source.load(args)
    soc = soc_version(args.soc)
    commands = [
        atc.build(
            recipe,
            args.model,
            batch,
            soc,
            output=args.output,
            aipp=args.aipp,
            options=dict(args.option),
        )
        for batch in args.batchsize
    ]
    atc.check_outputs(commands)
    _check_files(commands)
    for command in commands:
        say(str(command))
    if args.dry_run:
        return 0
    for command, batch in zip(commands, args.batchsize, strict=True):
        atc.check(command, recipe, batch)
    for command in commands:
        om = atc.run(command, atc.log_path(command), print_at_once)
        say(f"{om}: {om.stat().st_size / 1e6:.1f} MB")
    return 0


def _check_files(commands: list[atc.Command]) -> None:
    arguments.check_files(
        [("-o", command.output) for command in commands]
        + [("ATC's log", atc.log_path(command)) for command in commands],
        [("MODEL", command["model"]) for command in commands]
        + [("the AIPP file", command["insert_op_conf"]) for command in commands],
    )
