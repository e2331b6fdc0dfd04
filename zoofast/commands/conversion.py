"""What the commands from weights to .om share: arguments, and ATC's output."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from zoofast.conversion.models import KnownModel
from zoofast.errors import ModelError


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a .pth, .bin or .safetensors file, or 'random' for a trial (required)",
    )


def weights_file(text: str | None, known: KnownModel | None) -> Path | None:
    """The file of --weights; None for random weights.

    known: the model, which tells where its guide gets the weights. Raises ModelError when no
    weights are given, or the file does not exist.
    """
    if text == "random":
        return None
    path = Path(text) if text else None
    if path is not None and path.is_file():
        return path
    problem = "no weights are given" if path is None else f"{path}: no such file"
    source = f"; the guide gets {known.weights} from {known.url}" if known else ""
    raise ModelError(f"{problem}{source}; --weights random tries without")


def add_soc_and_options(parser: argparse.ArgumentParser) -> None:
    """The arguments that go to ATC."""
    parser.add_argument(
        "--soc", default="auto", help="chip, such as 310P3; auto asks npu-smi (default: auto)"
    )
    parser.add_argument(
        "--option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another option of ATC, or another value, e.g. op_select_implmode=high_precision",
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
