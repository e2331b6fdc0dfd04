"""`zoofast convert`: all steps of a model's guide from weights to .om."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from zoofast.base.lock import output_lock
from zoofast.commands.shared import arguments
from zoofast.commands.shared.console import say, warn, working
from zoofast.commands.shared.conversion import (
    add_batch_sizes,
    add_model,
    add_soc_and_options,
    named_model,
    print_at_once,
    weights_file,
)
from zoofast.conversion import atc
from zoofast.conversion.export import OPSET
from zoofast.conversion.models import KnownModel
from zoofast.conversion.npu_smi import soc_version
from zoofast.conversion.pipeline import Step, StepCache, atc_commands, atc_step, onnx_steps
from zoofast.errors import BackendError, ModelError

DEFAULT_CHIP = "310P3"  # of a printed command, where neither a guide nor the machine names one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_batch_sizes(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for all files (default: ./MODEL)",
    )
    parser.add_argument(
        "--opset",
        type=arguments.positive,
        default=OPSET,
        metavar="N",
        help="version of ONNX's operators (default: %(default)s)",
    )
    add_soc_and_options(parser)


def run(args: argparse.Namespace) -> int:
    known, recipe = named_model(args)
    weights = weights_file(args.weights, known)
    folder = args.output or Path(known.name)
    missing_atc = _missing_atc()
    soc, is_assumed = _soc(args.soc, known, missing_atc)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"{folder}: cannot be made: {error.strerror}") from error
    commands = atc_commands(known, recipe, args.batchsize, folder, soc, dict(args.option))
    with output_lock(folder):
        cache = StepCache(folder)
        steps = onnx_steps(known, recipe, weights, args.batchsize, folder, opset=args.opset)
        written = [step.output for step in steps] + [command.output for command in commands]
        arguments.check_files([("convert", path) for path in written], [("--weights", weights)])
        _run_steps(cache, steps)
        if missing_atc is None:
            _run_steps(
                cache,
                (
                    atc_step(recipe, command, batch, print_at_once)
                    for command, batch in zip(commands, args.batchsize, strict=True)
                ),
            )
            return 0
    for command in commands:
        say(str(command))
    whose = "the guide's chip" if known.fps else "an example"
    hint = f"; {soc} is {whose}, --soc names yours" if is_assumed else ""
    warn(f"not compiled: {missing_atc}{hint}")
    return 1


def _missing_atc() -> BackendError | None:
    try:
        atc.find()
    except BackendError as error:
        return error
    return None


def _soc(chip: str, known: KnownModel, missing_atc: BackendError | None) -> tuple[str, bool]:
    """ATC's name of the chip, and whether it is only assumed: the guide's first chip.

    A chip is assumed where it is neither given nor here, and the commands are only printed.
    """
    try:
        return soc_version(chip), False
    except BackendError:
        if chip != "auto" or missing_atc is None:
            raise
        return f"Ascend{next(iter(known.fps), DEFAULT_CHIP)}", True


def _run_steps(cache: StepCache, steps: Iterable[Step]) -> None:
    for step in steps:
        # ATC prints its own progress.
        with working(f"{step.name} {step.output}") if step.name != "atc" else nullcontext():
            result = cache.run(step)
        note = f"made in {result.seconds:.1f} s" if result.made else "kept: nothing changed"
        say(f"{step.name:<9} {step.output} ({note})")
