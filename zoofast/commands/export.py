"""`zoofast export`: exports a network and its weights to ONNX."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoofast.base.text import listed
from zoofast.commands.shared import arguments
from zoofast.commands.shared.console import say, warn, working
from zoofast.commands.shared.conversion import add_model, named_model, weights_file
from zoofast.conversion import trial
from zoofast.conversion.export import (
    MAX_LISTED_KEYS,
    OPSET,
    TOLERANCE,
    ExportTarget,
    build_network,
    export,
    nan_weights,
)
from zoofast.conversion.models import KnownModel
from zoofast.errors import ModelError
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "; any name with --factory")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.onnx",
        help="ONNX file to write (default: the guide's name, or MODEL.onnx)",
    )
    parser.add_argument(
        "--batchsize",
        type=arguments.batch_size,
        metavar="N",
        help="images in a batch (default: a dynamic axis, which takes any number)",
    )
    parser.add_argument(
        "--opset",
        type=arguments.positive,
        default=OPSET,
        metavar="N",
        help="version of ONNX's operators (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=arguments.count,
        default=0,
        metavar="N",
        help="seed of random weights (default: %(default)s)",
    )
    proof = parser.add_argument_group("check")
    proof.add_argument(
        "--check",
        action="store_true",
        help="compare the logits of PyTorch and ONNX Runtime, and fail where they differ",
    )
    proof.add_argument(
        "--images", metavar="SRC", help="images to compare on (default: synthetic images)"
    )
    proof.add_argument(
        "--count",
        type=arguments.positive,
        default=trial.IMAGES,
        metavar="N",
        help="number of images (default: %(default)s)",
    )
    proof.add_argument(
        "--tolerance",
        type=arguments.real_number(0, 1e6),
        default=TOLERANCE,
        metavar="SHARE",
        help="allowed difference, as a share of the largest logit (default: %(default)s)",
    )
    proof.add_argument(
        "--recipe", metavar="NAME|FILE.toml", help="recipe of the images (default: the model's)"
    )
    own = parser.add_argument_group("a model of your own")
    own.add_argument(
        "--factory", metavar="PACKAGE.MODULE:FUNCTION", help="function that builds the network"
    )
    own.add_argument(
        "--size",
        type=arguments.positive,
        metavar="N",
        help="height and width of the input, in pixels",
    )
    for port, name in (("input", ExportTarget.input), ("output", ExportTarget.output)):
        own.add_argument(
            f"--{port}-name",
            default=name,
            metavar="NAME",
            help=f"name of the ONNX's {port} (default: %(default)s)",
        )


def run(args: argparse.Namespace) -> int:
    known, recipe = named_model(args) if args.factory is None else (None, None)
    target = _target(args, known, recipe)
    weights = weights_file(args.weights, known)
    images = _images(args, target, recipe) if args.check else None
    out = args.output or Path(f"{known.onnx if known else args.model}.onnx")
    arguments.check_files([("-o", out)], [("--weights", weights), ("--recipe", args.recipe)])
    with working(f"exporting {out}") as show:
        network = build_network(target, weights, args.seed)
        damaged = nan_weights(network)
        agreement = export(
            network,
            target,
            out,
            args.opset,
            batch=args.batchsize,
            images=images,
            tolerance=args.tolerance,
            report_step=lambda step: show(f"{step} {out}"),
        )
    if damaged:
        names = listed(damaged, MAX_LISTED_KEYS)
        warn(f"{weights}: has NaN in {names}; scores of {out} may be NaN")
    batch = args.batchsize or "?"
    say(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, opset {args.opset}, "
        f"{target.input}:{batch},3,{target.height},{target.width} -> {target.output}"
    )
    if agreement is not None:
        say(f"PyTorch and ONNX Runtime agree on {agreement}")
    return 0


def _images(
    args: argparse.Namespace, target: ExportTarget, recipe: Recipe | None
) -> NDArray[np.float32]:
    if args.recipe is not None:
        recipe = load_recipe(args.recipe, args.test_size)
    if recipe is None:
        raise ModelError("--check of a model of your own needs its --recipe")
    if recipe.input_size != (target.height, target.width):
        height, width = recipe.input_size
        raise ModelError(
            f"recipe {recipe.name} makes {height}x{width} images, the model takes "
            f"{target.height}x{target.width}"
        )
    return trial.images(recipe, args.images, args.count)


def _target(
    args: argparse.Namespace, known: KnownModel | None, recipe: Recipe | None
) -> ExportTarget:
    if args.size is not None and args.factory is None:
        raise ModelError("--size belongs to --factory; a named model has its own size")
    if known is not None:
        return ExportTarget.from_known_model(known, recipe)
    if args.size is None:
        raise ModelError("--factory needs --size, the model's input height and width")
    # A console script's sys.path begins with the script's folder, not the working directory.
    sys.path.insert(0, str(Path.cwd()))
    return ExportTarget(args.factory, args.size, args.size, args.input_name, args.output_name)
