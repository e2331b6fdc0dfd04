"""Preprocessing to disk: bins, and the limits that computing alone and writing alone set.

    python benchmarks/disk.py [--images DIR] [--folder DIR] [--count N] [--rounds N] [--json FILE]
                              [--write]

In turn, each in a new folder: zoofast prepares COUNT images into files; zoofast prepares the same
images in memory only; the function that zoofast writes with writes as many files of the same size,
with one thread and with several; the guide's script prepares images into files. --folder chooses
the disk.

Nothing is deleted before the end, and the folders are spread over the disk: for five minutes after
a file was deleted, ext4 skips its inode whenever it makes a file nearby. A benchmark that deletes
its files would measure that.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

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
from peers.guide_script import prepare_strided
from report import Table, conditions, load_note, publish

from zoofast import Loader, _core, load_recipe
from zoofast.base.cpus import usable_cpus
from zoofast.base.text import counted
from zoofast.commands.shared.arguments import positive
from zoofast.preprocess.folder import PrepOptions, prepare_folder
from zoofast.preprocess.sources import Item, Source

RECIPE = load_recipe("alexnet")
# linux/fs.h
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x00020000
GUIDE_COUNT = 100  # images for the guide's script, which is slow


def spread_folders(folder: Path) -> None:
    """Asks ext4 to put the folders in `folder` far from each other, as `chattr +T` does. Other
    file systems refuse, and do not need it."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        flags = int.from_bytes(fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)), sys.byteorder)
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, (flags | FS_TOPDIR_FL).to_bytes(8, sys.byteorder))
    except OSError:
        pass
    finally:
        os.close(fd)


class Contenders:
    """What is timed; each method returns seconds per image."""

    def __init__(self, images: Images, count: int, folder: Path) -> None:
        paths = list(itertools.islice(itertools.cycle(images.paths), count))
        self.items = [Item(f"{i:06d}", str(path)) for i, path in enumerate(paths)]
        self.folder = folder

    def fresh_folder(self) -> Path:
        """An empty folder. The files of earlier runs are on the disk by then."""
        os.sync()
        return Path(tempfile.mkdtemp(dir=self.folder))

    def prepare(self, threads: int) -> float:
        """`zoofast prep`."""
        folder, source = self.fresh_folder(), Source("files", self.items)
        begin = time.perf_counter()
        report = prepare_folder(source, folder, RECIPE, PrepOptions(threads=threads))
        seconds = time.perf_counter() - begin
        if report.prepared != len(self.items):
            raise BenchmarkError(f"prepared {report.prepared} of {len(self.items)}")
        return seconds / len(self.items)

    def compute(self, threads: int) -> float:
        """The same in memory only."""
        begin = time.perf_counter()
        done = 0
        with Loader(Source("files", self.items), RECIPE, threads=threads) as loader:
            for batch in loader:
                done += len(batch.names)
        if done != len(self.items):
            raise BenchmarkError(f"prepared {done} of {len(self.items)}")
        return (time.perf_counter() - begin) / done

    def write(self, threads: int) -> float:
        """Writes page-aligned buffers, by the function that the core writes with."""
        folder = self.fresh_folder()
        paths = [str(folder / f"{item.name}.bin") for item in self.items]
        errors: list[Exception] = []

        def work(mine: list[str]) -> None:
            buffer = _core.Batch(RECIPE.plan(), 1, True).tensor_bytes(0)
            try:
                for path in mine:
                    _core.write_file(path, path + ".part", buffer)
            except OSError as error:
                errors.append(error)

        workers = [threading.Thread(target=work, args=(paths[i::threads],)) for i in range(threads)]
        begin = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - begin
        if errors:
            raise BenchmarkError(f"{self.folder}: {errors[0]}")
        return seconds / len(self.items)

    def guide(self) -> float:
        """The guide's script, one process."""
        folder, items = self.fresh_folder(), self.items[:GUIDE_COUNT]
        begin = time.perf_counter()
        for item in items:
            prepare_strided(Path(item.path).read_bytes()).tofile(folder / f"{item.name}.bin")
        return (time.perf_counter() - begin) / len(items)


def run(args: argparse.Namespace) -> int:
    images = find_images(args.images, args.limit)
    folder = args.folder or Path(tempfile.gettempdir())
    counts = sorted({1, usable_cpus()})
    runs_to_files = args.rounds * (2 * len(counts) + 1)
    needed = runs_to_files * args.count * RECIPE.nbytes
    if not folder.is_dir() or shutil.disk_usage(folder).free < needed:
        raise BenchmarkError(
            f"{folder}: not a folder with {needed:,} bytes free; name another by --folder"
        )
    with tempfile.TemporaryDirectory(prefix="zoofast-bench-", dir=folder) as scratch:
        spread_folders(Path(scratch))
        return compare(args, images, Contenders(images, args.count, Path(scratch)), counts)


def compare(
    args: argparse.Namespace, images: Images, contenders: Contenders, counts: list[int]
) -> int:
    """Times all, and publishes the figures."""
    note = load_note()
    runs: dict[str, Callable[[], float]] = {"guide's script, to files": contenders.guide}
    for n in counts:
        runs[f"raw writing, {counted(n, 'thread')}"] = partial(contenders.write, n)
        runs[f"zoofast in memory, {counted(n, 'thread')}"] = partial(contenders.compute, n)
        runs[f"zoofast to files, {counted(n, 'thread')}"] = partial(contenders.prepare, n)
    timings = {name: Timing() for name in runs}

    def once(name: str) -> None:
        timings[name].seconds.append(runs[name]())

    in_turn([partial(once, name) for name in runs], args.rounds, "disk")

    rows = []
    for name, timing in timings.items():
        rate = 1 / timing.median
        speed = f"{rate * RECIPE.nbytes / 1e6:,.0f}"
        rows.append([name, *timing.milliseconds(), f"{rate:,.0f}", speed])
    table = Table(["", "ms/image", "min…max", "images/s", "MB/s of tensors"], rows)
    reached = {}
    for n in counts:
        mine = timings[f"zoofast to files, {counted(n, 'thread')}"]
        bounds = [
            timings[f"zoofast in memory, {counted(n, 'thread')}"],
            timings["raw writing, 1 thread"],
        ]
        slower = max(bounds, key=lambda timing: timing.median)
        reached[n] = 1 / mine.ratio_to(slower)
    shares = "; ".join(f"{share:.0%} with {counted(n, 'thread')}" for n, share in reached.items())
    verdict = f"The rate to files ÷ the lower of the rates of computing and raw writing: {shares}."
    about = (
        f"{images.description}, repeated to {args.count}, as {RECIPE.nbytes:,}-byte files; medians "
        f"of {args.rounds} rounds; {conditions(note)}"
    )
    runs_as_dict = {name: timing.as_dict() for name, timing in timings.items()}
    figures = {"runs": runs_as_dict, "reached": reached}
    publish(args, "disk", {"Preprocessing to disk": table}, about, figures, [verdict])
    return 0


def main() -> int:
    parser = benchmark_parser("Preprocessing to disk.", rounds=5)
    add_images(parser)
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to write; default: /tmp")
    parser.add_argument("--count", type=positive, default=500, metavar="N", help="default: 500")
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
