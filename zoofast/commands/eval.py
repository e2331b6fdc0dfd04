"""`zoofast eval`: prepares images, runs a model on them and scores it, without files between."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoofast.base.extras import needs
from zoofast.base.files import is_device_or_pipe
from zoofast.base.text import counted, percent
from zoofast.commands.shared import arguments
from zoofast.commands.shared.console import (
    INTERRUPTED,
    STDOUT,
    Table,
    explain,
    print_nodes,
    progress,
    say,
    styled,
    warn,
    warn_of_failures,
    warn_of_misreads,
    write_json,
    write_result,
)
from zoofast.commands.shared.inference import (
    add_acl_library,
    add_device_timeout,
    add_devices,
    add_provider,
)
from zoofast.commands.shared.scoring import (
    add_label_arguments,
    add_score_arguments,
    label_files,
    print_score,
    read_labels,
    score_files,
    score_options,
    write_score,
)
from zoofast.conversion import models
from zoofast.errors import BackendError, LabelError, OutputError
from zoofast.evaluation.journal import end_journal
from zoofast.inference.backends import BACKENDS, WITHOUT_FILE
from zoofast.inference.dynamic import of_recipe
from zoofast.inference.spec import DEFAULT_BATCH, ModelSpec
from zoofast.preprocess.recipe import Recipe

if TYPE_CHECKING:
    from zoofast.evaluation.options import EvalOptions
    from zoofast.evaluation.result import EvalProgress, Evaluation
    from zoofast.preprocess.sources import Item, Source
    from zoofast.scoring.labels import Labels

MAX_SHOWN = 10  # failures on the screen; all are in the JSON
SIM_BATCH = 8  # of a simulated NPU; the fastest in the guides, for most models

DESCRIPTION = """\
Preprocessing, copying, inference and scoring overlap; results do not depend on threads, batch
size or devices. Images and labels are joined by name. Equal scores go to the lower class index,
NaN comes last."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{parser.description}. {DESCRIPTION}"
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=".om or .onnx file; with --sim-device, the name of a guide's model, or any name for "
        "the recipe's model; with --sim-fps, any name",
    )
    arguments.add_source(parser)
    add_label_arguments(parser, with_source=True)
    arguments.add_recipe(parser)
    arguments.add_tensors(parser)
    parser.add_argument(
        "--backend",
        choices=list(BACKENDS),
        help="what runs the model (default: by MODEL's suffix); sim takes the time of an NPU, null "
        "takes no time, and both compute nothing",
    )
    parser.add_argument(
        "--sim-device",
        metavar="CHIP",
        help="simulate this NPU, such as 310P3, at the speed in the model's guide",
    )
    parser.add_argument(
        "--sim-fps", type=arguments.rate, metavar="N", help="simulate an NPU of N images/s"
    )
    add_provider(parser)
    add_devices(parser)
    parser.add_argument(
        "--batchsize",
        type=arguments.batch_size,
        metavar="N",
        help=f"images in a batch (default: the model's; {DEFAULT_BATCH} if it takes any number)",
    )
    arguments.add_output_index(parser, 0, "0")
    arguments.add_threads(parser)
    parser.add_argument(
        "--depth",
        type=arguments.positive,
        metavar="N",
        help="batches in memory (default: enough to keep devices and host busy)",
    )
    arguments.add_selection(parser)
    arguments.add_ray(parser)
    arguments.add_max_file_size(parser)
    arguments.add_cache(parser)
    add_acl_library(parser)
    add_device_timeout(parser)
    add_score_arguments(parser)
    arguments.add_logits(parser, "write the logits of all images, and their names")
    parser.add_argument(
        "--journal",
        type=arguments.regular_file,
        metavar="FILE",
        help="the file that --resume continues from (default: the file of -o, plus .journal)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue an evaluation that did not end"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="begin anew, and remove the journal of an evaluation that did not end",
    )
    arguments.add_file(parser, "--trace", "FILE.json", "write a Chrome trace, for ui.perfetto.dev")
    parser.add_argument("--quiet", action="store_true", help="print only the accuracy")


