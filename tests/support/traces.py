"""Reads a trace file and checks what a trace viewer relies on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoofast.timing.trace import PROCESS


@dataclass(frozen=True)
class Slice:
    """One complete event; microseconds."""

    thread: str
    name: str
    begin: float
    end: float
    batch: int
    image: str


@dataclass
class Trace:
    """A sound trace. flows: batch -> threads in the order of the arrows."""

    threads: list[str] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    flows: dict[int, list[str]] = field(default_factory=dict)


def read_trace(path: str | os.PathLike[str]) -> Trace:
    """Reads a file that TraceWriter wrote.

    Raises ValueError: not JSON, an event without what its phase needs, two overlapping slices on a
    thread, a flow without beginning or end, a flow whose steps run backwards, or a flow that points
    at no slice.
    """
    try:
        return _check(json.loads(Path(path).read_bytes())["traceEvents"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error!r}") from error


def _check(events: list[dict[str, Any]]) -> Trace:
    trace = Trace()
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    places = {
        e["tid"]: int(e["args"]["sort_index"]) for e in events if e["name"] == "thread_sort_index"
    }
    trace.threads = [names[thread] for thread in sorted(names, key=lambda thread: places[thread])]
    flows: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        if event["pid"] != PROCESS:
            raise ValueError(f"process {event['pid']} has no name")
        if event["ph"] == "X":
            begin, duration = float(event["ts"]), float(event["dur"])
            if begin < 0 or duration < 0:
                raise ValueError(f"negative time in {event}")
            args = event["args"]
            thread = names[event["tid"]]
            trace.slices.append(
                Slice(
                    thread,
                    event["name"],
                    begin,
                    begin + duration,
                    int(args["batch"]),
                    args.get("image", ""),
                )
            )
        elif event["ph"] in ("s", "t", "f"):
            flows.setdefault(int(event["id"]), []).append(event)
        elif event["ph"] != "M":
            raise ValueError(f"unknown phase {event['ph']!r}")
    _check_overlaps(trace.slices)
    begins = {(piece.thread, piece.begin, piece.batch) for piece in trace.slices}
    for batch, points in flows.items():
        phases = "".join(point["ph"] for point in points)
        if (
            phases[0] != "s"
            or phases[-1] != "f"
            or phases.strip("sf").strip("t")
            or len(phases) < 2
        ):
            raise ValueError(f"flow {batch} has the phases {phases}")
        times = [float(point["ts"]) for point in points]
        if times != sorted(times):
            raise ValueError(f"flow {batch} runs backwards")
        for point, at in zip(points, times, strict=True):
            if (names[point["tid"]], at, batch) not in begins:
                raise ValueError(f"flow {batch} points at no slice of its batch: {point}")
        trace.flows[batch] = [names[point["tid"]] for point in points]
    return trace


def _check_overlaps(slices: list[Slice]) -> None:
    nanosecond = 1e-3
    last: dict[str, Slice] = {}
    for piece in sorted(slices, key=lambda piece: (piece.thread, piece.begin, piece.end)):
        before = last.get(piece.thread)
        if before is not None and piece.begin < before.end - nanosecond:
            raise ValueError(f"on {piece.thread}, {piece} begins before {before} ends")
        last[piece.thread] = piece
