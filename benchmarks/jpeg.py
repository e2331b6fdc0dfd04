"""The baseline JPEG decoder and libjpeg-turbo: by stage, sampling and quality, one thread.

    python benchmarks/jpeg.py [--images DIR] [--rounds N] [--json FILE] [--write]

Builds jpeg_stages.c, which compares every image with libjpeg-turbo's before it times any image,
and runs all stages in turn on every file. The images come first as they are; then some of them
come encoded again by Pillow, at several qualities and samplings. Exit code 1: a stage is slower
than its limit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import ROOT, BenchmarkError, add_images, benchmark_parser, find_images, run_main
from PIL import Image
from report import Table, conditions, load_note, publish

from zoofast import _core

PARTS = ("levels", "jpeg_baseline", "jpeg_entropy", "jpeg_header")
QUALITIES = (50, 75, 90, 96)
SAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2, "gray": None}  # Pillow's numbers
ENCODED = 40  # images of each quality and sampling
MIN_ENTROPY_RATIO, MIN_RGB_RATIO = 1.9, 1.5  # times as fast as libjpeg-turbo
NAMES = {"1x1,1x1,1x1": "4:4:4", "2x1,1x1,1x1": "4:2:2", "2x2,1x1,1x1": "4:2:0"}


@dataclass(frozen=True)
class Stage:
    """One line of jpeg_stages -t; nbytes, pixels and seconds are of one file."""

    kind: str
    name: str
    files: int
    nbytes: float
    pixels: float
    median: float
    best: float
    ticks_per_byte: float


@dataclass(frozen=True)
class Group:
    """The stages of one kind of file."""

    kind: str
    stages: dict[str, Stage]

    def ratio(self, stage: str) -> float:
        """How many times as fast as libjpeg-turbo a stage is, by medians."""
        theirs, ours = self.stages[f"libjpeg-turbo {stage}"], self.stages[f"zoofast {stage}"]
        return theirs.median / ours.median

    def row(self, name: str) -> list[str]:
        entropy, rgb = self.stages["zoofast coefficients"], self.stages["zoofast rgb"]
        window = self.stages["libjpeg-turbo rgb"].median / self.stages["zoofast window"].median
        return [
            name,
            str(rgb.files),
            f"{rgb.nbytes / 1e3:.0f}",
            f"{rgb.nbytes * 8 / rgb.pixels:.1f}",
            f"{entropy.nbytes / entropy.median / 1e6:.0f}",
            f"{entropy.ticks_per_byte:.1f}",
            f"{self.ratio('coefficients'):.2f}",
            f"{rgb.nbytes / rgb.median / 1e6:.0f}",
            f"{rgb.ticks_per_byte:.1f}",
            f"{self.ratio('rgb'):.2f}",
            f"{window:.2f}",
        ]


HEADINGS = [
    "",
    "files",
    "kB",
    "bits/pixel",
    "entropy MB/s",
    "ticks/byte",
    "× libjpeg-turbo",
    "RGB MB/s",
    "ticks/byte",
    "× libjpeg-turbo",
    "crop only, × its full RGB",
]


def build(folder: Path) -> Path:
    program = folder / "jpeg_stages"
    sources = [ROOT / "benchmarks" / "jpeg_stages.c"]
    sources += [ROOT / "csrc" / f"{part}.c" for part in PARTS]
    sources += sorted((ROOT / "csrc").glob("jpeg_pixels*.c"))
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-ffp-contract=off"]
    includes = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests/core/native'}"]
    compiler = os.environ.get("CC", "cc")
    command = [compiler, *flags, *includes, *map(str, sources), "-ljpeg", "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"cannot build jpeg_stages: {done.stderr.strip().splitlines()[-1]}")
    return program


def measure(program: Path, paths: Sequence[Path], rounds: int) -> list[Group]:
    """The stages of all files, then of each kind of file."""
    command = [str(program), "-t", "-r", str(rounds), "-i", _core.isa()]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"jpeg_stages: {done.stderr.strip().splitlines()[-1]}")
    groups: dict[str, dict[str, Stage]] = {}
    for line in done.stdout.splitlines():
        kind, name, files, *numbers = line.split("\t")
        stage = Stage(kind, name, int(files), *map(float, numbers))
        groups.setdefault(kind, {})[name] = stage
    return [Group(kind, stages) for kind, stages in groups.items()]


def encode(paths: Sequence[Path], folder: Path, quality: int, sampling: int | None) -> list[Path]:
    encoded = []
    for path in paths:
        with Image.open(path) as image:
            target = folder / path.name
            if sampling is None:
                image.convert("L").save(target, "JPEG", quality=quality)
            else:
                pixels = image.convert("RGB")
                pixels.save(target, "JPEG", quality=quality, subsampling=sampling)
        encoded.append(target)
    return encoded


def run(args: argparse.Namespace) -> int:
    images, note = find_images(args.images, args.limit), load_note()
    if _core.isa() == "scalar":
        raise BenchmarkError("the decoder is not used at CPU level scalar")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        program = build(folder)
        groups = measure(program, images.paths, args.rounds)
        rows = [group.row(NAMES.get(group.kind, group.kind)) for group in groups]
        some = images.paths[:: max(1, len(images.paths) // ENCODED)][:ENCODED]
        encoded: list[Group] = []
        for quality in QUALITIES:
            for name, sampling in SAMPLINGS.items():
                here = folder / "encoded"
                here.mkdir()
                group = measure(program, encode(some, here, quality, sampling), args.rounds)[0]
                shutil.rmtree(here)
                encoded.append(group)
                rows.append(group.row(f"quality {quality}, {name}"))
    table = Table(HEADINGS, rows)
    about = (
        f"{images.description}, and {len(some)} of them encoded again; "
        f"level {_core.isa()}, one thread, bytes in memory; medians of {args.rounds} rounds in "
        f"turn; ticks of the time stamp counter; {conditions(note)}"
    )
    figures = {
        "as they are": [asdict(s) for group in groups for s in group.stages.values()],
        "encoded": [asdict(s) for group in encoded for s in group.stages.values()],
    }
    publish(args, "jpeg", {"JPEG decoding": table}, about, {"stages": figures})
    everything = groups[0]
    ratios = everything.ratio("coefficients"), everything.ratio("rgb")
    if ratios[0] < MIN_ENTROPY_RATIO or ratios[1] < MIN_RGB_RATIO:
        print("zoofast: the decoder is slower than its limit", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = benchmark_parser("The JPEG decoder and libjpeg-turbo.", rounds=9)
    add_images(parser)
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
