"""Pillow beside zoofast at each CPU level of this machine: the cases of cases.py, one thread.

    python benchmarks/levels.py [--images DIR] [--rounds N] [--json FILE] [--write]

All levels run in one process, in turn. Before a level is timed, its tensors are compared with
Pillow's and NumPy's. A second table has the time of each stage at each level. Exit code 1: Pillow
is faster than a level.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cases import Case, cases, pillow
from harness import BenchmarkError, Timing, add_images, benchmark_parser, find_images, run_main
from numpy.typing import NDArray
from one_thread import Prepare, measure
from report import Table, conditions, load_note, publish

from zoofast import _core, load_recipe
from zoofast.errors import CpuLevelError
from zoofast.preprocess.recipe_file import parse_recipe

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.oracle import Spec, pixels, tensor

PEER = "Pillow"
STAGE_PASSES = 5


def levels_here() -> list[str]:
    names = []
    for name in _core.isa_names():
        try:
            names.append(_core.isa(name))
        except CpuLevelError:
            continue
    return names


def at_level(spec: Spec, level: str) -> Prepare:
    plan, workspace = parse_recipe(spec.toml(), "case").plan(), _core.Workspace(level)

    def prepare(data: bytes) -> NDArray[np.generic]:
        out = np.empty(plan.nbytes, np.uint8)
        if workspace.prepare(data, plan, out).status != _core.Status.OK:
            raise BenchmarkError(f"level {level} leaves an image to Pillow")
        return out.view(plan.dtype).reshape(plan.shape)

    return prepare


def measured(
    case: Case, levels: Sequence[str], paths: Sequence[Path], rounds: int
) -> dict[str, Timing]:
    images = [case.make(path) for path in paths[:: max(1, len(paths) // case.files)]]
    images = images[: case.files]
    prepares = {level: at_level(case.spec, level) for level in levels}
    for level, prepare in prepares.items():
        for data in images:
            if prepare(data).tobytes() != tensor(pixels(data), case.spec).tobytes():
                raise BenchmarkError(f"{case.name}: level {level} does not equal Pillow")
    return measure({PEER: pillow(case.spec), **prepares}, images, rounds, case.name)


def stages(levels: Sequence[str], paths: Sequence[Path]) -> Table:
    """Microseconds per image of each stage of AlexNet's recipe, by the shortest of some passes
    for each image."""
    plan = load_recipe("alexnet").plan()
    out = np.empty(plan.nbytes, np.uint8)
    workspaces = {level: _core.Workspace(level) for level in levels}
    sums = {level: np.zeros(len(_core.STAGES)) for level in levels}
    for path in paths:
        data = path.read_bytes()
        for level, workspace in workspaces.items():
            passes = [workspace.prepare(data, plan, out).stage_ns for _ in range(STAGE_PASSES)]
            sums[level] += min(passes, key=sum)
    rows = [
        [stage, *(f"{sums[level][i] / len(paths) / 1e3:,.0f}" for level in levels)]
        for i, stage in enumerate(_core.STAGES)
        if sums[levels[0]][i]
    ]
    return Table(["stage, µs/image", *levels], rows)


def run(args: argparse.Namespace) -> int:
    images, note, levels = find_images(args.images, args.limit), load_note(), levels_here()
    timings = {case.name: measured(case, levels, images.paths, args.rounds) for case in cases()}
    rows, slower = [], []
    for name, timing in timings.items():
        ratios = {level: timing[PEER].cpu_ratio_to(timing[level]) for level in levels}
        rows.append([name, *(f"{ratio:.2f}" for ratio in ratios.values())])
        slower += [f"{name}: {level}" for level, ratio in ratios.items() if ratio < 1]
    tables = {
        "Pillow's time ÷ that of each CPU level": Table(["Pillow ÷ zoofast", *levels], rows),
        "Stages at each CPU level": stages(levels, images.paths),
    }
    about = (
        f"{images.description}, encoded anew where the case says so; one thread, bytes in memory; "
        f"medians of {args.rounds} rounds in turn, CPU time; {conditions(note)}"
    )
    figures = {
        "cases": {
            name: {peer: each.as_dict() for peer, each in timing.items()}
            for name, timing in timings.items()
        }
    }
    publish(args, "levels", tables, about, figures)
    for line in slower:
        print(f"zoofast: slower than Pillow: {line}", file=sys.stderr)
    return 1 if slower else 0


def main() -> int:
    parser = benchmark_parser("Pillow beside zoofast at each CPU level.", rounds=5)
    add_images(parser)
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
