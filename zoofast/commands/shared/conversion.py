"""What the commands from weights to .om share: arguments, and ATC's output."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from zoofast.commands.shared import arguments
from zoofast.conversion import models
from zoofast.conversion.models import KnownModel, sources
from zoofast.errors import ModelError
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe


def add_model(parser: argparse.ArgumentParser, further: str = "") -> None:
    """The model, --weights and --test-size. further: which other names the command takes."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"{', '.join(models.names())}; timm:NAME, a config.json of timm, "
        f"torchvision:WEIGHTS or hf:FOLDER{further}",
    )
    arguments.add_test_size(parser)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a .pth, .bin or .safetensors file, or 'random' for a trial (required, unless "
        "hf:FOLDER holds weights)",
    )


def named_model(args: argparse.Namespace) -> tuple[KnownModel, Recipe]:
    """The model of the arguments that add_model adds, and its recipe. Raises ZoofastError."""
    # As in --recipe, the .json file of a model card needs no prefix.
    bare = args.model.endswith(".json") and not sources.is_source(args.model)
    name = f"timm:{args.model}" if bare else args.model
    if not sources.is_source(name):
        known = models.load(name)
        return known, load_recipe(known.recipe, args.test_size)
    recipe = load_recipe(name, args.test_size)
    size = recipe.input_size[0] if args.test_size else None
    return sources.source_model(name, recipe, size), recipe


def weights_file(text: str | None, known: KnownModel | None) -> Path | None:
    """The file of --weights, or the folder of Hugging Face that holds them; None for random
    weights.

    known: the model, which tells where its guide gets the weights. Raises ModelError when no
    weights are given, or the file does not exist.
    """
    if text == "random":
        return None
    path = Path(text) if text else None
    if path is not None and path.is_file():
        return path
    own = sources.own_weights(known.recipe) if path is None and known else None
    if own is not None:
        return own
    problem = "no weights are given" if path is None else f"{path}: no such file"
    source = f"; the guide gets {known.weights} from {known.url}" if known and known.url else ""
    raise ModelError(f"{problem}{source}; --weights random tries without")


def add_batch_sizes(parser: argparse.ArgumentParser) -> None:
    """The batch sizes for each of which there is an .om."""
    parser.add_argument(
        "--batchsize",
        type=arguments.batch_sizes,
        default=[1],
        metavar="N,N,…",
        help="batch sizes (default: 1)",
    )


def add_soc_and_options(parser: argparse.ArgumentParser) -> None:
    """The arguments that go to ATC."""
    parser.add_argument(
        "--soc",
        default="auto",
        metavar="NAME",
        help="name of the chip, such as 310P3; auto asks npu-smi (default: auto)",
    )
    parser.add_argument(
        "--option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="add an option of ATC, or replace its value, e.g. op_select_implmode=high_precision",
    )


def _option(text: str) -> tuple[str, str]:
    """`name=value` -> (name, value), for argparse."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=value")
    return name, value


def print_at_once(text: str) -> None:
    """Prints a piece of ATC's output, which may end within a line."""
    sys.stdout.write(text)
    sys.stdout.flush()
