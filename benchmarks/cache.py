"""The pixel cache: the Loader without it, filling it, and reading from it, on one thread.

Beside it a plain loop writes the same pixels to a new file: what the kernel takes for it.

    python benchmarks/cache.py [--images DIR] [--folder DIR] [--threads N] [--rounds N]
                               [--json FILE] [--write]

All results are compared with those of Pillow and NumPy first. Exit code 1: one differs, or a figure
misses its limit.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from harness import (
    BenchmarkError,
    Images,
    Timing,
    add_images,
    benchmark_parser,
    find_images,
    in_turn,
    run_main,
)
from PIL import Image
from report import Table, conditions, load_note, publish

from zoofast import Loader, PixelCache, Recipe, Source, load_recipe, open_source
from zoofast.base.text import counted
from zoofast.commands.shared import console
from zoofast.commands.shared.arguments import thread_count
from zoofast.preprocess.pixel_file import slot_nbytes
from zoofast.preprocess.reference import prepare_image

FLOAT = load_recipe("alexnet")
RECIPES = {"float32": FLOAT, "uint8": FLOAT.with_output(dtype="uint8", layout="NHWC")}
PASSES = 4  # names of each image, so that start and end take a small part of the time
MIN_WARM = {"float32": 5.0, "uint8": 12.0}  # cold run's time divided by that from the cache
MAX_FILL = 1.05  # time of a run that fills the cache, divided by that of a cold run


class Run:
    """One way of preparing all images. cache: None for a cold run."""

    def __init__(self, source: Source, recipe: Recipe, threads: int) -> None:
        self.source, self.recipe, self.threads = source, recipe, threads
        self.timing = Timing()

    def time(self, cache: PixelCache | None, cached: int) -> None:
        """cached: how many images must come from the cache."""
        done, begin, begin_cpu = 0, time.perf_counter(), time.process_time()
        with Loader(self.source, self.recipe, threads=self.threads, cache=cache) as loader:
            for batch in loader:
                done += len(batch.names)
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
        if (done, loader.stats.decoders["cache"]) != (len(self.source.items), cached):
            raise BenchmarkError(f"prepared {done}, {loader.stats.decoders}")
        self.timing.seconds.append(seconds / done)
        self.timing.cpu_seconds.append(cpu_seconds / done)

    def fill(self, folder: Path) -> None:
        """Fills a new cache, which is removed after the time is taken."""
        with tempfile.TemporaryDirectory(dir=folder) as new:
            self.time(PixelCache(new, warn=fail), 0)


def write_alone(timing: Timing, folder: Path, count: int) -> None:
    """Writes as many bytes as a run that fills a cache of `count` images, and nothing else."""
    pixels = np.random.default_rng(1).bytes(FLOAT.plan().pixels_nbytes)
    with tempfile.TemporaryFile(dir=folder) as file:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        for i in range(count):
            os.pwrite(file.fileno(), pixels, i * slot_nbytes(len(pixels)))
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
    timing.seconds.append(seconds / count)
    timing.cpu_seconds.append(cpu_seconds / count)


def fail(text: str) -> None:
    raise BenchmarkError(text)


def linked(images: Images, folder: Path) -> Source:
    """The images, PASSES times, by links of different names."""
    for i, path in enumerate(itertools.chain.from_iterable([images.paths] * PASSES)):
        (folder / f"{i:06d}.JPEG").symlink_to(path.resolve())
    return open_source(folder)


def verify(images: Images, source: Source, threads: int, cache: PixelCache) -> None:
    """Fills `cache`. Compares what a cold run, filling and the cache give with Pillow's tensors."""
    names = [item.name for item in source.items[: len(images.paths)]]
    with console.progress("verify", 2 * len(images.paths)) as meter:
        for recipe in RECIPES.values():
            expected = {}
            for name, path in zip(names, images.paths, strict=True):
                with Image.open(path) as image:
                    expected[name] = prepare_image(image, recipe).tobytes()
                meter.advance(1)
            for used in (None, cache, cache):
                with Loader(source, recipe, threads=threads, cache=used) as loader:
                    for batch in loader:
                        for name, row in zip(batch.names, batch.array, strict=True):
                            if name in expected and row.tobytes() != expected[name]:
                                raise BenchmarkError(f"{name}: not equal to Pillow's tensor")


