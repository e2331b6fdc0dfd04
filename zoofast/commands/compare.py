"""`zoofast compare`: what differs between two results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zoofast.base.extras import needs
from zoofast.base.text import counted, percent
from zoofast.commands.shared import arguments
from zoofast.commands.shared.console import Table, progress, say, warn, write_json, write_result
from zoofast.commands.shared.scoring import (
    add_label_arguments,
    add_read_arguments,
    add_top_k,
    label_files,
    print_problems,
    read_labels,
    result_files,
)
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
    parser.add_argument("b", metavar="B", help="the result that is compared with A")
    add_label_arguments(parser)
    add_read_arguments(parser)
    add_top_k(parser)
    parser.add_argument(
        "--max-accuracy-drop",
        type=arguments.real_number(-100, 100),
        metavar="POINTS",
        help="fail if an accuracy of B is more than POINTS percentage points below A's",
    )
    parser.add_argument(
        "--max-flips",
        type=arguments.count,
        metavar="N",
        help="fail if the best class of more than N images changed",
    )
    parser.add_argument(
        "--min-cosine",
        type=arguments.real_number(-1, 1),
        metavar="C",
        help="fail if the cosine similarity of an image's logits is below C",
    )
    parser.add_argument(
        "--max-difference",
        type=arguments.real_number(0, 1e12),
        metavar="D",
        help="fail if a logit differs by more than D",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="exit code 0 even if some images could not be compared",
    )
    arguments.add_json_and_report(parser)
    parser.add_argument("--quiet", action="store_true", help="print only what fails")


def run(args: argparse.Namespace) -> int:
    if args.report:
        with needs("report"):  # before the work
            from zoofast.report import render
            from zoofast.report.compare import compare_report
    arguments.check_files(
        [("--json", args.json), ("--report", args.report)],
        [*result_files("A", args.a), *result_files("B", args.b), *label_files(args)],
    )
    comparison = _compare(args)
    failures = _failures(args, comparison)
    if args.json:
        write_json(args.json, comparison.as_dict())
    if args.report:
        page = compare_report(comparison, failures, ["zoofast", *args.argv])
        write_result(args.report, render(page))
    if not args.quiet:
        print_summary(comparison)
    problems = comparison.problems()
    print_problems(problems, SHOWN)
    for line in failures or ():
        warn(f"failed: {line}")
    samples = comparison.images + len(comparison.only_a) + len(comparison.only_b)
    say(f"compared {comparison.images} of {samples + len(comparison.failed)}")
    return 1 if failures or (problems and not args.allow_missing) else 0


def _compare(args: argparse.Namespace) -> Comparison:
    from zoofast.scoring.compare import (
        Accuracies,
        accuracies_of,
        compare_accuracies,
        compare_logits,
        open_results,
    )
    from zoofast.scoring.results import ReadOptions
    from zoofast.scoring.score import ScoreOptions

    labels = read_labels(args)
    reading = ReadOptions(args.output_index, bin_dtype=args.bin_dtype)
    options = ScoreOptions(args.top_k, args.label_offset)
    labelled = labels.by_name if labels else None
    a, b = (open_results(Path(path), reading, labelled) for path in (args.a, args.b))
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
                    raise ResultError(f"{side.source}: give LABELS, to compare its accuracy")
                side = accuracies_of(side, labels, options)
            sides.append(side)
        return compare_accuracies(*sides)
    if args.max_accuracy_drop is not None and labels is None:
        raise ResultError("--max-accuracy-drop needs LABELS")
    with progress("compare", min(len(a.names), len(b.names)), args.quiet) as meter:
        return compare_logits(
            a, b, labels, options, lambda done, total: meter.advance(done - meter.done)
        )


def _failures(args: argparse.Namespace, comparison: Comparison) -> list[str] | None:
    """The thresholds that are exceeded, in words; None where none is given."""
    thresholds = (args.max_accuracy_drop, args.max_flips, args.min_cosine, args.max_difference)
    if all(threshold is None for threshold in thresholds):
        return None
    failures = []
    drop, flips = comparison.accuracy_drop(), len(comparison.flips)
    if args.max_accuracy_drop is not None and drop > args.max_accuracy_drop:
        failures.append(
            f"the accuracy drops by {drop:.2f} points; {args.max_accuracy_drop:g} are allowed"
        )
    if args.max_flips is not None and flips > args.max_flips:
        failures.append(
            f"the class changes in {counted(flips, 'image')}; the limit is {args.max_flips}"
        )
    # not (x >= limit): NaN fails
    if args.min_cosine is not None and not comparison.min_cosine >= args.min_cosine:
        worst = comparison.lowest_cosines[0]
        failures.append(
            f"the logits of {worst.name} have cosine {worst.cosine:.6f}; {args.min_cosine:g} is "
            "the minimum"
        )
    if args.max_difference is not None and not comparison.max_difference <= args.max_difference:
        worst = comparison.largest_differences[0]
        failures.append(
            f"class {worst.class_index} of {worst.name} differs by {worst.difference:g}; "
            f"{args.max_difference:g} is allowed"
        )
    return failures


def print_summary(comparison: Comparison) -> None:
    """Prints accuracies, differences of the logits, and the images whose class changes."""
    if comparison.accuracy:
        _accuracy_table(comparison).print()
    if not comparison.has_logits:
        return
    images, flips = comparison.images, len(comparison.flips)
    say(f"same best class: {images - flips} of {images} ({percent(1 - flips / images, 2)})")
    say(*comparison.nan_lines())
    if comparison.identical:
        say("the logits are identical")
        return
    lowest, largest = comparison.lowest_cosines[0], comparison.largest_differences[0]
    say(f"cosine: mean {comparison.mean_cosine:.8f}, minimum {lowest.cosine:.8f} ({lowest.name})")
    say(
        f"largest difference: {largest.difference:g} (class {largest.class_index} of "
        f"{largest.name})"
    )
    if flips:
        _flips_table(comparison).print()
    if flips > SHOWN:
        say(f"and {flips - SHOWN} more; --json has all")


def _accuracy_table(comparison: Comparison) -> Table:
    of_a, of_b = comparison.scored
    table = Table("", "A", "B", "points", title=f"accuracy, {of_a} and {of_b} images")
    for place, (a, b) in comparison.accuracy.items():
        row = (f"{100 * a:.2f} %", f"{100 * b:.2f} %", f"{100 * (b - a):+.2f}")
        table.add(place.replace("top", "top-"), *row)
    return table


def _flips_table(comparison: Comparison) -> Table:

    offset = comparison.label_offset
    note = f" (classes of the model: label {offset:+d})" if offset else ""
    table = Table("image", "A", "B", "truth", title=f"changed their class{note}", words=4)
    for flip in comparison.flips[:SHOWN]:
        classes = [
            "" if index is None else comparison.class_names.describe(index)
            for index in (flip.a, flip.b, flip.truth)
        ]
        table.add(flip.name, *classes)
    return table
