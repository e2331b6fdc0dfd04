"""`zoofast infer`: ais_bench's work for classifiers, on any backend."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from zoofast.base.checks import ON_ERROR
from zoofast.base.text import listed
from zoofast.commands.shared import arguments
from zoofast.commands.shared.console import INTERRUPTED, progress, say, warn, write_json
from zoofast.commands.shared.inference import (
    add_devices,
    add_model_arguments,
    add_unused_arguments,
    boolean,
    dynamic_of,
    spellings,
)
from zoofast.errors import OutputError
from zoofast.inference.backends import WITHOUT_FILE

if TYPE_CHECKING:
    from zoofast.inference.folder import FolderRun
    from zoofast.inference.job import InferJob

MAX_SHOWN = 5  # failures on the screen; --json has all

DESCRIPTION = """\
The options are ais_bench's. Those that are not listed are accepted with values that change no
result. Without --input, the model runs on zeros or random numbers, and its speed is measured.
Earlier results in the folder are replaced; --resume keeps the results of the same model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{parser.description}. {DESCRIPTION}"
    add_model_arguments(parser)
    parser.add_argument(
        "-i",
        "--input",
        metavar="FOLDER|FILE[,…]",
        help="folder of .bin or .npy files, or files with commas between them; a folder for each "
        "input of the model",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="parent of the result folder (default: no results are written)",
    )
    parser.add_argument(
        *spellings("--output_dirname"),
        metavar="NAME",
        help="result folder within --output (default: the time)",
    )
    parser.add_argument(
        "--outfmt",
        default="BIN",
        choices=["BIN", "NPY", "TXT"],
        help="format of the result files (default: BIN)",
    )
    parser.add_argument(
        "-l",
        "--loop",
        type=arguments.positive,
        default=1,
        metavar="N",
        help="executions per batch (default: 1)",
    )
    parser.add_argument(
        "--batchsize",
        type=arguments.batch_size,
        metavar="N",
        help="images in a batch (default: the model's, or 1)",
    )
    add_devices(parser)
    parser.add_argument(
        "--images-per-file",
        type=arguments.positive,
        metavar="N",
        help="images in each input file (default: found by the size of the first file)",
    )
    parser.add_argument(
        *spellings("--display_all_summary"),
        type=boolean,
        nargs="?",
        const=True,
        default=False,
        metavar="1|0",
        help="also print the times of the copies (default: 0)",
    )
    add_unused_arguments(parser)
    arguments.add_recipe(parser, "check that the model takes the recipe's tensors")
    parser.add_argument(
        "--on-error",
        choices=ON_ERROR,
        default="skip",
        help="what to do at a file of the wrong size: leave it out and exit with 1, or stop "
        "(default: skip)",
    )
    parser.add_argument("--resume", action="store_true", help="keep the results of an earlier run")
    arguments.add_result(parser, "--json", metavar="FILE", text="write the numbers and failures")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _check_inputs_elsewhere(
    files: Sequence[str], further: Mapping[str, Sequence[str]], folder: Path
) -> None:
    """Raises OutputError for results that may take the names of inputs."""
    results = os.path.realpath(folder)
    parents = {os.path.dirname(file) for file in chain(files, *further.values())}
    for parent in sorted(parents):
        above, name = os.path.split(os.path.realpath(parent))
        of_device = above == results and re.fullmatch(r"device\d+", name)
        if of_device or os.path.join(above, name) == results:
            raise OutputError(
                f"{parent}: --input lies in the folder of the results; give another "
                "--output_dirname"
            )


def run(args: argparse.Namespace) -> int:
    from zoofast.inference.inputs import list_groups
    from zoofast.inference.outputs import open_folder

    _check_arguments(args)
    files, further = list_groups(args.input) if args.input else (None, {})
    folder = open_folder(args.output, args.output_dirname) if args.output else None
    if folder is not None and files:
        _check_inputs_elsewhere(files, further, folder)
    job = _job(args, files, further, folder)
    try:
        folder_run = _infer(args, job)
    except KeyboardInterrupt:
        if folder is None or files is None:
            raise
        _print_interrupted(args, folder)
        return INTERRUPTED
    _print_devices(args, folder_run)
    folder_run.write_summaries(sys.argv)
    if args.json:
        write_json(args.json, folder_run.as_dict())
    print_summary(folder_run, None if files is None else len(files))
    for reason in folder_run.lost_devices.values():
        warn(f"{reason}; the other devices computed its files")
    return 1 if folder_run.failures or folder_run.lost_devices else 0


