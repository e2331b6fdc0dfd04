"""`zoofast compare`: two results, and what changed between them."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from zoofast.base.extras import needs
from zoofast.base.files import write_atomic
from zoofast.commands import arguments
from zoofast.commands.score import add_label_arguments, labels_of
from zoofast.errors import ResultError

if TYPE_CHECKING:
    from zoofast.scoring.compare import Comparison

SHOWN = 10  # of each list on the screen; --json has all

DESCRIPTION = """\
A and B are result folders, .npy files of `eval --save-logits`, or JSON files of results, which
hold accuracies only. Samples are joined by name; LABELS give the accuracies."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{parser.description}. {DESCRIPTION}"
    parser.add_argument("a", metavar="A", help="the reference")
    parser.add_argument("b", metavar="B", help="what is compared with it")
    add_label_arguments(parser)
    arguments.add_output_index(parser, None, "the lowest that has files")
    parser.add_argument(
        "--bin-dtype",
        default="float32",
        choices=["float32", "float16", "float64", "int8", "uint8", "int32"],
        help="element type of .bin files (default: %(default)s)",
    )
    parser.add_argument(
        "--top-k", type=arguments.positive, default=5, metavar="K", help="default: %(default)s"
    )
    parser.add_argument(
        "--max-accuracy-drop",
        type=arguments.real_number(-100, 100),
        metavar="POINTS",
        help="fail when an accuracy of B is more percentage points below A's",
    )
    parser.add_argument(
        "--max-flips",
        type=arguments.count,
        metavar="N",
        help="fail when more images change their class",
    )
    parser.add_argument(
        "--min-cosine",
        type=arguments.real_number(-1, 1),
        metavar="C",
        help="fail when an image's logits are less alike",
    )
    parser.add_argument(
        "--max-difference",
        type=arguments.real_number(0, 1e12),
        metavar="D",
        help="fail when a logit differs by more",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="exit 0 although not all could be compared"
    )
    arguments.add_file(parser, "--json", "FILE", "write everything")
    arguments.add_file(parser, "--report", "FILE.html", "write a page to look at")
    parser.add_argument("--quiet", action="store_true", help="only what fails")


def run(args: argparse.Namespace) -> int:
    if args.report:
        with needs("report"):  # before the work
            from zoofast.report import write_report
            from zoofast.report.compare import compare_report
    found = _compare(args)
    failed = list(_failures(args, found))
    if args.json:
        write_atomic(args.json, (json.dumps(found.as_dict(), indent=1) + "\n").encode())
    if args.report:
        write_report(args.report, compare_report(found, failed, ["zoofast", *args.argv]))
    if not args.quiet:
        _show(found)
    for what, names in found.missing():
        shown = ", ".join(names[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        print(f"zoofast: {what}: {len(names)}: {shown}{more}", file=sys.stderr)
    for line in failed:
        print(f"zoofast: failed: {line}", file=sys.stderr)
    total = found.images + len(found.only_a) + len(found.only_b) + len(found.broken)
    print(f"compared {found.images} of {total}")
    return 1 if failed or (found.missing() and not args.allow_missing) else 0


def _compare(args: argparse.Namespace) -> Comparison:
    from zoofast.commands.console import progress
    from zoofast.scoring.compare import (
        Accuracies,
        accuracies_of,
        compare_accuracies,
        compare_answers,
        open_answers,
    )

    labels = labels_of(args)
    a, b = (open_answers(where, args.output_index, args.bin_dtype) for where in (args.a, args.b))
    if isinstance(a, Accuracies) or isinstance(b, Accuracies):
        logits_needed = {
            "--max-flips": args.max_flips,
            "--min-cosine": args.min_cosine,
            "--max-difference": args.max_difference,
        }
        for option, value in logits_needed.items():
            if value is not None:
                raise ResultError(f"{option} needs the logits of both; a JSON has accuracies only")
        sides = []
        for side in (a, b):
            if not isinstance(side, Accuracies):
                if labels is None:
                    raise ResultError(f"{side.where}: give LABELS, to compare its accuracy")
                side = accuracies_of(side, labels, top_k=args.top_k, label_offset=args.label_offset)
            sides.append(side)
        return compare_accuracies(*sides)
    if args.max_accuracy_drop is not None and labels is None:
        raise ResultError("--max-accuracy-drop needs LABELS")
    with progress("compare", min(len(a.names), len(b.names)), args.quiet) as meter:
        return compare_answers(
            a,
            b,
            labels,
            top_k=args.top_k,
            label_offset=args.label_offset,
            progress=meter.advance,
        )


def _failures(args: argparse.Namespace, found: Comparison) -> list[str]:
    """What is beyond the thresholds, in words."""
    failed = []
    if args.max_accuracy_drop is not None and found.drop() > args.max_accuracy_drop:
        failed.append(
            f"the accuracy drops by {found.drop():.2f} points; {args.max_accuracy_drop:g} are "
            "allowed"
        )
    if args.max_flips is not None and len(found.flips) > args.max_flips:
        failed.append(f"{len(found.flips)} images change their class; {args.max_flips} are allowed")
    # not (x >= limit): NaN fails
    if args.min_cosine is not None and not found.least_cosine >= args.min_cosine:
        worst = found.least_alike[0]
        failed.append(
            f"the logits of {worst.name} have cosine {worst.cosine:.6f}; {args.min_cosine:g} is "
            "the least allowed"
        )
    if args.max_difference is not None and not found.largest_difference <= args.max_difference:
        worst = found.farthest[0]
        failed.append(
            f"class {worst.at} of {worst.name} differs by {worst.difference:g}; "
            f"{args.max_difference:g} is allowed"
        )
    return failed


def _show(found: Comparison) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if found.accuracy:
        of_a, of_b = found.scored
        table = Table(title=f"accuracy, {of_a} and {of_b} images", title_justify="left")
        table.add_column("")
        for heading in ("A", "B", "points"):
            table.add_column(heading, justify="right")
        for place, (a, b) in found.accuracy.items():
            row = (f"{100 * a:.2f} %", f"{100 * b:.2f} %", f"{100 * (b - a):+.2f}")
            table.add_row(place.replace("top", "top-"), *row)
        console.print(table)
    if not found.has_logits:
        return
    same = found.images - len(found.flips)
    console.print(f"same first class: {same} of {found.images} ({same / found.images:.2%})")
    worst, far = found.least_alike[0], found.farthest[0]
    console.print(
        f"cosine: mean {found.mean_cosine:.8f}, least {worst.cosine:.8f} ({escape(worst.name)})"
    )
    console.print(f"largest difference: {far.difference:g} (class {far.at} of {escape(far.name)})")
    if found.flips:
        table = Table(title="changed their class", title_justify="left")
        for heading in ("image", "A", "B", "truth"):
            table.add_column(heading)
        for flip in found.flips[:SHOWN]:
            truth = "" if flip.truth is None else str(flip.truth)
            table.add_row(escape(flip.name), str(flip.a), str(flip.b), truth)
        console.print(table)
        if len(found.flips) > SHOWN:
            console.print(f"and {len(found.flips) - SHOWN} more; --json has all")
