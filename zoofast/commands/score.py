"""`zoofast score`: a folder of results and the labels -> accuracy."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from zoofast.base.cpus import usable_cpus
from zoofast.base.extras import needs
from zoofast.base.files import write_atomic
from zoofast.commands import arguments
from zoofast.errors import LabelError

if TYPE_CHECKING:
    from rich.table import Table

    from zoofast.scoring.labels import Labels
    from zoofast.scoring.score import Score

NAMES_SHOWN = 5  # of each kind of problem; --json has all

DESCRIPTION = """\
RESULTS is a folder as ais_bench writes it (NAME_0.txt, .bin or .npy). Results and labels are
joined by name. Equal scores go to the lower class index, NaN comes last."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{parser.description}. {DESCRIPTION}"
    parser.add_argument("results", metavar="RESULTS", help="folder of result files")
    add_label_arguments(parser)
    arguments.add_output_index(parser, None, "the lowest that has files")
    parser.add_argument(
        "--format", choices=["txt", "bin", "npy"], help="only these files (default: all three)"
    )
    parser.add_argument(
        "--bin-dtype",
        default="float32",
        choices=["float32", "float16", "float64", "int8", "uint8", "int32"],
        help="element type of .bin files (default: %(default)s)",
    )
    add_score_arguments(parser)
    parser.add_argument("--recipe", metavar="NAME", help="compare with its published accuracy")
    parser.add_argument(
        "--images", metavar="SRC", help="the images, for the report to show the surest mistakes"
    )
    arguments.add_threads(parser)
    parser.add_argument("--quiet", action="store_true", help="only the line of the accuracy")


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """The ground truth, as `labels_of` reads it."""
    parser.add_argument(
        "labels",
        metavar="LABELS",
        nargs="?",
        help="val_label.txt, val_map.txt, HiAI JSON folder, ILSVRC devkit, or class folders",
    )
    parser.add_argument("--labels-from", metavar="DIR", help="labels from DIR/SYNSET/IMAGE folders")
    parser.add_argument(
        "--synsets",
        metavar="FILE",
        help="all classes: meta.mat, or lines SYNSET [ILSVRC_ID] [WORDS]",
    )
    parser.add_argument(
        "--label-offset",
        type=arguments.integer,
        metavar="N",
        help="model class = label + N (default: 1 for 1001 classes, else 0)",
    )


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """How a score is made, and where it goes."""
    parser.add_argument(
        "-o",
        "--output",
        type=arguments.file_to_write,
        metavar="FILE",
        help="result.json, as the guides write it",
    )
    parser.add_argument(
        "--top-k", type=arguments.positive, default=5, metavar="K", help="default: %(default)s"
    )
    parser.add_argument(
        "--scores",
        default="auto",
        choices=["auto", "logits", "probabilities"],
        help="what the numbers are, for the calibration error (default: look)",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="exit 0 although not all could be scored"
    )
    arguments.add_file(parser, "--per-class", "CSV", "write accuracy by class")
    parser.add_argument(
        "--confused",
        type=arguments.count,
        default=5,
        metavar="N",
        help="confused pairs to show (default: 5)",
    )
    arguments.add_file(parser, "--json", "FILE", "write everything")
    arguments.add_file(parser, "--report", "FILE.html", "write a page to look at")


def labels_of(args: argparse.Namespace) -> Labels | None:
    """The labels that the arguments name; None when they name none. Raises LabelError."""
    from zoofast.scoring.labels import labels_from_folders, load_labels

    if args.labels is not None and args.labels_from is not None:
        raise LabelError("give the labels once: LABELS or --labels-from DIR")
    if args.labels_from is not None:
        return labels_from_folders(args.labels_from, args.synsets)
    return None if args.labels is None else load_labels(args.labels, args.synsets)


def write_score(args: argparse.Namespace, score: Score) -> None:
    """Writes -o and --per-class."""
    if args.output:
        write_atomic(args.output, score.tally.result_json().encode())
    if args.per_class:
        write_atomic(args.per_class, score.classes_csv().encode())


