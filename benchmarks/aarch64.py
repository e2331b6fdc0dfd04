"""Instructions per image on aarch64, scalar beside NEON, counted under qemu-user.

    python benchmarks/aarch64.py [--images DIR] [--json FILE] [--write]

No aarch64 clock is read: an instruction count says how much work a level saves, not how long the
work takes. Counts hardly vary, so --rounds changes nothing. The tensors of both levels are compared
with this machine's first. A plugin of qemu counts what each function executes, and the object file
of the function says to which stage it belongs. Needs aarch64-linux-gnu-gcc and qemu-aarch64, which
tools/check.sh aarch64 installs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import (
    RECIPE,
    ROOT,
    BenchmarkError,
    add_images,
    benchmark_parser,
    find_images,
    run_main,
)
from report import Table, publish, today

import zoofast
from zoofast import _core, load_recipe
from zoofast.preprocess import recipe

LEVELS = ("scalar", "neon")
FILES = 60
COMPILER = "aarch64-linux-gnu-gcc"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-ffp-contract=off", f"-I{ROOT / 'csrc'}")
PLUGIN_VERSIONS = (1, 2)  # qemu refuses a version that it does not know
PACK, OTHER = "pack", "C library, files, threads"
STAGES = {  # by the beginning of the object file's name, first match
    "jpeg_pixels": "IDCT, upsampling, colour",
    "jpeg_": "entropy decoding and driver",
    "decode": "entropy decoding and driver",
    "file": OTHER,
    "pool": OTHER,
    "threads": OTHER,
    "": "resize",
}
ROWS = ("entropy decoding and driver", "IDCT, upsampling, colour", "resize", PACK, OTHER)


def run_tool(*command: str | Path) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise BenchmarkError(f"{command[0]} is missing; sh tools/check.sh aarch64") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BenchmarkError(f"{command[0]}: {lines[-1]}")
    return done.stdout


def stage_of(object_name: str, function: str) -> str:
    if "lookup32" in function:
        return PACK
    return next(stage for start, stage in STAGES.items() if object_name.startswith(start))


def build(folder: Path) -> dict[str, str]:
    """Makes folder/prepare; returns the stage of each function."""
    sources = [p for p in (ROOT / "csrc").glob("*.c") if not p.name.startswith(("acl_", "logits_"))]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        run_tool(COMPILER, *FLAGS, "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        objects = list(threads.map(compile_one, sources))
    main = ROOT / "tests/core/native/prepare.c"
    program = folder / "prepare"
    run_tool(COMPILER, *FLAGS, "-static", main, *objects, "-pthread", "-lm", "-o", program)
    stages: dict[str, str] = {}
    for path in objects:
        for line in run_tool("nm", "--defined-only", path).splitlines():
            kind, function = line.split()[-2:]
            if kind not in "tT" or function.startswith("$"):  # $x marks code
                continue
            stage = stage_of(path.name, function)
            if stages.setdefault(function, stage) != stage:
                raise BenchmarkError(f"{function} is in two stages; give it another name")
    return stages


def plugin(folder: Path, version: int) -> Path:
    made = folder / f"plugin{version}.so"
    source = ROOT / "benchmarks" / "aarch64_plugin.c"
    run_tool("cc", "-O2", "-shared", "-fPIC", f"-DPLUGIN_VERSION={version}", source, "-o", made)
    return made


def count(
    folder: Path, stages: dict[str, str], level: str, paths: Sequence[Path], wanted: bytes
) -> Counter[str]:
    """Instructions by stage, of all images."""
    log = folder / f"{level}.log"
    order = str(_core.PASS_ORDERS[recipe.resize_order()])
    command = [str(folder / "prepare"), level, order, "1", "256", "224", *map(str, paths)]
    for version in PLUGIN_VERSIONS:
        options = ["-plugin", str(plugin(folder, version)), "-d", "plugin", "-D", str(log)]
        done = subprocess.run(["qemu-aarch64", *options, *command], capture_output=True)
        if done.returncode == 0:
            break
    else:
        raise BenchmarkError(f"qemu-aarch64: {done.stderr.decode(errors='replace').strip()}")
    if done.stdout != wanted:
        raise BenchmarkError(f"the tensors of level {level} differ from this machine's")
    counts: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        number, function = line.split(" ", 1)
        counts[stages.get(function, OTHER)] += int(number)
    return counts


def run(args: argparse.Namespace) -> int:
    images = find_images(args.images, args.limit)
    paths = images.paths[:: max(1, len(images.paths) // FILES)][:FILES]
    chosen = load_recipe(RECIPE)
    wanted = b"".join(zoofast.prepare(path.read_bytes(), chosen).tobytes() for path in paths)
    with tempfile.TemporaryDirectory(prefix="zoofast-bench-") as temporary:
        folder = Path(temporary)
        stages = build(folder)
        counts = {level: count(folder, stages, level, paths, wanted) for level in LEVELS}
    rows = []
    for stage in (*ROWS, "sum"):
        scalar, neon = (
            (each.total() if stage == "sum" else each[stage]) / len(paths)
            for each in (counts[level] for level in LEVELS)
        )
        rows.append([stage, f"{scalar / 1e3:,.0f}", f"{neon / 1e3:,.0f}", f"{scalar / neon:.2f}"])
    headings = ["thousands of instructions per image", "scalar", "NEON", "scalar ÷ NEON"]
    compiler, qemu = (
        run_tool(tool, "--version").splitlines()[0] for tool in (COMPILER, "qemu-aarch64")
    )
    about = (
        f"{len(paths)} of {images.description}; float32 tensors of {RECIPE}'s recipe, equal to "
        f"this machine's; {compiler}; {qemu}; {today()}. No aarch64 clock was read"
    )
    figures = {"counts": {level: dict(each) for level, each in counts.items()}}
    publish(args, "aarch64", {"Instructions on aarch64": Table(headings, rows)}, about, figures)
    return 0


def main() -> int:
    parser = benchmark_parser("Instructions per image on aarch64.", rounds=1)
    add_images(parser)
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