def run(args: argparse.Namespace) -> int:
    from zoofast.commands.shared import recipe_source
    from zoofast.preprocess.folder import choose
    from zoofast.preprocess.sources import open_source
    from zoofast.scoring.labels import labels_from_source

    if args.report:
        with needs("report"):  # before the work
            from zoofast.report import render
            from zoofast.report.eval import eval_report
    recipe = recipe_source.load(args).with_output(args.dtype, args.layout)
    specs = _specs(args, recipe)
    options = _options(args, specs)
    _check_files(args, specs, options)
    with open_source(args.source) as source:
        labels = read_labels(args, source)
        if labels is None and specs[0].backend not in WITHOUT_FILE:
            labels = labels_from_source(source, args.synsets)
        if labels is None:
            _check_without_labels(args)
        items = choose(source, args.limit, args.shard)
        recipe_source.check_imported(recipe, source, items, args.quiet)
        if labels is not None and len(items) < len(source.items):
            chosen = labels.of({item.name for item in items})
            labels = chosen if chosen.by_name else labels  # an error, which shows one of them
        evaluation = _evaluate(args, source, items, recipe, labels, options)
        # A full disk must not lose the score, so it is printed before anything is written.
        code = _print_result(args, evaluation, options.journal)
        if evaluation.score is not None and evaluation.state == "complete":
            write_score(args, evaluation.score)
        if args.json:
            write_json(args.json, evaluation.as_dict())
        if args.report:
            page = eval_report(evaluation, ["zoofast", *args.argv], source)
            write_result(args.report, render(page))
    if evaluation.state == "complete" and options.journal is not None:
        is_shard = args.shard[1] > 1
        record = None
        if is_shard:
            from zoofast.evaluation.merge import shard_record

            record = shard_record(
                evaluation,
                items,
                args.shard,
                args.limit,
                len(source.items),
                options.journal,
                options.logits,
            )
        end_journal(options.journal, bool(evaluation.failures) or is_shard, record)
    return code


def _check_without_labels(args: argparse.Namespace) -> None:
    """Raises LabelError for files that only a score has."""
    for option, output in (("-o", args.output), ("--per-class", args.per_class)):
        if output:
            hint = "; --journal FILE names the journal" if option == "-o" else ""
            raise LabelError(f"{option} needs labels: give LABELS or --labels-from SRC{hint}")


def _check_files(args: argparse.Namespace, specs: list[ModelSpec], options: EvalOptions) -> None:
    """Raises OutputError where an output would replace another, or an input."""
    arguments.check_files(
        [
            ("the journal", options.journal),
            *arguments.logits_files(args.save_logits),
            *score_files(args),
            ("--trace", args.trace),
        ],
        [
            ("MODEL", None if specs[0].backend in WITHOUT_FILE else args.model),
            *arguments.source_files("SRC", args.source),
            *label_files(args),
            ("--recipe", args.recipe),
        ],
    )


def _specs(args: argparse.Namespace, recipe: Recipe) -> list[ModelSpec]:
    """The model, for each device."""

    model, backend, batch, title = args.model, args.backend, args.batchsize, ""
    if args.sim_device or args.sim_fps is not None:
        if backend not in (None, "sim"):
            raise BackendError(f"--sim-device and --sim-fps are for --backend sim, not {backend}")
        backend = "sim"
        model, title = _simulated(args, recipe)
        batch = None
    spec = ModelSpec(
        model,
        backend,
        batch=batch,
        default_batch=DEFAULT_BATCH,
        provider=args.provider,
        title=title,
        dynamic=of_recipe(recipe),
    )
    return [replace(spec, device=device) for device in args.device]


def _simulated(args: argparse.Namespace, recipe: Recipe) -> tuple[str, str]:
    """The sim backend's text for an NPU that takes what the recipe makes, and a title for it."""
    batch, fps = args.batchsize or SIM_BATCH, args.sim_fps
    title = f"{recipe.name} on an NPU of {fps:,g} images/s" if fps else ""
    if fps is None:
        of_recipe = [name for name in models.names() if models.load(name).recipe == recipe.name]
        named = args.model in models.names() or not of_recipe
        known = models.load(args.model if named else of_recipe[0])
        best, fps = known.best(args.sim_device)
        batch = args.batchsize or best
        if batch not in known.fps[args.sim_device]:
            sizes = ", ".join(map(str, known.fps[args.sim_device]))
            raise BackendError(
                f"{args.model}: its guide has no figure for batch size {batch} on "
                f"{args.sim_device}, only for {sizes}"
            )
        fps = known.fps[args.sim_device][batch]
        title = f"{known.name} on {args.sim_device}"
    if recipe.classes is None:
        raise BackendError(f"{recipe.name}: the recipe does not say how many classes there are")
    shape = "x".join(map(str, (batch, *recipe.shape)))
    return f"{shape}:{recipe.dtype}:{recipe.classes}@{fps:g}", title


def _journal(args: argparse.Namespace) -> Path | None:
    """The journal; beside the file of -o where the arguments name none."""
    if args.journal:
        return Path(args.journal)
    if not args.output or args.output is STDOUT or is_device_or_pipe(args.output):
        return None
    from zoofast.evaluation.journal import SUFFIX

    return Path(f"{args.output}{SUFFIX}")


