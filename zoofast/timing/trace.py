"""Chrome trace event files, as ui.perfetto.dev and chrome://tracing open them.

Format: "Trace Event Format", JSON object form. Threads are rows, stages are complete events
("X"), and each batch is a flow: arrows from the thread that began it to whoever had it last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from zoofast.errors import OutputError, ResultError

PROCESS = 1
PART = ".part"
PENDING = 1000  # events, until they are written
WAIT = "wait"  # the span that is no work on its batch, so no flow goes through it


def row_order(threads: Iterable[str]) -> list[str]:
    """Threads as rows: kinds ("worker 3" is a worker) as they first came, each by number."""
    kinds: dict[str, list[tuple[int, str]]] = {}
    for name in threads:
        kind = name.rstrip("0123456789")
        kinds.setdefault(kind, []).append((int(name[len(kind) :] or 0), name))
    return [name for members in kinds.values() for _, name in sorted(members)]


class TraceWriter:
    """Writes spans as they come; it holds a few, and one point per thread of each open batch.

    The file stands under its final name only after the `with` block ended without an exception.
    Times are nanoseconds of one clock; `origin_ns` becomes the trace's zero. Not thread-safe:
    zoofast.timing.timeline.Timeline, which feeds it, locks. Raises OutputError.
    """

    def __init__(
        self, path: str | os.PathLike[str], origin_ns: int, process: str = "zoofast"
    ) -> None:
        self._path = Path(path)
        self._part = self._path.with_name(self._path.name + PART)
        self._origin = origin_ns
        self._threads: dict[str, int] = {}
        self._flows: dict[int, dict[int, int]] = {}  # batch -> thread -> its first begin
        self._pending: list[str] = []
        self._last_of: tuple[int, str] | None = None  # whose arguments _args is
        self._args = ""
        try:
            self._file: TextIO = self._part.open("w", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
        first = {"ph": "M", "name": "process_name", "args": {"name": process}, "pid": PROCESS}
        self._put('{"displayTimeUnit":"ms","traceEvents":[\n' + json.dumps(first))

    def thread(self, name: str) -> int:
        """The number of thread `name`, which gets a row."""
        number = self._threads.get(name)
        if number is None:
            number = self._threads[name] = len(self._threads) + 1
            self._event({"ph": "M", "name": "thread_name", "args": {"name": name}}, number)
        return number

    def span(
        self, thread: str, name: str, begin_ns: int, end_ns: int, batch: int, image: str = ""
    ) -> None:
        """`name`, a plain word, ran on `thread` for `batch` (from 0) and perhaps one image."""
        number = self._threads.get(thread) or self.thread(thread)
        begin = begin_ns - self._origin
        if name != WAIT:
            self._flows.setdefault(batch, {}).setdefault(number, begin)
        if (batch, image) != self._last_of:  # an image has several spans
            self._last_of = (batch, image)
            self._args = f'"batch":{batch}'
            if image:
                self._args += f',"image":{json.dumps(image)}'
        # microseconds as exact decimals: floats would lose digits on long runs
        took = end_ns - begin_ns
        self._put(
            f',\n{{"ph":"X","name":"{name}","pid":{PROCESS},"tid":{number},'
            f'"ts":{begin // 1000}.{begin % 1000:03d},"dur":{took // 1000}.{took % 1000:03d},'
            f'"args":{{{self._args}}}}}'
        )

    def finish(self, batch: int) -> None:
        """No more spans of `batch` come: draws its flow, thread by thread, as time went."""
        points = sorted((begin, number) for number, begin in self._flows.pop(batch, {}).items())
        if len(points) < 2:
            return
        phases = ["s", *["t"] * (len(points) - 2), "f"]
        for phase, (begin, number) in zip(phases, points, strict=True):
            self._put(
                f',\n{{"ph":"{phase}","bp":"e","name":"batch","cat":"batch","id":{batch},'
                f'"pid":{PROCESS},"tid":{number},"ts":{begin // 1000}.{begin % 1000:03d}}}'
            )

    def _event(self, event: dict[str, Any], thread: int) -> None:
        text = json.dumps({**event, "pid": PROCESS, "tid": thread}, separators=(",", ":"))
        self._put(",\n" + text)

    def _put(self, text: str) -> None:
        self._pending.append(text)
        if len(self._pending) >= PENDING:
            self._flush()

    def _flush(self) -> None:
        try:
            self._file.write("".join(self._pending))
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error
        self._pending.clear()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                for batch in list(self._flows):
                    self.finish(batch)
                for place, name in enumerate(row_order(self._threads)):
                    order = {"name": "thread_sort_index", "args": {"sort_index": place}}
                    self._event({"ph": "M", **order}, self._threads[name])
                self._put("\n]}\n")
                self._flush()
            self._file.close()
            if kind is None:
                self._part.replace(self._path)
        except OSError as failure:
            raise OutputError(f"{self._path}: cannot be written: {failure.strerror}") from failure
        finally:
            self._file.close()
            self._part.unlink(missing_ok=True)


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
    """A trace file, read and found sound. Flows: batch -> threads in the order of its arrows."""

    threads: list[str] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    flows: dict[int, list[str]] = field(default_factory=dict)


def read_trace(path: str | os.PathLike[str]) -> Trace:
    """Reads a trace of TraceWriter's and checks what a viewer relies on.

    Raises ResultError, naming the file: not JSON, an event without what its phase needs, two
    overlapping slices on a thread, a flow without beginning or end, one whose steps run
    backwards, or one that points at no slice.
    """
    try:
        events = json.loads(Path(path).read_bytes())["traceEvents"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{path}: is no trace: {error!r}") from error
    try:
        return _check(events)
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{path}: is no sound trace: {error!r}") from error


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
