"""Threads and memory: how the Loader's rate grows with threads, and that its memory does not grow.

As a control, as many processes of one thread run at the same time. They share nothing, so they show
how well the machine itself scales.

    python benchmarks/scaling.py [--images DIR] [--rounds N] [--many N] [--json FILE] [--write]

Exit code 1: memory grows with the number of images.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from harness import (
    BenchmarkError,
    Images,
    LineProcess,
    Timing,
    add_images,
    benchmark_parser,
    find_images,
    in_turn,
    run_main,
)
from report import Table, conditions, load_note, publish

from zoofast import Loader, load_recipe
from zoofast.base.cpus import usable_cpus
from zoofast.commands.shared.arguments import positive, thread_count
from zoofast.preprocess.sources import Item, Source
from zoofast.profiling.profile import thread_counts

RECIPE = load_recipe("alexnet")
PASSES = 7  # over the images, per round, so that start and end take a small part of the time
MAX_GROWTH = 1.1  # of the memory, from few images to many

PEAK_MEMORY = """
import itertools, json, re, sys
from pathlib import Path
from zoofast import Loader, load_recipe
from zoofast.preprocess.sources import Item, Source
paths = json.load(sys.stdin)
count, threads = int(sys.argv[1]), int(sys.argv[2])
cycle = itertools.islice(itertools.cycle(paths), count)
items = [Item(f"{i:06d}", path) for i, path in enumerate(cycle)]
done = 0
with Loader(Source("files", items), load_recipe("alexnet"), threads=threads) as loader:
    for batch in loader:
        done += len(batch.names)
# The peak of getrusage includes that of the parent process; VmHWM does not.
peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps([done, int(peak[1]) * 1024]))
"""


ALONE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from harness import Images, Timing
from scaling import measure
images = Images([Path(path) for path in json.loads(sys.stdin.readline())], "")
for _ in sys.stdin:
    measure(images, 1, Timing())
    print("true", flush=True)
"""


class Processes:
    """Independent processes that prepare the same images at the same time, one thread each."""

    def __init__(self, images: Images, count: int) -> None:
        self.timing = Timing()
        command = ["-c", ALONE, str(Path(__file__).parent)]
        self._all = [LineProcess("a process of one thread", *command) for _ in range(count)]
        self._images = PASSES * len(images.paths) * count
        paths = json.dumps([str(path.resolve()) for path in images.paths])
        for process in self._all:
            process.send(paths)

    def run(self, counts: bool = True) -> None:
        """One round; adds the seconds per image."""
        begin = time.perf_counter()
        for process in self._all:
            process.send("go")
        for process in self._all:
            process.receive()
        if counts:
            self.timing.seconds.append((time.perf_counter() - begin) / self._images)

    def close(self) -> None:
        for process in self._all:
            process.close()


def measure(images: Images, threads: int, timing: Timing) -> None:
    """Adds the seconds per image, files (in the page cache) to memory."""
    paths = list(itertools.islice(itertools.cycle(images.paths), PASSES * len(images.paths)))
    source = Source("files", [Item(f"{i:06d}", str(path)) for i, path in enumerate(paths)])
    begin, begin_cpu, done = time.perf_counter(), time.process_time(), 0
    with Loader(source, RECIPE, threads=threads) as loader:
        for batch in loader:
            done += len(batch.names)
    if done != len(paths):
        raise BenchmarkError(f"prepared {done} of {len(paths)}")
    timing.seconds.append((time.perf_counter() - begin) / done)
    timing.cpu_seconds.append((time.process_time() - begin_cpu) / done)


def peak_memory(images: Images, count: int, threads: int) -> int:
    """Peak resident bytes of a process that prepares `count` images, repeated as needed."""
    run = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY, str(count), str(threads)],
        input=json.dumps([str(path.resolve()) for path in images.paths]),
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise BenchmarkError(f"memory: {run.stderr.strip().splitlines()[-1]}")
    done, nbytes = json.loads(run.stdout)
    if done != count:
        raise BenchmarkError(f"memory: prepared {done} of {count}")
    return int(nbytes)


def run(args: argparse.Namespace) -> int:
    images = find_images(args.images, args.limit)
    note, limit = load_note(), args.threads or usable_cpus()
    timings = {n: Timing() for n in thread_counts(limit)}
    measure(images, limit, Timing())  # reads the files into the page cache
    control = Processes(images, limit)
    try:
        control.run(counts=False)
        contenders = [partial(measure, images, n, timing) for n, timing in timings.items()]
        in_turn([*contenders, control.run], args.rounds, "threads")
    finally:
        control.close()
    rows, speedup = [], {}
    for n, timing in timings.items():
        speedup[n] = 1 / timing.ratio_to(timings[1])
        cpu = statistics.median(timing.cpu_seconds) * 1e3
        rate = f"{1 / timing.median:,.0f}"
        rows.append([str(n), *timing.milliseconds(), rate, f"{speedup[n]:.2f}", f"{cpu:.3f}"])
    alone = control.timing
    rate, ratio = f"{1 / alone.median:,.0f}", f"{1 / alone.ratio_to(timings[1]):.2f}"
    rows.append([f"{limit} processes of one thread", *alone.milliseconds(), rate, ratio, ""])
    headings = ["threads", "ms/image", "min…max", "images/s", "× one thread", "CPU ms/image"]
    threads_table = Table(headings, rows)

    memory = {count: peak_memory(images, count, limit) for count in (args.few, args.many)}
    memory_table = Table(
        ["images", "peak memory, MB"],
        [[f"{count:,}", f"{nbytes / 1e6:,.1f}"] for count, nbytes in memory.items()],
    )
    about = (
        f"{images.description}, files in the page cache, Loader to memory; medians of "
        f"{args.rounds} rounds; memory with {limit} threads, images repeated; {conditions(note)}"
    )
    figures = {
        "threads": {str(n): timing.as_dict() for n, timing in timings.items()},
        "processes": control.timing.as_dict(),
        "speedup": {str(n): times for n, times in speedup.items()},
        "peak_memory_nbytes": {str(count): nbytes for count, nbytes in memory.items()},
    }
    publish(args, "scaling", {"Threads": threads_table, "Memory": memory_table}, about, figures)
    if memory[args.many] > MAX_GROWTH * memory[args.few]:
        print("zoofast: memory grows with the number of images", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = benchmark_parser("Threads and memory.", rounds=7)
    add_images(parser)
    parser.add_argument(
        "--threads", type=thread_count, metavar="N", help="up to; default: all usable CPUs"
    )
    parser.add_argument("--few", type=positive, default=300, metavar="N", help="default: 300")
    parser.add_argument("--many", type=positive, default=20_000, metavar="N", help="default: 20000")
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
