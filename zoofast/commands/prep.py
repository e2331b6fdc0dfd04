"""`zoofast prep` and `zoofast-prep`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from zoofast.base.nodes import lost_lines
from zoofast.base.text import counted
from zoofast.commands.shared import arguments, console, recipe_source
from zoofast.errors import OutputError
from zoofast.preprocess.bins import FILLS, MAX_IMAGES, PLAIN
from zoofast.preprocess.folder import (
    PrepOptions,
    PrepReport,
    choose,
    free_space,
    output_files,
    prepare_folder,
    space_needed,
)
from zoofast.preprocess.guides import guides
from zoofast.preprocess.manifest import MANIFEST
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sinks import FORMATS
from zoofast.preprocess.sources import FetchedSource, Item, Source, open_source

MAX_SHOWN = 10  # failures on the screen; the manifest has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_source(parser)
    parser.add_argument("folder", metavar="OUT", help="folder for the tensors and the manifest")
    arguments.add_recipe(parser)
    arguments.add_threads(parser)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="bin",
        help="one .bin or .npy per image, or one pack.npy with a names file (default: bin)",
    )
    arguments.add_tensors(parser)
    _add_bins(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue an earlier run in OUT; its tensors are not prepared again",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an earlier run in OUT; its tensors are removed first",
    )
    arguments.add_selection(parser)
    arguments.add_ray(parser)
    arguments.add_max_file_size(parser)
    arguments.add_cache(parser)
    parser.add_argument(
        "--verify",
        type=arguments.positive,
        default=0,
        metavar="N",
        help="prepare N random images with Pillow too, and compare the tensors",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be done, and write nothing"
    )
    arguments.add_result(parser, "--json", metavar="FILE", text="write the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress, no table")


def _add_bins(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "bins",
        "What a bin holds, and its name. With the name of a guide as --recipe, the default is as "
        "in the guide; else each image has a bin of its own, with the image's name.",
    )
    group.add_argument(
        "--images-per-bin",
        type=arguments.whole_number(1, MAX_IMAGES),
        metavar="N",
        help="number of images in a bin, in the order of SRC",
    )
    group.add_argument(
        "--fill",
        choices=FILLS,
        help="a last bin that is not full: fill it with zeros, or leave it out",
    )
    group.add_argument(
        "--bin-names",
        metavar="NAMES",
        help="names of the bins: '{stem}.bin', '{name}.bin', '{folder}/{stem}.bin', "
        "'input_{i:05d}.bin' or similar",
    )
    group.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="write a second bin NAME_flip.bin of the mirrored images, or do not",
    )
    arguments.add_file(
        group,
        "--side-file",
        "FILE",
        "write a text with a line for each bin; FILE.npy: an array of labels",
    )
    group.add_argument(
        "--side-line",
        metavar="LINE",
        help="the line of a bin, with {labels}, {bin}, {stem}, {path}, {i}, {height}, {width} "
        "(default: as in the guide, or '{stem} {labels}')",
    )
    group.add_argument(
        "--labels",
        metavar="LABELS",
        help="labels for the side file, as zoofast score takes them (default: the labels that "
        "SRC holds)",
    )


def _options(args: argparse.Namespace) -> PrepOptions:
    guide = guides().get(args.recipe)
    packing, line = PLAIN, "{stem} {labels}"
    if guide is not None and args.format == "bin":
        packing, line = guide.packing, guide.side_line or line
    given = {
        "images": args.images_per_bin,
        "fill": args.fill,
        "names": args.bin_names,
        "mirror": args.mirror,
    }
    packing = replace(packing, **{key: value for key, value in given.items() if value is not None})
    if args.side_file is None and (args.side_line, args.labels) != (None, None):
        raise OutputError(
            "--side-line and --labels say what the file of --side-file holds; add --side-file FILE"
        )
    if args.resume and args.overwrite:
        raise OutputError("--resume and --overwrite exclude each other")
    return PrepOptions(
        format=args.format,
        packing=packing,
        side_file=args.side_file,
        side_line=line if args.side_line is None else args.side_line,
        threads=args.threads,
        on_error=args.on_error,
        resume=args.resume,
        overwrite=args.overwrite,
        limit=args.limit,
        shard=args.shard,
        verify=args.verify,
        max_file_bytes=args.max_file_size,
        cache=arguments.pixel_cache(args),
    )


def _labels(args: argparse.Namespace, options: PrepOptions, source: Source) -> Mapping[str, int]:
    """The labels that the side file needs, by the image's name."""
    needed = options.side_file is not None and (
        options.side_file.endswith(".npy") or "{labels}" in options.side_line
    )
    if not needed:
        return {}
    if args.labels is None and (of_source := source.read_labels()) is not None:
        return of_source
    from zoofast.scoring.labels import labels_from_source, load_labels

    if args.labels is None and isinstance(source, FetchedSource):
        return labels_from_source(source).by_name  # an error that says so
    return load_labels(args.labels or args.source).by_name


def _check_files(args: argparse.Namespace, options: PrepOptions, items: Sequence[Item]) -> None:
    """Raises OutputError where an output would replace another, or an input."""
    outputs: list[arguments.NamedFile] = [("--side-file", args.side_file), ("--json", args.json)]
    arguments.check_files(
        [("the manifest", Path(args.folder, MANIFEST)), *outputs],
        [
            *arguments.source_files("SRC", args.source),
            ("--labels", args.labels),
            ("--recipe", args.recipe),
        ],
    )
    folder = os.path.realpath(args.folder)
    inside = {
        os.path.relpath(os.path.realpath(file), folder): name
        for name, file in outputs
        if file is not None and file is not console.STDOUT
    }
    if all(path.startswith("..") for path in inside):
        return  # the names of all tensors are not needed
    for file in output_files(items, options):
        if file in inside:
            raise OutputError(
                f"{args.folder}/{file}: is the file of {inside[file]} and of a tensor; name "
                "another file"
            )