def run(args: argparse.Namespace) -> int:
    from zoofast.preprocess.recipe_file import load_recipe
    from zoofast.scoring.score import score_folder

    if args.report:
        with needs("report"):  # before the work
            from zoofast.report import write_report
            from zoofast.report.score import score_report
    elif args.images:
        raise LabelError("--images is for the report; give --report FILE.html too")
    recipe = load_recipe(args.recipe) if args.recipe else None
    labels = labels_of(args)
    if labels is None:
        raise LabelError("give the labels: LABELS or --labels-from DIR")
    score = score_folder(
        args.results,
        labels,
        top_k=args.top_k,
        output_index=args.output_index,
        kind=args.format,
        bin_dtype=args.bin_dtype,
        label_offset=args.label_offset,
        scores=args.scores,
        threads=args.threads or usable_cpus(),
        quiet=args.quiet,
    )
    write_score(args, score)
    if args.json:
        write_atomic(args.json, json.dumps(score.to_json(), indent=1).encode())
    if args.report:
        page = score_report(score, ["zoofast", *args.argv], args.results, recipe, args.images)
        write_report(args.report, page)
    published = recipe.accuracy if recipe else None
    return report(score, args.allow_missing, args.quiet, args.confused, published)


def report(
    score: Score,
    allow_missing: bool,
    quiet: bool = False,
    confused: int = 5,
    published: dict[str, float] | None = None,
) -> int:
    """Prints a score and its problems; returns the exit code."""
    from rich.console import Console

    from zoofast.scoring.tally import ECE_BINS

    tally, problems = score.tally, score.problems
    best = ", ".join(
        f"top-{place} {100 * tally.accuracy()[place - 1]:.2f} %" for place in sorted({1, tally.k})
    )
    if quiet:
        print(best)
    else:
        console = Console(highlight=False)
        console.print(_accuracy_table(score, published or {}))
        ece = tally.ece()
        if ece is not None:
            console.print(f"calibration error (ECE, {ECE_BINS} bins): {100 * ece:.2f} %")
        if tally.confused(confused):
            console.print(_confused_table(score, confused))
    for what, names in problems.lines():
        shown = ", ".join(names[:NAMES_SHOWN])
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        print(f"zoofast: {what}: {len(names)}: {shown}{more}", file=sys.stderr)
    for index, files in score.other_outputs.items():
        print(
            f"zoofast: output {score.output_index} is scored; {files} files of output {index} "
            "are left alone (--output-index)",
            file=sys.stderr,
        )
    print(f"scored {tally.images} of {score.samples}")
    return 1 if problems.dropped() and not allow_missing else 0


def _accuracy_table(score: Score, published: dict[str, float]) -> Table:
    from rich.table import Table

    from zoofast.scoring.score import ALL_OF_IMAGENET

    tally = score.tally
    compare = bool(published) and tally.images == ALL_OF_IMAGENET
    table = Table(title=f"{tally.images} images, {tally.classes} classes", title_justify="left")
    table.add_column("")
    for heading in ("accuracy", "hits", "ties"):
        table.add_column(heading, justify="right")
    if compare:
        table.add_column("published", justify="right")
        table.add_column("difference", justify="right")
    for place, accuracy in enumerate(tally.accuracy(), 1):
        row = [
            f"top-{place}",
            f"{100 * accuracy:.2f} %",
            str(int(tally.hits[place - 1])),
            str(int(tally.ties[place - 1])),
        ]
        if compare:
            known = published.get(f"top{place}")
            row += ["", ""] if known is None else [f"{known} %", f"{100 * accuracy - known:+.2f}"]
        table.add_row(*row)
    return table


def _confused_table(score: Score, most: int) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="most confused", title_justify="left")
    for heading in ("class", "taken for"):
        table.add_column(heading)
    table.add_column("images", justify="right")
    for true, predicted, n in score.tally.confused(most):
        names = [f"{index} {score.class_name(index)}".strip() for index in (true, predicted)]
        table.add_row(*map(escape, names), str(n))
    return table