def _check_arguments(args: argparse.Namespace) -> None:
    """Raises OutputError for options that need others, and what `check_files` raises."""
    from zoofast.inference.inputs import is_input_file

    if args.output_dirname and not args.output:
        raise OutputError("--output_dirname needs --output, the folder to make it in")
    if args.resume and not (args.output and args.output_dirname and args.input):
        raise OutputError("--resume needs --input, --output and --output_dirname")
    inputs = args.input.split(",") if args.input else []
    arguments.check_files(
        [("--json", args.json)],
        [
            ("--model", None if args.backend in WITHOUT_FILE else args.model),
            *(("--input", file) for file in inputs),
            *(arguments.ReadFolder("--input", each, is_input_file) for each in inputs),
            ("--recipe", args.recipe),
        ],
    )


def _job(
    args: argparse.Namespace,
    files: list[str] | None,
    further: Mapping[str, tuple[str, ...]],
    folder: Path | None,
) -> InferJob:
    """What is to be computed. files: None without --input. further: of each file, the files of the
    model's further inputs. folder: of the results."""
    from zoofast.commands.shared import recipe_source
    from zoofast.inference.job import InferJob
    from zoofast.inference.spec import ModelSpec

    recipe = recipe_source.load_if_given(args)
    spec = ModelSpec(
        args.model,
        args.backend,
        batch=args.batchsize or args.dymBatch or None,
        provider=args.provider,
        dynamic=dynamic_of(args, recipe),
    )
    return InferJob(
        spec,
        files,
        further,
        images_per_file=args.images_per_file,
        folder=folder,
        fmt=args.outfmt,
        loop=args.loop,
        warmup=args.warmup_count,
        pure_data=args.pure_data_type,
        on_error=args.on_error,
        recipe=recipe,
    )


def _infer(args: argparse.Namespace, job: InferJob) -> FolderRun:
    from zoofast.inference.folder import infer_folder
    from zoofast.inference.inputs import images_of_samples, recipe_of

    with progress("infer", len(job.files or []), args.quiet or job.files is None) as meter:
        return infer_folder(
            job,
            args.device,
            source=args.input,
            images=images_of_samples(args.input) if args.input else None,
            recipe=recipe_of(args.input) if args.input else None,
            resume=args.resume,
            timeout=args.device_timeout,
            begin=meter.begin,
            progress=meter.advance,
            lost=lambda device, reason: warn(f"{reason}; the other devices go on"),
        )


def _print_devices(args: argparse.Namespace, folder_run: FolderRun) -> None:
    """What ais_bench prints of each device, and of several together."""
    from zoofast.inference import ais_bench

    for device_run in folder_run.runs:
        if device_run.report.times.compute:
            say(*ais_bench.summary_lines(device_run.report, args.display_all_summary))
    if len(folder_run.runs) > 1:
        say(*ais_bench.device_lines(folder_run.runs))


def _print_interrupted(args: argparse.Namespace, folder: Path) -> None:
    dirname = "" if args.output_dirname else f" --output_dirname {folder.name}"
    warn(
        f"interrupted; finished results are in {folder}; to continue, repeat the command "
        f"with{dirname} --resume"
    )


def print_summary(folder_run: FolderRun, total: int | None) -> None:
    """The last lines. total: files that were given; None without --input."""
    numbers = folder_run.as_dict()
    times = ", ".join(f"{name} {ms:.3f}" for name, ms in numbers["latency_ms"].items())
    say(f"latency of a batch of {numbers['batchsize']} in ms: {times}")
    say(
        f"{numbers['images']} images in {numbers['seconds']:.2f} s: "
        f"{numbers['images_per_second']:,.1f} images/s; the device alone "
        f"{numbers['device_throughput']:,.1f} images/s"
    )
    if numbers["images_per_file"] > 1:
        say(f"each file holds {numbers['images_per_file']} images of the model's input")
    if total is not None:
        resumed = folder_run.resumed
        earlier = f" ({resumed} by an earlier run)" if resumed else ""
        say(f"inferred {numbers['files'] + resumed} of {total} files{earlier}")
    failures = folder_run.failures
    if failures:
        reasons = [f"{file} ({reason})" for file, reason in failures.items()]
        warn(f"files left out: {len(failures)}: {listed(reasons, MAX_SHOWN)}")