def run(args: argparse.Namespace) -> int:
    images, note, threads = find_images(args.images, args.limit), load_note(), args.threads
    with (
        tempfile.TemporaryDirectory(dir=args.folder) as temporary,
        linked(images, Path(temporary)) as source,
        tempfile.TemporaryDirectory(dir=args.folder) as caches,
    ):
        cache = PixelCache(Path(caches) / "warm", warn=fail)
        verify(images, source, threads, cache)
        alone = Timing()
        contenders = [partial(write_alone, alone, Path(caches), len(source.items))]
        runs: dict[str, Run] = {}
        for name, recipe in RECIPES.items():
            cold, fill, warm = (Run(source, recipe, threads) for _ in range(3))
            runs |= {f"{name}, cold": cold, f"{name}, fills": fill, f"{name}, warm": warm}
            contenders += [
                partial(cold.time, None, 0),
                partial(fill.fill, Path(caches)),
                partial(warm.time, cache, len(source.items)),
            ]
        in_turn(contenders, args.rounds, "cache")
    timings = {name: each.timing for name, each in runs.items()}
    rows, missed, ratios = [], [], {}
    for name, timing in timings.items():
        form, _, kind = name.partition(", ")
        cold_timing = timings[f"{form}, cold"]
        ratio = timing.ratio_to(cold_timing)
        ratios[name] = {"time": ratio, "cpu": timing.cpu_ratio_to(cold_timing)}
        shown = {"cold": "", "fills": f"{ratio:.3f} of cold", "warm": f"{1 / ratio:.1f}× as fast"}
        cpu = f"{1e3 * sum(timing.cpu_seconds) / len(timing.cpu_seconds):.3f}"
        rate = f"{1 / timing.median:,.0f}"
        rows.append([name, *timing.milliseconds(), cpu, rate, shown[kind]])
        if kind == "fills" and ratio > MAX_FILL:
            missed.append(f"{name}: {ratio:.3f}, limit {MAX_FILL}")
        if kind == "warm" and 1 / ratio < MIN_WARM[form]:
            missed.append(f"{name}: {1 / ratio:.1f}×, limit {MIN_WARM[form]}×")
    cpu = f"{1e3 * sum(alone.cpu_seconds) / len(alone.cpu_seconds):.3f}"
    rate = f"{1 / alone.median:,.0f}"
    rows.append(["the pixels, written by a plain loop", *alone.milliseconds(), cpu, rate, ""])
    timings["written alone"] = alone
    table = Table(["", "ms/image", "min…max", "CPU ms/image", "images/s", ""], rows)
    about = (
        f"{images.description}, {PASSES} names of each, {FLOAT.name}, files and pixels in the page "
        f"cache, {counted(threads, 'thread')} and as many that store pixels; medians of "
        f"{args.rounds} rounds; {conditions(note)}"
    )
    figures = {
        "timings": {name: timing.as_dict() for name, timing in timings.items()},
        "ratios": ratios,
    }
    publish(args, "cache", {"Pixel cache": table}, about, figures)
    if missed:
        print(f"zoofast: slower than its limit: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def main() -> int:
    parser = benchmark_parser("The pixel cache.", rounds=9)
    add_images(parser)
    parser.add_argument("--folder", type=Path, help="for caches (default: the system's temporary)")
    parser.add_argument("--threads", type=thread_count, default=1, help="default: 1")
    return run_main(run, parser)


if __name__ == "__main__":
    sys.exit(main())