def _options(args: argparse.Namespace, specs: list[ModelSpec]) -> EvalOptions:
    from zoofast.evaluation.options import EvalOptions

    journal = _journal(args)
    if args.resume and journal is None:
        raise OutputError("--resume needs -o FILE or --journal FILE, to know what to continue")
    if args.resume and args.overwrite:
        raise OutputError("--resume and --overwrite exclude each other")
    return EvalOptions(
        specs,
        threads=args.threads,
        depth=args.depth,
        output_index=args.output_index,
        scoring=score_options(args),
        on_error=args.on_error,
        max_file_bytes=args.max_file_size,
        timeout=args.device_timeout,
        journal=journal,
        logits=Path(args.save_logits) if args.save_logits else None,
        resume=args.resume,
        overwrite=args.overwrite,
        trace=Path(args.trace) if args.trace else None,
        details=bool(args.report),
        cache=arguments.pixel_cache(args),
    )


def _evaluate(
    args: argparse.Namespace,
    source: Source,
    items: Sequence[Item],
    recipe: Recipe,
    labels: Labels | None,
    options: EvalOptions,
) -> Evaluation:
    from zoofast.evaluation.evaluate import evaluate

    reported: set[str] = set()  # why devices and nodes were lost

    with ExitStack() as stack:
        cluster = None
        if args.ray is not None:
            from zoofast.cluster.connection import connect
            from zoofast.cluster.evaluate import check_options

            check_options(options)
            cluster = stack.enter_context(connect(args.ray))
        meter = stack.enter_context(progress("eval", len(items), args.quiet))

        def advance(state: EvalProgress) -> None:
            for what, lost in (("devices", state.lost_devices), ("nodes", state.lost_nodes)):
                for reason in set(lost.values()) - reported:
                    reported.add(reason)
                    warn(f"{reason}; the other {what} go on")
            if not state.images:
                meter.begin(state.resumed)
            images = state.resumed + state.images - meter.done
            meter.advance(images, state.nbytes_in - meter.nbytes, _notes(state, args.top_k))

        if cluster is None:
            return evaluate(source, items, recipe, labels, options, advance)
        from zoofast.cluster.evaluate import evaluate_on

        choice = args.limit, args.shard
        return evaluate_on(cluster, source, items, recipe, labels, options, advance, *choice)


def _notes(state: EvalProgress, top_k: int) -> list[str]:
    """What stands beside the progress bar, the most important first."""
    notes = []
    if state.scored:
        for place, hits in sorted({1: state.hits[0], top_k: state.hits[1]}.items()):
            notes.append(f"top-{place} {100 * hits / state.scored:.2f} %")
    if state.failures:
        notes.append(f"{state.failures} failed")
    return [*notes, f"device busy {percent(state.device_busy)}"]


def _print_result(args: argparse.Namespace, evaluation: Evaluation, journal: Path | None) -> int:
    """Prints everything; returns the exit code."""
    if not args.quiet:
        print_summary(evaluation)
    if evaluation.score is not None:
        published = None if args.quiet else evaluation.recipe.accuracy
        code = print_score(
            evaluation.score, args.allow_missing, args.quiet, args.confused, published
        )
    else:
        warn_of_failures(evaluation.failures, MAX_SHOWN, args.json or "")
        if args.labels or args.labels_from:
            say(f"scored 0 of {evaluation.total}")
        else:
            say(f"ran {evaluation.done} of {evaluation.total}")
        code = 1 if evaluation.failures else 0
    for line in evaluation.lost_lines():
        warn(line)
        code = 1
    warn_of_misreads(evaluation.nodes)
    if evaluation.state == "complete":
        return code
    cure = "; to continue, repeat the command with --resume" if journal else ""
    warn(
        f"interrupted: the result is partial, {evaluation.done} of "
        f"{counted(evaluation.total, 'image')} are done{cure}"
    )
    return INTERRUPTED


def print_summary(evaluation: Evaluation) -> None:
    """The table of the run."""
    specs = evaluation.specs
    table = Table(title=evaluation.title)
    table.add("images", f"{evaluation.done} of {evaluation.total}")
    if evaluation.resumed:
        table.add("  by an earlier run", f"{evaluation.resumed}")
    if evaluation.failures:
        table.add("failed", styled(str(len(evaluation.failures)), "red"))
    if evaluation.skipped:
        table.add("skipped, not an image", f"{evaluation.skipped}")
    if cached := evaluation.stats.decoders["cache"]:
        table.add("pixels from the cache", f"{cached}")
    recipe = evaluation.recipe
    table.add("recipe", f"{recipe.name} ({recipe.digest})")
    table.add("model takes", str(evaluation.input))
    devices = ", ".join(str(spec.device) for spec in specs)
    threads = counted(evaluation.threads, "thread")
    where = counted(len(evaluation.nodes), "node") if evaluation.nodes else f"device {devices}"
    table.add("time", f"{evaluation.seconds:.2f} s, {threads}, {where}")
    table.add("rate", f"{evaluation.images_per_second:,.0f} images/s")
    if not evaluation.nodes:
        table.add("device alone", f"{evaluation.device_rate():,.0f} images/s")
    table.print()
    if evaluation.nodes:
        print_nodes(evaluation.nodes)
    explain(evaluation.bottleneck())
