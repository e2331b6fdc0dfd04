"""`zoofast aipp`: writes the AIPP file of a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoofast.base.files import atomic_output
from zoofast.commands.shared import arguments, recipe_source
from zoofast.commands.shared.console import say
from zoofast.conversion.aipp import Aipp
from zoofast.conversion.atc import AIPP_CONFIG


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe_name(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(AIPP_CONFIG),
        metavar="FILE",
        help="file to write (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    arguments.check_files([("-o", args.output)], [("RECIPE", args.recipe)])
    original = recipe_source.load(args)
    recipe = original.with_output("uint8", "NHWC")
    with atomic_output(args.output) as partial:
        partial.write_text(Aipp.from_recipe(recipe).text(), encoding="ascii")
    height, width = recipe.size
    say(f"{args.output}: the NPU will take {height}x{width}x3 uint8 images")
    if recipe != original:
        size = " --test-size" if args.test_size else ""
        say(
            f"prepare them with: zoofast prep SRC OUT --recipe {args.recipe}{size} "
            "--dtype uint8 --layout NHWC"
        )
    return 0
