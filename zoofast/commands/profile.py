"""`zoofast profile`: measures what on this host limits an NPU."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoofast.base.extras import needs
from zoofast.base.text import percent
from zoofast.commands.shared import arguments, recipe_source
from zoofast.commands.shared.console import (
    Table,
    explain,
    progress,
    warn_of_failures,
    write_json,
    write_result,
)
from zoofast.commands.shared.inference import (
    add_acl_library,
    add_device,
    add_device_timeout,
    add_provider,
)
from zoofast.conversion import models
from zoofast.inference.backends import BACKENDS, WITHOUT_FILE
from zoofast.inference.dynamic import of_recipe
from zoofast.inference.spec import DEFAULT_BATCH, ModelSpec
from zoofast.preprocess.sources import open_source
from zoofast.profiling.profile import ProfileOptions, count_steps, profile
from zoofast.profiling.results import Profile, StreamProfile

MAX_SHOWN = 10  # failures on the screen; all are in the JSON


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_source(parser)
    arguments.add_recipe(parser)
    arguments.add_threads(parser)
    parser.add_argument(
        "--seconds",
        type=arguments.seconds,
        default=3.0,
        metavar="S",
        help="seconds of each measurement (default: %(default)g)",
    )
    parser.add_argument(
        "--images",
        type=arguments.positive,
        default=512,
        metavar="N",
        help="how many images to measure, evenly spread over SRC (default: %(default)s)",
    )
    parser.add_argument(
        "--batchsize",
        type=arguments.batch_size,
        metavar="N",
        help="images in a batch (default: 8, or the number of threads if that is greater; for the "
        "model, its own or 4)",
    )
    arguments.add_max_file_size(parser)
    arguments.add_cache(parser)
    parser.add_argument(
        "-m",
        "--model",
        metavar="MODEL",
        help="also run this model: .om or .onnx file, or see --backend",
    )
    parser.add_argument(
        "--backend",
        choices=list(BACKENDS),
        help="what runs the model (default: by MODEL's suffix)",
    )
    add_provider(parser)
    add_acl_library(parser)
    add_device(parser)
    add_device_timeout(parser)
    parser.add_argument(
        "--write", action="store_true", help="write the tensors too, as prep does (to --scratch)"
    )
    parser.add_argument(
        "--scratch",
        metavar="DIR",
        type=Path,
        default=Path("."),
        help="folder on the disk whose writing is measured, for temporary files, which are removed "
        "(default: the current folder)",
    )
    parser.add_argument(
        "--only-recipe",
        action="store_true",
        help="do not measure the recipes of the guides' models",
    )
    arguments.add_file(parser, "--trace", "FILE.json", "write a Chrome trace, for ui.perfetto.dev")
    arguments.add_json_and_report(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress, no tables")


def run(args: argparse.Namespace) -> int:
    if args.report:
        with needs("report"):  # before the work
            from zoofast.report import render
            from zoofast.report.profile import profile_report
    arguments.check_files(
        [("--trace", args.trace), ("--json", args.json), ("--report", args.report)],
        [
            *arguments.source_files("SRC", args.source),
            ("--recipe", args.recipe),
            ("--model", None if args.backend in WITHOUT_FILE else args.model),
        ],
    )
    recipe = recipe_source.load(args)
    spec = None
    if args.model:
        spec = ModelSpec(
            args.model,
            args.backend,
            args.device,
            args.batchsize,
            DEFAULT_BATCH,
            args.provider,
            dynamic=of_recipe(recipe),
        )
    options = ProfileOptions(
        threads=args.threads,
        seconds=args.seconds,
        images=args.images,
        batch_size=args.batchsize,
        max_file_bytes=args.max_file_size,
        scratch=args.scratch,
        write=args.write,
        model=spec,
        cache=arguments.pixel_cache(args),
        device_timeout=args.device_timeout,
    )
    known = [] if args.only_recipe else [models.load(name) for name in models.names()]
    with open_source(args.source) as source:
        recipe_source.check_imported(recipe, source, source.items, args.quiet)
        with progress("profile", count_steps(options, known), args.quiet) as meter:
            result = profile(
                source,
                recipe,
                options,
                models=known,
                trace=args.trace,
                report_step=lambda step: meter.advance(1, notes=[step]),
            )
    if args.json:
        write_json(args.json, result.as_dict())
    if args.report:
        page = profile_report(result, ["zoofast", *args.argv])
        write_result(args.report, render(page))
    print_summary(result, args.quiet)
    warn_of_failures(result.failures, MAX_SHOWN, args.json or "")
    return 1 if result.failures else 0


def print_summary(result: Profile, quiet: bool) -> None:
    if not quiet:
        _stage_table(result).print()
        _thread_table(result).print()
        if result.stream:
            _device_table(result.stream).print()
        if result.demands:
            _demand_table(result).print()
    explain(*result.verdict)


def _stage_table(result: Profile) -> Table:
    table = Table(
        "stage", "µs/image", "share", "if free", title=f"{result.recipe.name}, one thread"
    )
    for stage in result.stages:
        share = "" if stage.share is None else percent(stage.share)
        free = "" if stage.rate_if_free is None else f"{stage.rate_if_free:,.0f}/s"
        table.add(stage.name, f"{stage.microseconds:,.0f}", share, free)
    return table


def _thread_table(result: Profile) -> Table:
    table = Table("threads", "images/s", "efficiency", title="Threads", words=0)
    for point in result.scaling:
        table.add(str(point.threads), f"{point.rate:,.0f}", percent(point.efficiency))
    return table


def _device_table(stream: StreamProfile) -> Table:
    table = Table("stage on the device", "µs/image", title=stream.model)
    for stage, microseconds in stream.microseconds.items():
        table.add(stage, f"{microseconds:,.0f}")
    return table


def _demand_table(result: Profile) -> Table:
    title = "What NPUs process and what this host supplies, images/s"
    headings = ("model", "chip", "batch", "NPU", "host", "supplied", "cores needed")
    table = Table(*headings, title=title, words=2)
    for demand in result.demands:
        rates = (f"{demand.device_rate:,.0f}", f"{demand.host_rate:,.0f}")
        part, cores = percent(demand.supplied), str(demand.cores)
        table.add(demand.model, demand.chip, str(demand.batch), *rates, part, cores)
    return table