def run(args: argparse.Namespace) -> int:
    recipe = recipe_source.load(args).with_output(args.dtype, args.layout)
    options = _options(args)
    with open_source(args.source) as source:
        _check_files(args, options, choose(source, args.limit, args.shard))
        labels = _labels(args, options, source)
        if args.dry_run:
            return _dry_run(source, Path(args.folder), recipe, options)
        recipe_source.check_imported(
            recipe, source, choose(source, args.limit, args.shard), args.quiet
        )
        try:
            report = _prepare(source, args, recipe, options, labels)
        except KeyboardInterrupt:
            console.warn(
                "interrupted; the tensors written so far stay; the same command with --resume "
                "continues"
            )
            return console.INTERRUPTED
    if args.json:
        try:
            console.write_json(args.json, report.content())
        except OutputError as error:
            raise OutputError(f"{error}; {args.folder}/{MANIFEST} says the same") from error
    if not args.quiet:
        print_summary(report)
    print_failures(report)
    console.warn_of_misreads(report.nodes)
    bad_verify = report.verified is not None and report.verified.differing
    lost = lost_lines(node.lost for node in report.nodes)
    for line in lost:
        console.warn(line)
    return 1 if report.failures or bad_verify or lost else 0


def _dry_run(source: Source, folder: Path, recipe: Recipe, options: PrepOptions) -> int:
    items = choose(source, options.limit, options.shard)
    needed, free = space_needed(recipe, items, options, folder), free_space(folder)
    shape = "x".join(map(str, recipe.shape))
    console.say(
        f"{counted(len(items), 'image')}, {counted(len(source.skipped), 'other file')} skipped",
        f"recipe {recipe.name} ({recipe.digest}): {recipe.dtype} {recipe.layout} {shape}",
        f"{needed:,} bytes needed, {free:,} bytes free in {folder}",
    )
    return 0 if needed <= free else 1


def _prepare(
    source: Source,
    args: argparse.Namespace,
    recipe: Recipe,
    options: PrepOptions,
    labels: Mapping[str, int],
) -> PrepReport:
    total = len(choose(source, options.limit, options.shard))
    reported: set[str] = set()  # why nodes were lost
    with ExitStack() as stack:
        store = None
        if args.ray is not None:
            from zoofast.cluster.connection import connect
            from zoofast.cluster.prepare import store_on

            store = store_on(stack.enter_context(connect(args.ray)))
        meter = stack.enter_context(console.progress("prep", total, args.quiet))

        def progress(report: PrepReport) -> None:
            done = report.prepared + len(report.failures)
            for node in report.nodes:
                if node.lost and node.lost not in reported:
                    reported.add(node.lost)
                    console.warn(f"{node.lost}; the other nodes go on")
            if not done:
                meter.begin(report.resumed)
            notes = [f"{len(report.failures)} failed"] if report.failures else []
            items = report.resumed + done - meter.done
            meter.advance(items, report.nbytes_in - meter.nbytes, notes)

        return prepare_folder(source, args.folder, recipe, options, progress, labels, store)


def print_summary(report: PrepReport) -> None:
    recipe = report.recipe
    table = console.Table(title=f"{recipe.name} → {report.folder}")
    tried = report.prepared + len(report.failures)
    table.add("prepared", f"{report.prepared + report.resumed} of {report.total}")
    if report.resumed:
        table.add("  of these, by an earlier run", f"{report.resumed}")
    for cause, count in report.causes.items():
        table.add(f"failed: {cause}", console.styled(str(count), "red"))
    if report.skipped:
        table.add("skipped, not an image", f"{report.skipped}")
    table.add("tensor", f"{recipe.dtype} {recipe.layout} {'×'.join(map(str, recipe.shape))}")
    if report.bins is not None:
        packing = report.options.packing
        mirrored = ", and mirrored" if packing.mirror else ""
        table.add("bins", f"{counted(packing.images, 'image')} in {packing.names}{mirrored}")
    table.add("written", f"{report.nbytes_out / 1e6:,.1f} MB")
    table.add("time", f"{report.seconds:.2f} s on {counted(report.threads, 'thread')}")
    table.add("rate", f"{report.images_per_second:,.0f} images/s")
    for stage, seconds in report.stage_seconds.items():
        if tried and seconds:
            table.add(f"  {stage}", f"{seconds / tried * 1e6:,.0f} µs/image")
    decoders = ", ".join(f"{k} {n}" for k, n in report.decoders.items() if n)
    if decoders:
        table.add("decoders", decoders)
    if report.verified is not None:
        v = report.verified
        verdict = f"{v.equal} of {v.images} equal Pillow's bytes"
        if v.differing:
            verdict += f"; largest difference {v.largest_difference:g}"
        table.add("verified", console.styled(verdict, "red" if v.differing else ""))
    table.add("recipe digest", recipe.digest)
    table.print()
    if report.nodes:
        console.print_nodes(report.nodes)


def print_failures(report: PrepReport) -> None:
    console.warn_of_failures(report.failures, MAX_SHOWN, f"{report.folder}/{MANIFEST}")
    if report.verified is not None:
        for name in report.verified.differing[:MAX_SHOWN]:
            console.warn(f"differs from Pillow: {name}")
