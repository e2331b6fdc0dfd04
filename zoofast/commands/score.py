"""`zoofast score`: a folder of results and the labels -> accuracy."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING

from zoofast.base.cpus import usable_cpus
from zoofast.base.extras import needs
from zoofast.commands.shared import arguments
from zoofast.commands.shared.console import Meter, progress, say, write_json, write_result
from zoofast.commands.shared.scoring import (
    add_label_arguments,
    add_read_arguments,
    add_score_arguments,
    label_files,
    print_score,
    read_labels,
    result_files,
    score_files,
    score_options,
    write_score,
)
from zoofast.errors import LabelError

if TYPE_CHECKING:
    from zoofast.scoring.labels import Labels
    from zoofast.scoring.score import Score

DESCRIPTION = """\
RESULTS is a folder as ais_bench writes it (NAME_0.txt, .bin or .npy). Results and labels are
joined by name. Equal scores go to the lower class index, NaN comes last."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{parser.description}. {DESCRIPTION}"
    parser.add_argument("results", metavar="RESULTS", help="folder of result files")
    add_label_arguments(parser)
    add_read_arguments(parser)
    parser.add_argument(
        "--format",
        choices=["txt", "bin", "npy"],
        help="read only files of this suffix (default: all three)",
    )
    add_score_arguments(parser)
    arguments.add_recipe(parser, "compare with its published accuracy")
    parser.add_argument(
        "--images", metavar="SRC", help="the images, for the pictures of mistakes in the report"
    )
    arguments.add_threads(parser)
    parser.add_argument("--quiet", action="store_true", help="print only the accuracy")


def run(args: argparse.Namespace) -> int:
    from zoofast.commands.shared import recipe_source

    if args.report:
        with needs("report"):  # before the work
            from zoofast.report import render
            from zoofast.report.score import score_report
    elif args.images:
        raise LabelError("--images is for the report; give --report FILE.html too")
    arguments.check_files(
        score_files(args),
        [
            *result_files("RESULTS", args.results),
            *label_files(args),
            ("--recipe", args.recipe),
            *arguments.source_files("--images", args.images),
        ],
    )
    recipe = recipe_source.load_if_given(args)
    labels = read_labels(args)
    if labels is None:
        raise LabelError("give the labels: LABELS or --labels-from SRC")
    score = _score(args, labels)
    write_score(args, score)
    if args.json:
        write_json(args.json, score.as_dict())
    if args.report:
        page = score_report(score, ["zoofast", *args.argv], args.results, recipe, args.images)
        write_result(args.report, render(page))
    published = recipe.accuracy if recipe else None
    code = print_score(score, args.allow_missing, args.quiet, args.confused, published)
    if recipe and not published and not args.quiet:
        say(f"the recipe {recipe.name} has no published accuracy to compare with")
    return code


def _score(args: argparse.Namespace, labels: Labels) -> Score:
    from zoofast.scoring.results import ReadOptions
    from zoofast.scoring.score import score_folder

    reading = ReadOptions(
        args.output_index, args.format, args.bin_dtype, args.threads or usable_cpus()
    )
    with ExitStack() as stack:
        meters: list[Meter] = []  # one, as soon as the number of files is known

        def advance(done: int, total: int) -> None:
            if not meters:
                meters.append(stack.enter_context(progress("score", total, args.quiet)))
            meters[0].advance(done - meters[0].done)

        return score_folder(args.results, labels, score_options(args), reading, advance)
