"""Arguments that several commands take, and the types that argparse checks all arguments with.

Every number on the command line has one of these types, so that a bad number is one line and exit
code 2 in every command. A command that writes a file calls `check_files` before its work. Only
`simplify`, `optimize` and `recipe save` do not: their output is their input in another form.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from zoofast.base.checks import ON_ERROR
from zoofast.base.files import MAX_FILE_BYTES, is_device_or_pipe, part_path
from zoofast.base.rows import names_path
from zoofast.base.text import counted, quoted
from zoofast.base.urls import is_url
from zoofast.commands.shared.console import STDOUT, warn
from zoofast.errors import OutputError
from zoofast.preprocess.cache import PixelCache
from zoofast.preprocess.recipe import DTYPES, LAYOUTS

MAX_COUNT = 1_000_000_000
MAX_THREADS = 1024
MAX_BATCH_SIZE = 65_536
MAX_DEVICE = 255
SOURCE = (
    "images: a folder, .tar (also .gz, .bz2, .xz, .zst), .parquet, several of these as "
    "'shard-{00..63}.tar' or 'shard-*.tar', a URL of these, a CIFAR pickle, or a text file of paths"
)
RECIPE = (
    "a name, a .toml file, timm:NAME, torchvision:WEIGHTS, hf:FOLDER, or package.module:function"
)
SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def whole_number(lowest: int, highest: int = MAX_COUNT) -> Callable[[str], int]:
    """The type of a whole number from `lowest` to `highest`."""

    def parse(text: str) -> int:
        # int() takes time that grows with the square of the digits, and refuses too many
        digits = text.lstrip("+-").lstrip("0")
        value = int(text) if re.fullmatch(r"[+-]?[0-9]+", text) and len(digits) < 20 else None
        if value is None or not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(
                f"{quoted(text)} is not a whole number from {lowest} to {highest}"
            )
        return value

    return parse


def real_number(lowest: float, highest: float) -> Callable[[str], float]:
    """The type of a number from `lowest` to `highest`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(
                f"{quoted(text)} is not a number from {lowest:g} to {highest:g}"
            )
        return value

    return parse


positive = whole_number(1)
count = whole_number(0)  # 0 too
integer = whole_number(-MAX_COUNT)
thread_count = whole_number(1, MAX_THREADS)
batch_size = whole_number(1, MAX_BATCH_SIZE)
device = whole_number(0, MAX_DEVICE)
seconds = real_number(0.001, 1e6)
rate = real_number(0.001, 1e9)  # images a second


def several(each: Callable[[str], int]) -> Callable[[str], list[int]]:
    """The type of different numbers with commas between them, such as 1,4,8."""

    def parse(text: str) -> list[int]:
        numbers = [each(part) for part in text.split(",")]
        if len(set(numbers)) < len(numbers):
            raise argparse.ArgumentTypeError(f"{quoted(text)} names a number twice")
        return numbers

    return parse


devices = several(device)
batch_sizes = several(batch_size)


def size(text: str) -> int:
    """Bytes: a whole number, or with K, M, G or T, which are powers of 1024; 256M is 2^28."""
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    value = int(match[1]) * SIZE_UNITS[match[2].upper()] if match else 0
    if not 1 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a size from 1 byte, like 256M")
    return value


def shard(text: str) -> tuple[int, int]:
    """I/N, from 1/N to N/N."""
    first, slash, second = text.partition("/")
    if not slash:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not of the form I/N, like 1/4")
    i, n = count(first), positive(second)
    if not 1 <= i <= n:
        raise argparse.ArgumentTypeError(f"{text}: the shards of {n} are 1/{n} to {n}/{n}")
    return i, n


