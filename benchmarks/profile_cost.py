"""What profiling costs: the Loader without any clock, with the core's timers, and traced.

    python benchmarks/profile_cost.py [--images DIR] [--rounds N] [--json FILE] [--write]

CPU time per image is compared, which a busy machine disturbs least; rounds are short and many.
Exit code 1: the core's timers and the timeline cost more than 2 %.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from harness import (
    ROOT,
    BenchmarkError,
    Images,
    Timing,
    benchmark_parser,
    find_images,
    in_turn,
    run_main,
)
from report import RESULTS, Table, load_note, machine, replace_block, today, write_json

from zoofast import _core
from zoofast.base.cpus import usable_cpus

FLOOR = 1.02
PROFILED = "timers and timeline"  # what `zoofast profile` always has
PER_ROUND = 64  # images

WORKER = """
import importlib.util, json, sys, time
core, kind, threads, trace = json.loads(sys.argv[1])
spec = importlib.util.spec_from_file_location("zoofast._core", core)
sys.modules["zoofast._core"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from zoofast import load_recipe
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.sources import Item, Source
from zoofast.timing.timeline import Timeline
from zoofast.timing.trace import TraceWriter
paths = json.loads(sys.stdin.readline())
items = [Item(f"{i:06d}", path) for i, path in enumerate(paths)]

begin = time.monotonic_ns()
writer = TraceWriter(trace, begin) if kind == "trace" else None
timeline = Timeline(begin, writer) if kind else None
number = 0
for _ in sys.stdin:
    begin, cpu, done = time.perf_counter(), time.process_time(), 0
    with Loader(Source("files", items), load_recipe("squeezenet1_1"), threads=threads) as loader:
        for batch in loader:
            done += len(batch.names)
            if timeline is not None:
                timeline.prepared(number, batch, time.monotonic_ns())
                timeline.finish(number, len(batch.names), time.monotonic_ns())
                number += 1
    took = (time.perf_counter() - begin, time.process_time() - cpu)
    assert done == len(items), f"prepared {done} of {len(items)}"
    print(json.dumps([seconds / len(items) for seconds in took]), flush=True)
"""


class Contender:
    """A process that prepares all images each time it is asked. A context manager."""

    def __init__(self, core: str, kind: str, threads: int, images: Images, folder: str) -> None:
        self.timing = Timing()
        setting = [core, kind, threads, os.path.join(folder, "trace.json")]
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(setting)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._say(json.dumps([str(path.resolve()) for path in images.paths[:PER_ROUND]]))

    def _say(self, line: str) -> None:
        assert self._process.stdin
        print(line, file=self._process.stdin, flush=True)

    def run(self, counts: bool = True) -> None:
        """One round; the first one, to warm up, does not count."""
        self._say("go")
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"a contender's process ended ({self._process.wait()})")
        seconds, cpu_seconds = json.loads(line)
        if counts:
            self.timing.seconds.append(seconds)
            self.timing.cpu_seconds.append(cpu_seconds)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def build_without_clock(folder: str) -> str:
    """The core, built with a clock that stands still; its path."""
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--force", "--build-lib", folder,
         "--build-temp", os.path.join(folder, "objects")],
        cwd=ROOT,
        env={**os.environ, "CFLAGS": f"{os.environ.get('CFLAGS', '')} -DZF_NO_CLOCK"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        raise BenchmarkError(f"cannot build the core: {done.stderr.strip().splitlines()[-1]}")
    return str(next(Path(folder, "zoofast").glob("_core.*.so")))


def cpu_ratio(timing: Timing, other: Timing) -> float:
    """How many times as much CPU time as `other`: the median over rounds."""
    pairs = zip(timing.cpu_seconds, other.cpu_seconds, strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)


def run(args: argparse.Namespace) -> int:
    images, threads, note = find_images(args.images, args.limit), usable_cpus(), load_note()
    with tempfile.TemporaryDirectory() as folder:
        bare = build_without_clock(folder)
        kinds = {
            "no clock": (bare, ""),
            "timers": (_core.__file__, ""),
            PROFILED: (_core.__file__, "timeline"),
            "and --trace": (_core.__file__, "trace"),
        }
        contenders = {
            name: Contender(core, kind, threads, images, folder)
            for name, (core, kind) in kinds.items()
        }
        try:
            for contender in contenders.values():
                contender.run(counts=False)
            in_turn([partial(c.run) for c in contenders.values()], args.rounds, "cost")
        finally:
            for contender in contenders.values():
                contender.close()
    base = contenders["no clock"].timing
    ratios = {name: cpu_ratio(c.timing, base) for name, c in contenders.items()}
    rows = [
        [
            name,
            f"{statistics.median(c.timing.cpu_seconds) * 1e6:,.1f}",
            f"{c.timing.median * 1e6:,.1f}",
            f"{(ratios[name] - 1) * 100:+.2f} %",
        ]
        for name, c in contenders.items()
    ]
    table = Table(["", "CPU µs/image", "µs/image by the clock", "CPU time"], rows)
    about = (
        f"{PER_ROUND} at a time of {images.what}, squeezenet1_1 to memory, {threads} threads; "
        f"medians of {args.rounds} rounds in turn; {machine()}; {note}; {today()}"
    )
    table.show("What profiling costs")
    print(about)
    if args.json:
        timings = {name: c.timing.as_dict() for name, c in contenders.items()}
        write_json(
            args.json,
            {"benchmark": "profile_cost", "about": about, "timings": timings, "cpu": ratios},
        )
    if args.write:
        replace_block(RESULTS, "profile_cost", f"{about}.\n\n{table.markdown()}")
    if ratios[PROFILED] > FLOOR:
        print(f"zoofast: profiling costs more than {FLOOR - 1:.0%}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = benchmark_parser("What profiling costs.", rounds=301)
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
