"""What `score`, `eval` and `compare` share: their arguments, and the output of a score."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoofast.base.rows import names_path
from zoofast.base.text import counted, listed
from zoofast.commands.shared import arguments
from zoofast.commands.shared.console import Table, explain, say, warn, write_result
from zoofast.errors import LabelError
from zoofast.scoring.formats import BIN_DTYPES, SCORES

if TYPE_CHECKING:
    from zoofast.preprocess.sources import Source
    from zoofast.scoring.labels import Labels
    from zoofast.scoring.score import Score, ScoreOptions

MAX_TOP_K = 1000
OF_SOURCE = "source"  # --labels-from: the command's own source
NAMES_SHOWN = 5  # of each kind of problem; --json has all


def add_label_arguments(
    parser: argparse.ArgumentParser, with_source: bool = False, as_option: bool = False
) -> None:
    """The ground truth, as `read_labels` reads it. with_source: the command has a source.
    as_option: the labels come after --labels."""
    about = "val_label.txt, val_map.txt, HiAI JSON folder, ILSVRC devkit, or class folders"
    if as_option:
        parser.add_argument("--labels", metavar="LABELS", help=about)
    else:
        parser.add_argument("labels", metavar="LABELS", nargs="?", help=about)
    parser.add_argument(
        "--labels-from",
        metavar="SRC",
        help="source with labels: class folders, tars of WebDataset, .parquet, or a CIFAR pickle"
        + (f'; "{OF_SOURCE}" is the source of the images' if with_source else ""),
    )
    parser.add_argument(
        "--synsets",
        metavar="FILE",
        help="names of the classes: meta.mat, or a text with lines SYNSET [ILSVRC_ID] [WORDS]",
    )
    parser.add_argument(
        "--label-offset",
        type=arguments.integer,
        metavar="N",
        help="model class = label + N (default: 1 for 1001 classes, else 0)",
    )


def add_read_arguments(parser: argparse.ArgumentParser) -> None:
    """Which result files are read, and how."""
    arguments.add_output_index(parser, None, "the lowest that has files")
    parser.add_argument(
        "--bin-dtype",
        choices=BIN_DTYPES,
        help="data type of .bin files (default: what zoofast infer recorded, else float32)",
    )


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """How predictions are scored, and where the score goes."""
    arguments.add_result(
        parser, "-o", "--output", metavar="FILE", text="result.json, as the guides write it"
    )
    add_top_k(parser)
    add_score_outputs(parser)
    arguments.add_result(
        parser, "--report", metavar="FILE.html", text="write a page of charts and tables"
    )


def add_score_outputs(parser: argparse.ArgumentParser) -> None:
    """How a score is shown, and where its tables go."""
    parser.add_argument(
        "--scores",
        default="auto",
        choices=SCORES,
        help="what the outputs are, for the calibration error (default: detected from the values)",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="exit code 0 even if some images could not be scored",
    )
    arguments.add_result(parser, "--per-class", metavar="CSV", text="write accuracy by class")
    parser.add_argument(
        "--confused",
        type=arguments.count,
        default=5,
        metavar="N",
        help="number of confused pairs to show (default: 5)",
    )
    arguments.add_result(parser, "--json", metavar="FILE", text="write all results as JSON")


def add_top_k(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--top-k",
        type=arguments.whole_number(1, MAX_TOP_K),
        default=5,
        metavar="K",
        help="number of accuracies, top-1 to top-K (default: %(default)s)",
    )


def read_labels(args: argparse.Namespace, source: Source | None = None) -> Labels | None:
    """The labels that the arguments name; None when they name none. source: the command's, which
    `--labels-from source` means. Raises LabelError; SourceError for --labels-from."""
    from zoofast.preprocess.sources import open_source
    from zoofast.scoring.labels import labels_from_folders, labels_from_source, load_labels

    if args.labels is not None and args.labels_from is not None:
        raise LabelError("give the labels once: LABELS or --labels-from SRC")
    if args.labels_from is None:
        return None if args.labels is None else load_labels(args.labels, args.synsets)
    own = source if args.labels_from == OF_SOURCE else None
    where = args.labels_from if own is None else own.where
    if os.path.isdir(where):
        return labels_from_folders(where, args.synsets)
    if own is not None:
        return labels_from_source(own, args.synsets)
    with open_source(where) as other:
        return labels_from_source(other, args.synsets)


def label_files(
    args: argparse.Namespace, name: str = "LABELS"
) -> list[arguments.NamedFile | arguments.ReadFolder]:
    """What `read_labels` reads, for arguments.check_files. name: of the argument of the labels."""
    folders = [
        arguments.ReadFolder(each, folder, lambda file: file.endswith((".json", ".mat", ".txt")))
        for each, folder in ((name, args.labels), ("--synsets", args.synsets))
    ]
    return [
        *folders,
        (name, args.labels),
        ("--synsets", args.synsets),
        *arguments.source_files("--labels-from", args.labels_from),
    ]


def result_files(name: str, results: str) -> list[arguments.NamedFile | arguments.ReadFolder]:
    """What is read of `results`, the argument `name`: a result folder, a .npy file of logits, or a
    JSON file. For arguments.check_files."""
    from zoofast.inference.record import record_path
    from zoofast.scoring.listing import is_result

    return [
        (name, results),
        (f"the names of {name}", names_path(Path(results)) if results.endswith(".npy") else None),
        (f"the record of {name}", record_path(Path(results))),
        arguments.ReadFolder(name, results, is_result),
    ]


def score_files(args: argparse.Namespace) -> list[arguments.NamedFile]:
    """What `write_score` and the report of a score write, for arguments.check_files."""
    return [
        ("-o", args.output),
        ("--json", args.json),
        ("--report", args.report),
        ("--per-class", args.per_class),
    ]


def score_options(args: argparse.Namespace) -> ScoreOptions:
    from zoofast.scoring.score import ScoreOptions

    return ScoreOptions(args.top_k, args.label_offset, args.scores)


def write_score(args: argparse.Namespace, score: Score) -> None:
    """Writes -o and --per-class."""
    if args.output:
        write_result(args.output, score.tally.result_json())
    if args.per_class:
        write_result(args.per_class, score.classes_csv())


def print_problems(problems: Sequence[tuple[str, list[str]]], limit: int = NAMES_SHOWN) -> None:
    """A line for each kind of problem, with the first names."""
    for what, names in problems:
        warn(f"{what}: {len(names)}: {listed(names, limit)}")


def print_score(
    score: Score,
    allow_missing: bool,
    quiet: bool = False,
    confused: int = 5,
    published: dict[str, float] | None = None,
) -> int:
    """Prints a score and its problems; returns the exit code. published: percent by "top1" …, which
    is compared if all images of ImageNet are scored."""
    from zoofast.scoring.score import ALL_OF_IMAGENET
    from zoofast.scoring.tally import ECE_BINS

    tally, problems = score.tally, score.problems
    if quiet:
        accuracy = tally.accuracy()
        places = sorted({1, tally.k})
        say(", ".join(f"top-{place} {100 * accuracy[place - 1]:.2f} %" for place in places))
    else:
        _accuracy_table(score, published or {}).print()
        ece = tally.ece()
        if ece is not None:
            say(f"calibration error (ECE, {ECE_BINS} bins): {100 * ece:.2f} %")
        if tally.confused(confused):
            _confused_table(score, confused).print()
        if published and tally.images != ALL_OF_IMAGENET:
            named = [
                f"{name.replace('top', 'top-')} {value} %" for name, value in published.items()
            ]
            explain(
                f"not compared with the published accuracy ({', '.join(named)}): the published "
                f"accuracy is of {ALL_OF_IMAGENET:,} images, this accuracy of {tally.images:,}"
            )
    print_problems(problems.lines())
    for index, files in score.other_outputs.items():
        warn(
            f"output {score.output_index} is scored; {counted(files, 'file')} of output {index} "
            "are not (--output-index)"
        )
    say(f"scored {tally.images} of {score.samples}")
    return 1 if problems.dropped() and not allow_missing else 0


def _accuracy_table(score: Score, published: dict[str, float]) -> Table:
    from zoofast.scoring.score import ALL_OF_IMAGENET

    tally = score.tally
    compare = bool(published) and tally.images == ALL_OF_IMAGENET
    title = f"{counted(tally.images, 'image')}, {counted(tally.classes, 'class', 'classes')}"
    headings = ["", "accuracy", "hits", "ties", *(["published", "difference"] if compare else [])]
    table = Table(*headings, title=title)
    for place, accuracy in enumerate(tally.accuracy(), 1):
        row = [
            f"top-{place}",
            f"{100 * accuracy:.2f} %",
            str(int(tally.hits[place - 1])),
            str(int(tally.ties[place - 1])),
        ]
        if compare:
            percent = published.get(f"top{place}")
            difference = "" if percent is None else f"{100 * accuracy - percent:+.2f}"
            row += ["" if percent is None else f"{percent} %", difference]
        table.add(*row)
    return table


def _confused_table(score: Score, limit: int) -> Table:
    notes = [f"classes of the model: label {score.label_offset:+d}"] if score.label_offset else []
    if score.class_names.of_imagenet:
        notes.append("names of ImageNet, unless --synsets names others")
    title = f"most confused ({'; '.join(notes)})" if notes else "most confused"
    table = Table("class", "mistaken for", "images", title=title, words=2)
    for true, predicted, n in score.tally.confused(limit):
        classes = [score.describe_class(index) for index in (true, predicted)]
        table.add(*classes, str(n))
    return table