def file_to_write(text: str) -> str:
    """Checked before the work, since a result that cannot be written is of no use after it."""
    if not text:
        raise argparse.ArgumentTypeError("the name of the file is empty")
    folder = Path(text).parent
    if is_device_or_pipe(text):
        return text
    if os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is a folder; name a file")
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(
            f"{text}: the folder {folder} does not exist: mkdir -p {folder}"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text}: the folder {folder} cannot be written to")
    nbytes, limit = len(os.fsencode(part_path(Path(text)).name)), os.pathconf(folder, "PC_NAME_MAX")
    if 0 < limit < nbytes:  # -1: the file system has no limit
        too_many = counted(nbytes - limit, "byte")
        raise argparse.ArgumentTypeError(f"{text}: the name is {too_many} too long")
    return text


def regular_file(text: str) -> str:
    """A file to write, and no device or pipe: for what is not written by `atomic_output`."""
    if is_device_or_pipe(text):
        raise argparse.ArgumentTypeError(f"{text} is a device or a pipe; name a file")
    return file_to_write(text)


def logits_file(text: str) -> str:
    """The file of zoofast.base.rows.NamedRows, which has a second file beside it."""
    regular_file(str(names_path(Path(text))))
    return regular_file(text)


def result_file(text: str) -> str:
    """A file to write, or "-" for standard output; see console.write_result."""
    return STDOUT if text == STDOUT else file_to_write(text)


# The name of an argument and its file, if it has one.
NamedFile = tuple[str, str | Path | None]


@dataclass(frozen=True)
class ReadFolder:
    """The files at any depth of a folder that are read: those for whose path `is_read` is true.

    name: of the argument. There is no such file if `folder` is None, or no folder.
    """

    name: str
    folder: str | Path | None
    is_read: Callable[[str], bool]

    def has(self, file: str) -> bool:
        if self.folder is None or not self.is_read(file):
            return False
        return any(
            path(file).startswith(os.path.join(path(self.folder), ""))
            for path in (os.path.abspath, os.path.realpath)
        )


def check_files(written: Iterable[NamedFile], read: Iterable[NamedFile | ReadFolder] = ()) -> None:
    """Raises OutputError where a file that the command writes is one that it reads, or one that it
    writes for another argument: the first would be lost.

    Links are followed. A folder in a pair of `read` counts for nothing: the results of a command
    may lie in a folder that it reads, and may be replaced there. Nothing is lost by writing to a
    device, a pipe or standard output.
    """
    outputs: dict[str, NamedFile] = {}
    for name, file in written:
        if file is None or file is STDOUT or is_device_or_pipe(file):
            continue
        other, _ = outputs.setdefault(os.path.realpath(file), (name, file))
        if other != name:
            raise OutputError(f"{file}: is the file of {other} and of {name}; name two files")
    if not any(map(os.path.isfile, outputs)):
        return
    for each in read:
        for path, (name, output) in outputs.items():
            if not os.path.isfile(path):
                continue
            if isinstance(each, ReadFolder):
                is_same, of = each.has(str(output)), f"a file that {each.name} has"
            else:
                is_same = each[1] is not None and os.path.realpath(each[1]) == path
                of = f"the file of {each[0]}"
            if is_same:
                raise OutputError(f"{output}: {name} would replace {of}; name another file")


def source_files(name: str, where: str | None) -> Iterator[NamedFile | ReadFolder]:
    """The files that the source `where` names or holds, for check_files. Raises SourceError."""
    from zoofast.preprocess.sources.patterns import expand
    from zoofast.preprocess.sources.source import is_image

    if where is not None and not is_url(where.removeprefix("file://")):
        path = where.removeprefix("file://")
        for each in expand(path) or [path]:
            yield name, each
            yield ReadFolder(name, each, is_image)


def logits_files(logits: str | None) -> list[NamedFile]:
    """What --save-logits writes, for check_files."""
    if logits is None:
        return []
    return [("--save-logits", logits), ("the names of --save-logits", names_path(Path(logits)))]


def add_file(parser: argparse._ActionsContainer, name: str, metavar: str, what: str) -> None:
    """A file that is to be written by `atomic_output`."""
    parser.add_argument(name, type=file_to_write, metavar=metavar, help=what)


