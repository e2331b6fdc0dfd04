"""`zoofast merge`: the shards of a preparation or of an evaluation become one."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoofast.base.text import counted
from zoofast.commands.shared import arguments, console
from zoofast.commands.shared.scoring import (
    add_label_arguments,
    add_score_outputs,
    label_files,
    print_score,
    read_labels,
    write_score,
)
from zoofast.errors import OutputError
from zoofast.preprocess.manifest import MANIFEST

MAX_SHOWN = 10  # failures on the screen

DESCRIPTION = """\
Folders of `zoofast prep` become the folder OUT. Results of `zoofast eval`, each with its journal
beside it, become the result OUT, which needs the labels. OUT is what one machine would have
written. A shard that is missing or given twice is an error."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{parser.description}. {DESCRIPTION}"
    parser.add_argument(
        "output", metavar="OUT", help="folder of tensors, or result.json as the guides write it"
    )
    parser.add_argument(
        "shards",
        metavar="SHARD",
        nargs="+",
        help="folder of prep --shard, or result or journal of eval --shard",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the tensors of an earlier run in OUT"
    )
    add_label_arguments(parser, as_option=True)
    add_score_outputs(parser)
    arguments.add_logits(parser, "join the logits of the shards and their names")
    parser.add_argument("--quiet", action="store_true", help="print only the accuracy")


def run(args: argparse.Namespace) -> int:
    shards = [Path(shard) for shard in args.shards]
    for shard in shards:
        if not (shard.exists() or Path(f"{shard}.journal").exists()):
            raise OutputError(f"{shard}: no such shard: no folder, and no journal {shard}.journal")
    folders = [shard for shard in shards if shard.is_dir()]
    if len(folders) == len(shards):
        return _merge_folders(args, shards)
    if folders:
        raise OutputError(f"{folders[0]}: is a folder, and the other shards are files")
    return _merge_evaluations(args, shards)


def _merge_folders(args: argparse.Namespace, folders: list[Path]) -> int:
    from zoofast.preprocess.loader import Failure
    from zoofast.preprocess.merge import merge_folders

    arguments.check_files(
        [("the manifest of OUT", Path(args.output, MANIFEST)), ("--json", args.json)],
        [("SHARD", folder / MANIFEST) for folder in folders],
    )
    with console.progress("merge", len(folders), args.quiet) as meter:

        def advance(done: int, total: int) -> None:
            meter.total = total
            meter.advance(done - meter.done)

        manifest = merge_folders(folders, Path(args.output), args.overwrite, advance)
    if args.json:
        console.write_json(args.json, manifest)
    if not args.quiet:
        tensors = counted(manifest["total"] - manifest["failed"], "tensor")
        console.say(f"{tensors} of {counted(len(folders), 'shard')} in {args.output}")
    failures = [Failure(**failure) for failure in manifest["failures"]]
    console.warn_of_failures(failures, MAX_SHOWN, f"{args.output}/{MANIFEST}")
    return 1 if failures else 0


def _merge_evaluations(args: argparse.Namespace, paths: list[Path]) -> int:
    from zoofast.evaluation.merge import merge_evaluations, read_shard
    from zoofast.scoring.score import ScoreOptions

    output = arguments.result_file(args.output)
    labels = read_labels(args)
    if labels is None:
        raise OutputError("give the labels: --labels LABELS or --labels-from SRC")
    shards = [read_shard(path) for path in paths]
    arguments.check_files(
        [
            *arguments.logits_files(args.save_logits),
            ("OUT", output),
            ("--json", args.json),
            ("--per-class", args.per_class),
        ],
        [
            *label_files(args, "--labels"),
            *((f"SHARD {each.path}", file) for each in shards for file in each.files),
        ],
    )
    merged = merge_evaluations(shards, Path(args.save_logits) if args.save_logits else None)
    score = merged.score(labels, ScoreOptions(merged.top_k, args.label_offset, args.scores))
    if score is None and not merged.names:
        console.warn_of_failures(merged.failures, MAX_SHOWN)
        console.say(f"scored 0 of {len(merged.failures)}")
        return 1
    if score is None:
        raise OutputError(f"{labels.source}: no image of the shards has a label")
    code = print_score(score, args.allow_missing, args.quiet, args.confused)
    args.output = output
    write_score(args, score)
    if args.json:
        console.write_json(args.json, score.as_dict())
    return code
