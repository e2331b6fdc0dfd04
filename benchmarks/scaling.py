"""Threads and memory: how the Loader's rate grows with threads, and that its memory does not.

As a control, as many processes of one thread, which share nothing: what they fall short of is the
machine's doing.

    python benchmarks/scaling.py [--images DIR] [--rounds N] [--many N] [--json FILE] [--write]

Exit code 1: more images took more memory.
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

from harness import BenchmarkError, Images, Timing, benchmark_parser, find_images, in_turn, run_main
from report import RESULTS, Table, load_note, machine, replace_block, today, write_json

from zoofast import Loader, load_recipe
from zoofast.base.cpus import usable_cpus
from zoofast.preprocess.sources import Item, Source

RECIPE = load_recipe("alexnet")
PASSES = 7  # over the images, per round: starting and ending are a small part of it
GROWTH = 1.1  # memory for many images may be this times that for few

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
# not getrusage, whose peak begins with that of the process that started this one
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
    print("done", flush=True)
"""


class Processes:
    """Independent processes that prepare the same images at the same time, one thread each."""

    def __init__(self, images: Images, count: int) -> None:
        self.timing = Timing()
        command = [sys.executable, "-c", ALONE, str(Path(__file__).parent)]
        self._all = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        self._images = PASSES * len(images.paths) * count
        paths = json.dumps([str(path.resolve()) for path in images.paths])
        for process in self._all:
            self._say(process, paths)

    def _say(self, process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin
        print(line, file=process.stdin, flush=True)

    def run(self, counts: bool = True) -> None:
        """One round; adds the seconds per image."""
        begin = time.perf_counter()
        for process in self._all:
            self._say(process, "go")
        for process in self._all:
            assert process.stdout
            if process.stdout.readline() != "done\n":
                raise BenchmarkError(f"a process of one thread ended ({process.wait()})")
        if counts:
            self.timing.seconds.append((time.perf_counter() - begin) / self._images)

    def close(self) -> None:
        for process in self._all:
            assert process.stdin
            process.stdin.close()
            process.wait()


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


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, … and `most`."""
    doubling = itertools.takewhile(lambda n: n < most, (2**i for i in itertools.count()))
    return [*doubling, most]


def run(args: argparse.Namespace) -> int:
    images = find_images(args.images, args.limit)
    note, most = load_note(), args.threads or usable_cpus()
    timings = {n: Timing() for n in thread_counts(most)}
    measure(images, most, Timing())  # reads the files into the page cache
    control = Processes(images, most)
    try:
        control.run(counts=False)
        contenders = [partial(measure, images, n, timing) for n, timing in timings.items()]
        in_turn([*contenders, control.run], args.rounds, "threads")
    finally:
        control.close()
    rows, speedup = [], {}
    for n, timing in timings.items():
        speedup[n] = 1 / timing.ratio_to(timings[1])
        low, high = min(timing.seconds) * 1e3, max(timing.seconds) * 1e3
        row = [str(n), f"{timing.median * 1e3:.3f}", f"{low:.3f}…{high:.3f}"]
        cpu = statistics.median(timing.cpu_seconds) * 1e3
        rows.append([*row, f"{1 / timing.median:,.0f}", f"{speedup[n]:.2f}", f"{cpu:.3f}"])
    alone, low, high = control.timing, *(f(control.timing.seconds) * 1e3 for f in (min, max))
    row = [f"{most} processes of one", f"{alone.median * 1e3:.3f}", f"{low:.3f}…{high:.3f}"]
    rows.append([*row, f"{1 / alone.median:,.0f}", f"{1 / alone.ratio_to(timings[1]):.2f}", ""])
    headings = ["threads", "ms/image", "min…max", "images/s", "× one thread", "CPU ms/image"]
    threads_table = Table(headings, rows)

    memory = {count: peak_memory(images, count, most) for count in (args.few, args.many)}
    memory_table = Table(
        ["images", "peak memory, MB"],
        [[f"{count:,}", f"{nbytes / 1e6:,.1f}"] for count, nbytes in memory.items()],
    )
    about = (
        f"{images.what}, files in the page cache, Loader to memory; medians of {args.rounds} "
        f"rounds; memory with {most} threads, images repeated; {machine()}; {note}; {today()}"
    )
    threads_table.show("Threads")
    memory_table.show("Memory")
    print(about)
    if args.json:
        results = {str(n): timing.as_dict() for n, timing in timings.items()}
        write_json(
            args.json,
            {
                "benchmark": "scaling",
                "about": about,
                "threads": results,
                "processes": control.timing.as_dict(),
                "speedup": {str(n): ratio for n, ratio in speedup.items()},
                "peak_memory_nbytes": {str(count): nbytes for count, nbytes in memory.items()},
            },
        )
    if args.write:
        text = f"{about}.\n\n{threads_table.markdown()}\n\n{memory_table.markdown()}"
        replace_block(RESULTS, "scaling", text)
    if memory[args.many] > GROWTH * memory[args.few]:
        print("zoofast: memory grows with the number of images", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = benchmark_parser("Threads and memory.", rounds=7)
    parser.add_argument("--threads", type=int, metavar="N", help="up to; default: all usable CPUs")
    parser.add_argument("--few", type=int, default=300, metavar="N", help="default: 300")
    parser.add_argument("--many", type=int, default=20_000, metavar="N", help="default: 20000")
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
