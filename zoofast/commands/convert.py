"""`zoofast convert`: all steps of a model's guide from weights to .om."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from zoofast.commands import arguments
from zoofast.commands.atc import add_soc_and_options, echo
from zoofast.commands.console import working
from zoofast.conversion import atc, models
from zoofast.conversion.export import OPSET
from zoofast.conversion.npu_smi import soc_version
from zoofast.conversion.pipeline import Step, StepCache, atc_commands, atc_step, onnx_steps
from zoofast.errors import BackendError, ModelError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=", ".join(models.names()))
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="the .pth file, or 'random' for a trial"
    )
    parser.add_argument(
        "--batchsize", type=arguments.batch_sizes, default=[1], metavar="N,N,…", help="default: 1"
    )
    parser.add_argument("-o", "--output", type=Path, help="folder for all files [./MODEL]")
    parser.add_argument("--opset", type=arguments.positive, default=OPSET, help="[%(default)s]")
    add_soc_and_options(parser)


def run(args: argparse.Namespace) -> int:
    known = models.load(args.model)
    weights = None if args.weights == "random" else Path(args.weights)
    if weights is not None and not weights.is_file():
        raise ModelError(f"{weights}: no such file; --weights random tries without any")
    folder = args.output or Path(known.name)
    missing_atc = _missing_atc()
    soc = _soc(args.soc, missing_atc)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"{folder}: cannot be made: {error.strerror}") from error
    cache = StepCache(folder)
    _run_steps(cache, onnx_steps(known, weights, args.batchsize, folder, opset=args.opset))
    if soc is not None:
        commands = atc_commands(known, args.batchsize, folder, soc, dict(args.option))
        if missing_atc is None:
            _run_steps(
                cache,
                (
                    atc_step(known, command, batch, echo)
                    for command, batch in zip(commands, args.batchsize, strict=True)
                ),
            )
            return 0
        for command in commands:
            print(command)
    hint = "" if soc else " (--soc 310P3 shows it)"
    print(f"zoofast: not compiled: {missing_atc}{hint}", file=sys.stderr)
    return 1


def _missing_atc() -> BackendError | None:
    try:
        atc.find()
    except BackendError as error:
        return error
    return None


def _soc(chip: str, missing_atc: BackendError | None) -> str | None:
    """ATC's name of the chip; None where it is not given and there is no atc to compile with."""
    if chip == "auto" and missing_atc is not None:
        return None
    return soc_version(chip)


def _run_steps(cache: StepCache, steps: Iterable[Step]) -> None:
    for step in steps:
        # ATC prints its own progress.
        with working(f"{step.name} {step.output}") if step.name != "atc" else nullcontext():
            result = cache.run(step)
        note = f"made in {result.seconds:.1f} s" if result.made else "kept: nothing changed"
        print(f"{step.name:<9} {step.output} ({note})")