def add_logits(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--save-logits", type=logits_file, metavar="FILE.npy", help=what)


def add_result(parser: argparse.ArgumentParser, *names: str, metavar: str, text: str) -> None:
    """A file for a result that is written at once, by console.write_result."""
    help = f"{text}; - is standard output"
    parser.add_argument(*names, type=result_file, metavar=metavar, help=help)


def add_json_instead(
    parser: argparse.ArgumentParser, what: str, file: Callable[[str], str] = result_file
) -> None:
    """For a command that prints a table and nothing else: JSON replaces the table."""
    parser.add_argument(
        "--json",
        type=file,
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help=f"write {what} as JSON; without FILE, or with -, to standard output in place of text",
    )


def add_json_and_report(parser: argparse.ArgumentParser) -> None:
    add_result(parser, "--json", metavar="FILE", text="write all results as JSON")
    add_result(parser, "--report", metavar="FILE.html", text="write a page of charts and tables")


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help=SOURCE)


def add_recipe(parser: argparse.ArgumentParser, optional: str = "") -> None:
    """--recipe and --test-size, for recipe_source.load. optional: what a recipe, which is not
    required, is for."""
    parser.add_argument(
        "--recipe",
        required=not optional,
        metavar="NAME|FILE.toml|SOURCE:NAME",
        help=f"{optional or 'how the model wants its images'}: {RECIPE}",
    )
    add_test_size(parser)


def add_recipe_name(parser: argparse.ArgumentParser) -> None:
    """The recipe as the command's first argument, and --test-size."""
    parser.add_argument("recipe", metavar="RECIPE", help=RECIPE)
    add_test_size(parser)


def add_test_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--test-size",
        action="store_true",
        help="use the larger test size that some models of timm have",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=thread_count,
        metavar="N",
        help="number of threads (default: all CPUs that this process may use)",
    )


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Which of the source's images; see zoofast.preprocess.folder.choose."""
    parser.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help="only the first N images, of the shard if there is one",
    )
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="only every N-th image, beginning with the I-th",
    )


def add_ray(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="share the work with the nodes of a Ray cluster: HOST:6379, ray://HOST:10001, local "
        "(starts Ray here), or no ADDRESS (the cluster that this machine is a node of)",
    )


def add_max_file_size(parser: argparse.ArgumentParser) -> None:
    """The size limit of an image file; one above it fails alone."""
    parser.add_argument(
        "--max-file-size",
        type=size,
        default=MAX_FILE_BYTES,
        metavar="BYTES",
        help="an image file that is larger is a failure; with K, M, G or T in powers of 1024 "
        "(default: 256,000,000)",
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Where images' pixels are kept; see pixel_cache."""
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="keep the images' pixels in DIR: later runs with the same resize and crop do not "
        "decode them again",
    )
    parser.add_argument(
        "--cache-size",
        type=size,
        metavar="BYTES",
        help="limit of the size of all pixels in DIR, with K, M, G or T in powers of 1024; the "
        "pixels that were not used for the longest time are removed (default: no limit)",
    )


def pixel_cache(args: argparse.Namespace) -> PixelCache | None:
    """What the arguments of add_cache ask for."""
    if args.cache is None:
        if args.cache_size is not None:
            raise OutputError("--cache-size is of no use without --cache DIR")
        return None
    return PixelCache(args.cache, args.cache_size, warn)


def add_output_index(parser: argparse.ArgumentParser, default: int | None, text: str) -> None:
    """Which output of the model. text: the default, in words."""
    parser.add_argument(
        "--output-index",
        type=count,
        default=default,
        metavar="N",
        help=f"number of the model's output, from 0 (default: {text})",
    )


def add_tensors(parser: argparse.ArgumentParser) -> None:
    """What the recipe leaves open of the tensors, and what to do at an image that gives none."""
    parser.add_argument("--dtype", choices=DTYPES, help="data type (default: the recipe's)")
    parser.add_argument(
        "--layout", choices=LAYOUTS, help="order of the axes (default: the recipe's)"
    )
    parser.add_argument(
        "--on-error",
        choices=ON_ERROR,
        default="skip",
        help="what to do at an image that cannot be decoded: list it and go on, or stop (default: "
        "skip)",
    )
