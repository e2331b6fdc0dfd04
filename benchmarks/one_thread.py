"""What cases.py and zoo.py share: peers in one process and one thread, timed in turn."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from harness import Timing, in_turn
from numpy.typing import NDArray
from report import Table, publish

Prepare = Callable[[bytes], NDArray[Any]]
OURS = "zoofast"


def measure(
    prepares: Mapping[str, Prepare], images: Sequence[bytes], rounds: int, what: str
) -> dict[str, Timing]:
    """The time of each peer for an image."""
    timings = {name: Timing() for name in prepares}

    def once(name: str) -> None:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        for data in images:
            prepares[name](data)
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
        timings[name].seconds.append(seconds / len(images))
        timings[name].cpu_seconds.append(cpu_seconds / len(images))

    in_turn([partial(once, name) for name in prepares], rounds, what)
    return timings


def ratio(timings: Mapping[str, Timing], name: str) -> float:
    """A peer's CPU time divided by zoofast's."""
    return timings[name].cpu_ratio_to(timings[OURS])


def report_cases(
    args: argparse.Namespace,
    name: str,
    title: str,
    measured: Mapping[str, tuple[Sequence[str], Mapping[str, Timing]]],
    headings: Sequence[str],
    about: str,
) -> int:
    """Publishes a row for each case. Returns the exit code: 1 where a peer is faster than zoofast.

    measured: case -> (further cells of its row, the timings of its peers). headings: of the case
    and the further cells.
    """
    rows, slower, peers = [], [], []
    for case, (cells, timings) in measured.items():
        peers = [peer for peer in timings if peer != OURS]
        ratios = [ratio(timings, peer) for peer in peers]
        milliseconds = statistics.median(timings[OURS].cpu_seconds) * 1e3
        rows.append([case, *cells, f"{milliseconds:.3f}", *(f"{x:.2f}" for x in ratios)])
        slower += [f"{case}: {peer}" for peer, x in zip(peers, ratios, strict=True) if x < 1]
    columns = [*headings, "zoofast, CPU ms/image", *(f"{peer} ÷ zoofast" for peer in peers)]
    figures = {
        case: {peer: timing.as_dict() for peer, timing in timings.items()}
        for case, (_, timings) in measured.items()
    }
    publish(args, name, {title: Table(columns, rows)}, about, {"cases": figures})
    for line in slower:
        print(f"zoofast: slower than a peer: {line}", file=sys.stderr)
    return 1 if slower else 0
