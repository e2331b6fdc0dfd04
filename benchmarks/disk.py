"""Preprocessing to disk: bins, beside what the slower of computing and writing allows.

    python benchmarks/disk.py [--images DIR] [--folder DIR] [--count N] [--rounds N] [--json FILE]
                              [--write]

In turn, each in a fresh folder: zoofast's preparation of COUNT images into files; the same images
into memory only; raw writing of as many files of the same size by the same function, one after
another and with threads; and the guide's script. Run it on the disk that matters: --folder.

Nothing is deleted before the end, and folders are spread over the disk: for five minutes ext4 steps
over every deleted inode near a folder whenever it makes a file there, which a benchmark that cleans
up after itself would measure instead of the writing.
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

from harness import BenchmarkError, Images, Timing, benchmark_parser, find_images, in_turn, run_main
from peers.guide_script import prepare_strided
from report import RESULTS, Table, load_note, machine, replace_block, today, write_json

from zoofast import Loader, _core, load_recipe
from zoofast.base.cpus import usable_cpus
from zoofast.preprocess.folder import PrepOptions, prepare_folder
from zoofast.preprocess.sources import Item, Source

RECIPE = load_recipe("alexnet")
# linux/fs.h
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x00020000
GUIDE_COUNT = 100  # images for the guide's script, which is slow


def threads(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"


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
    """What is timed; each call prepares or writes and returns the seconds per image."""

    def __init__(self, images: Images, count: int, folder: Path) -> None:
        paths = list(itertools.islice(itertools.cycle(images.paths), count))
        self.items = [Item(f"{i:06d}", str(path)) for i, path in enumerate(paths)]
        self.folder = folder

    def fresh_folder(self) -> Path:
        """An empty folder; what earlier runs wrote is on the disk by then."""
        os.sync()
        return Path(tempfile.mkdtemp(dir=self.folder))

    def prepare(self, threads: int) -> float:
        """`zoofast prep`, whole."""
        folder, source = self.fresh_folder(), Source("files", self.items)
        begin = time.perf_counter()
        report = prepare_folder(source, folder, RECIPE, PrepOptions(threads=threads))
        seconds = time.perf_counter() - begin
        if report.prepared != len(self.items):
            raise BenchmarkError(f"prepared {report.prepared} of {len(self.items)}")
        return seconds / len(self.items)

    def compute(self, threads: int) -> float:
        """The same into memory."""
        begin = time.perf_counter()
        done = 0
        with Loader(Source("files", self.items), RECIPE, threads=threads) as loader:
            for batch in loader:
                done += len(batch.names)
        if done != len(self.items):
            raise BenchmarkError(f"prepared {done} of {len(self.items)}")
        return (time.perf_counter() - begin) / done

    def write(self, threads: int) -> float:
        """Page-aligned buffers written by the function that the core writes with."""
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
        raise BenchmarkError(f"{folder}: no folder with {needed:,} bytes free; see --folder")
    with tempfile.TemporaryDirectory(prefix="zoofast-bench-", dir=folder) as scratch:
        spread_folders(Path(scratch))
        return compare(args, images, Contenders(images, args.count, Path(scratch)), counts)


def compare(
    args: argparse.Namespace, images: Images, contenders: Contenders, counts: list[int]
) -> int:
    """Times all, prints and writes."""
    note = load_note()
    runs: dict[str, Callable[[], float]] = {"guide's script, to files": contenders.guide}
    for n in counts:
        runs[f"raw writing, {threads(n)}"] = partial(contenders.write, n)
        runs[f"zoofast in memory, {threads(n)}"] = partial(contenders.compute, n)
        runs[f"zoofast to files, {threads(n)}"] = partial(contenders.prepare, n)
    timings = {name: Timing() for name in runs}

    def once(name: str) -> None:
        timings[name].seconds.append(runs[name]())

    in_turn([partial(once, name) for name in runs], args.rounds, "disk")

    rows = []
    for name, timing in timings.items():
        low, high = min(timing.seconds) * 1e3, max(timing.seconds) * 1e3
        rate = 1 / timing.median
        row = [name, f"{timing.median * 1e3:.3f}", f"{low:.3f}…{high:.3f}", f"{rate:,.0f}"]
        rows.append([*row, f"{rate * RECIPE.nbytes / 1e6:,.0f}"])
    table = Table(["", "ms/image", "min…max", "images/s", "MB/s of tensors"], rows)
    reached = {}
    for n in counts:
        mine = timings[f"zoofast to files, {threads(n)}"]
        bounds = [
            timings[f"zoofast in memory, {threads(n)}"],
            timings[f"raw writing, {threads(1)}"],
        ]
        slower = max(bounds, key=lambda timing: timing.median)
        reached[n] = 1 / mine.ratio_to(slower)
    said = "; ".join(f"{share:.0%} with {threads(n)}" for n, share in reached.items())
    verdict = f"To files, of what the slower of computing and raw sequential writing allows: {said}"
    about = (
        f"{images.what}, repeated to {args.count}, as {RECIPE.nbytes:,}-byte files; medians of "
        f"{args.rounds} rounds; {machine()}; {note}; {today()}"
    )
    table.show("Preprocessing to disk")
    print(f"{verdict}\n{about}")
    if args.json:
        results = {name: timing.as_dict() for name, timing in timings.items()}
        write_json(
            args.json, {"benchmark": "disk", "about": about, "runs": results, "reached": reached}
        )
    if args.write:
        replace_block(RESULTS, "disk", f"{about}.\n\n{table.markdown()}\n\n{verdict}.")
    return 0


def main() -> int:
    parser = benchmark_parser("Preprocessing to disk.", rounds=5)
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to write; default: /tmp")
    parser.add_argument("--count", type=int, default=500, metavar="N", help="default: 500")
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
