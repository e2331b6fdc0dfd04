"""The cost of profiling: the Loader without a clock, with the core's timers, and with a trace.

    python benchmarks/profile_cost.py [--images DIR] [--rounds N] [--json FILE] [--write]

The CPU time per image is compared, since other work on the machine changes it least. Rounds are
short and many. Exit code 1: the core's timers and the timeline cost more than 2 %.
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
    LineProcess,
    Timing,
    add_images,
    benchmark_parser,
    find_images,
    in_turn,
    run_main,
)
from report import Table, conditions, load_note, publish

from zoofast import _core
from zoofast.base.cpus import usable_cpus
from zoofast.base.text import counted

MAX_COST = 0.02
PROFILED = "timers and timeline"  # as in `zoofast profile`
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


class Contender(LineProcess):
    """A process that prepares all images each time it is asked to."""

    def __init__(self, core: str, kind: str, threads: int, images: Images, folder: str) -> None:
        setting = [core, kind, threads, os.path.join(folder, "trace.json")]
        super().__init__(kind or "bare", "-c", WORKER, json.dumps(setting))
        self.timing = Timing()
        self.send(json.dumps([str(path.resolve()) for path in images.paths[:PER_ROUND]]))

    def run(self, counts: bool = True) -> None:
        """One round. counts: False for the first round, which warms up."""
        self.send("go")
        seconds, cpu_seconds = self.receive()
        if counts:
            self.timing.seconds.append(seconds)
            self.timing.cpu_seconds.append(cpu_seconds)


def build_without_clock(folder: str) -> str:
    """Builds the core with a clock that always returns 0; returns its path."""
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
    ratios = {name: c.timing.cpu_ratio_to(base) for name, c in contenders.items()}
    rows = [
        [
            name,
            f"{statistics.median(c.timing.cpu_seconds) * 1e6:,.1f}",
            f"{c.timing.median * 1e6:,.1f}",
            f"{(ratios[name] - 1) * 100:+.2f} %",
        ]
        for name, c in contenders.items()
    ]
    table = Table(["", "CPU µs/image", "µs/image, wall time", "CPU time"], rows)
    about = (
        f"{PER_ROUND} at a time of {images.description}, squeezenet1_1 to memory, "
        f"{counted(threads, 'thread')}; medians of {args.rounds} rounds in turn; {conditions(note)}"
    )
    timings = {name: c.timing.as_dict() for name, c in contenders.items()}
    figures = {"timings": timings, "cpu": ratios}
    publish(args, "profile_cost", {"The cost of profiling": table}, about, figures)
    if ratios[PROFILED] > 1 + MAX_COST:
        print(f"zoofast: profiling costs more than {MAX_COST:.0%}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = benchmark_parser("The cost of profiling.", rounds=301)
    add_images(parser)
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
