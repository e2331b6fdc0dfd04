"""Our JPEG decoders and libjpeg-turbo: by stage, sampling and quality, one thread.

    python benchmarks/jpeg.py [--images DIR] [--rounds N] [--json FILE] [--write]

Builds jpeg_stages.c, which compares every image with libjpeg-turbo's before it times any image,
and runs all stages in turn on every file. The images come first as they are; then some of them
come encoded again by Pillow, at several qualities and samplings, baseline and progressive. Exit
code 1: a stage is slower than its limit.
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
from typing import Any

from harness import ROOT, BenchmarkError, add_images, benchmark_parser, find_images, run_main
from PIL import Image
from report import Table, conditions, load_note, publish

from zoofast import _core

QUALITIES = (50, 75, 90, 96)
SAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2, "gray": None}  # Pillow's numbers
ENCODED = 40  # images of each quality and sampling
PROGRESSIVE = 100  # images that are encoded progressive, with their own tables and sampling
MIN_ENTROPY_RATIO, MIN_RGB_RATIO = 1.9, 1.5  # times as fast as libjpeg-turbo
MIN_PROGRESSIVE_RATIO = 1.5  # the crop's window, with libjpeg-turbo's whole picture
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

    @property
    def window_ratio(self) -> float:
        """libjpeg-turbo's time for the whole picture divided by ours for the crop's window."""
        return self.stages["libjpeg-turbo rgb"].median / self.stages["zoofast window"].median

    def progressive_row(self, name: str) -> list[str]:
        theirs, ours = self.stages["libjpeg-turbo rgb"], self.stages["zoofast rgb"]
        return [
            name,
            str(ours.files),
            f"{ours.nbytes / 1e3:.0f}",
            f"{ours.nbytes * 8 / ours.pixels:.1f}",
            f"{theirs.nbytes / theirs.median / 1e6:.0f}",
            f"{ours.nbytes / ours.median / 1e6:.0f}",
            f"{self.ratio('rgb'):.2f}",
            f"{self.window_ratio:.2f}",
        ]

    def row(self, name: str) -> list[str]:
        entropy, rgb = self.stages["zoofast coefficients"], self.stages["zoofast rgb"]
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
            f"{self.window_ratio:.2f}",
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
PROGRESSIVE_HEADINGS = [
    "progressive",
    "files",
    "kB",
    "bits/pixel",
    "libjpeg-turbo, RGB MB/s",
    "RGB MB/s",
    "× libjpeg-turbo",
    "crop only, × its full RGB",
]


def build(folder: Path) -> Path:
    program = folder / "jpeg_stages"
    sources = [ROOT / "benchmarks" / "jpeg_stages.c"]
    sources += [ROOT / "csrc/levels.c", ROOT / "csrc/decode.c"]
    sources += sorted((ROOT / "csrc").glob("jpeg_*.c"))
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-ffp-contract=off"]
    includes = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests/core/native'}"]
    compiler = os.environ.get("CC", "cc")
    command = [compiler, *flags, *includes, *map(str, sources), "-ljpeg", "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"cannot build jpeg_stages: {done.stderr.strip().splitlines()[-1]}")
    return program


def measure(
    program: Path, paths: Sequence[Path], rounds: int, progressive: bool = False
) -> list[Group]:
    """The stages of all files, then of each kind of file."""
    command = [str(program), "-t", "-r", str(rounds), "-i", _core.isa()]
    if progressive:
        command.append("-p")
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"jpeg_stages: {done.stderr.strip().splitlines()[-1]}")
    groups: dict[str, dict[str, Stage]] = {}
    for line in done.stdout.splitlines():
        kind, name, files, *numbers = line.split("\t")
        stage = Stage(kind, name, int(files), *map(float, numbers))
        groups.setdefault(kind, {})[name] = stage
    return [Group(kind, stages) for kind, stages in groups.items()]


def encode(
    paths: Sequence[Path], folder: Path, quality: int, sampling: int | None, progressive: bool
) -> list[Path]:
    encoded = []
    for path in paths:
        options: dict[str, Any] = {"quality": quality, "progressive": progressive}
        if sampling is not None:
            options["subsampling"] = sampling
        with Image.open(path) as image:
            target = folder / path.name
            image.convert("L" if sampling is None else "RGB").save(target, "JPEG", **options)
        encoded.append(target)
    return encoded


def encode_progressive(paths: Sequence[Path], folder: Path) -> list[Path]:
    """With the quantization tables and the sampling that they have."""
    encoded = []
    for path in paths:
        with Image.open(path) as image:
            target = folder / path.name
            image.save(target, "JPEG", quality="keep", progressive=True)
        encoded.append(target)
    return encoded


def measure_progressive(
    program: Path, paths: Sequence[Path], folder: Path, rounds: int
) -> list[Group]:
    """All progressive files, then those of each sampling."""
    here = folder / "progressive"
    here.mkdir()
    some = paths[:: max(1, len(paths) // PROGRESSIVE)][:PROGRESSIVE]
    return measure(program, encode_progressive(some, here), rounds, progressive=True)


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
        progressive = measure_progressive(program, images.paths, folder, args.rounds)
        progressive_rows = [
            group.progressive_row(NAMES.get(group.kind, group.kind)) for group in progressive
        ]
        for is_progressive in (False, True):
            for quality in QUALITIES:
                for name, sampling in SAMPLINGS.items():
                    here = folder / "encoded"
                    here.mkdir()
                    files = encode(some, here, quality, sampling, is_progressive)
                    group = measure(program, files, args.rounds, is_progressive)[0]
                    shutil.rmtree(here)
                    label = f"quality {quality}, {name}"
                    if is_progressive:
                        progressive.append(group)
                        progressive_rows.append(group.progressive_row(label))
                    else:
                        encoded.append(group)
                        rows.append(group.row(label))
    tables = {
        "JPEG decoding": Table(HEADINGS, rows),
        "progressive JPEG decoding": Table(PROGRESSIVE_HEADINGS, progressive_rows),
    }
    about = (
        f"{images.description}, and {len(some)} of them encoded again; "
        f"level {_core.isa()}, one thread, bytes in memory; medians of {args.rounds} rounds in "
        f"turn; ticks of the time stamp counter; {conditions(note)}"
    )
    figures = {
        "as they are": [asdict(s) for group in groups for s in group.stages.values()],
        "encoded": [asdict(s) for group in encoded for s in group.stages.values()],
        "progressive": [asdict(s) for group in progressive for s in group.stages.values()],
    }
    publish(args, "jpeg", tables, about, {"stages": figures})
    everything = groups[0]
    ratios = everything.ratio("coefficients"), everything.ratio("rgb")
    if (
        ratios[0] < MIN_ENTROPY_RATIO
        or ratios[1] < MIN_RGB_RATIO
        or progressive[0].window_ratio < MIN_PROGRESSIVE_RATIO
    ):
        print("zoofast: the decoder is slower than its limit", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = benchmark_parser("Our JPEG decoders and libjpeg-turbo.", rounds=9)
    add_images(parser)
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
