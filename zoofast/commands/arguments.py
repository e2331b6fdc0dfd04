"""Arguments that several subcommands take, and the types that argparse checks them with."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from zoofast.preprocess.recipe import DTYPES, LAYOUTS

MAX_THREADS = 1024
SOURCE = "folder of images or of class folders, .tar, or text file of paths"


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def thread_count(text: str) -> int:
    threads = positive(text)
    if threads > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text}: at most {MAX_THREADS}")
    return threads


def file_to_write(text: str) -> str:
    """Checked before the work, since a result that cannot be written is of no use after it."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; name a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"{text}: the folder {path.parent} does not exist: mkdir -p {path.parent}"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text}: the folder {path.parent} cannot be written to")
    return text


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def shard(text: str) -> tuple[int, int]:
    """I/N, from 1/N to N/N."""
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form I/N, like 1/4")
    i, n = int(parts[0]), int(parts[1])
    if not 1 <= i <= n:
        raise argparse.ArgumentTypeError(f"{text}: the shards of {n} are 1/{n} to {n}/{n}")
    return i, n


def devices(text: str) -> list[int]:
    """D[,D…], all different."""
    parts = text.split(",")
    numbers = [int(part) for part in parts if part.isdecimal()]
    if len(set(numbers)) != len(parts) or not all(number <= 255 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text} is no list of different numbers from 0 to 255")
    return numbers


def add_file(parser: argparse.ArgumentParser, name: str, metavar: str, what: str) -> None:
    """A file that is to be written."""
    parser.add_argument(name, type=file_to_write, metavar=metavar, help=what)


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help=SOURCE)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", required=True, metavar="NAME|FILE.toml", help="how the model wants its images"
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=thread_count,
        metavar="N",
        help="default: all CPUs that this process may use",
    )


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Which of the source's images; see zoofast.preprocess.folder.choose."""
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="only every N-th image, from the I-th",
    )


def add_tensors(parser: argparse.ArgumentParser) -> None:
    """What the recipe leaves open of the tensors, and what to do at an image that gives none."""
    parser.add_argument("--dtype", choices=DTYPES, help="default: the recipe's")
    parser.add_argument("--layout", choices=LAYOUTS, help="default: the recipe's")
    parser.add_argument(
        "--on-error",
        choices=("skip", "stop"),
        default="skip",
        help="at an image that cannot be decoded: go on and list it, or stop (default: skip)",
    )
