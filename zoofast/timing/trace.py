"""Writes Chrome trace event files, which ui.perfetto.dev and chrome://tracing open.

Format: "Trace Event Format", JSON object form. Every thread is a row and every span is a complete
event ("X"). Every batch is a flow: arrows from the first thread that worked on it to the last.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from zoofast.base.files import atomic_output, write_errors

PROCESS = 1  # the number of the only process in a trace
MAX_PENDING = 1000  # events that wait to be written
# The beginnings of the names of the core's threads: workers compute, writers write files.
WORKER, WRITER = "worker ", "writer "
CALLER = "main"  # the thread that takes the batches
WAIT = "wait"  # the name of a span without work; a flow does not go through it


def row_order(threads: Iterable[str]) -> list[str]:
    """Threads in the order of their rows: first as an image comes to them, then by number: "worker
    2" is before "worker 10"."""
    kinds = (WORKER, WRITER, CALLER)

    def place(thread: str) -> tuple[int, list[tuple[str, int]]]:
        kind = next((i for i, kind in enumerate(kinds) if thread.startswith(kind)), len(kinds))
        parts = re.findall(r"([^0-9]*)([0-9]*)", thread)
        return kind, [(word, int(number or -1)) for word, number in parts]

    return sorted(set(threads), key=place)


class TraceWriter:
    """Writes spans to `path`. A context manager; without an exception the file is whole at its end,
    otherwise there is no file.

    Times are nanoseconds of one clock; `origin_ns` becomes the trace's zero. Memory is bounded:
    MAX_PENDING events, and one point for each thread of a batch that is not finished. Not
    thread-safe: zoofast.timing.timeline.Timeline locks. Raises OutputError.
    """

    def __init__(
        self, path: str | os.PathLike[str], origin_ns: int, process: str = "zoofast"
    ) -> None:
        self._path = Path(path)
        self._origin = origin_ns
        self._threads: dict[str, int] = {}  # name -> number
        self._flows: dict[int, dict[int, int]] = {}  # batch -> thread -> begin of its first span
        self._pending: list[str] = []
        self._last_of: tuple[int, str] | None = None  # the batch and image that _args is for
        self._args = ""
        self._output = ExitStack()
        part = self._output.enter_context(atomic_output(self._path))
        with write_errors(self._path):
            self._file: TextIO = self._output.enter_context(part.open("w", encoding="utf-8"))
        first = {"ph": "M", "name": "process_name", "args": {"name": process}, "pid": PROCESS}
        self._put('{"displayTimeUnit":"ms","traceEvents":[\n' + json.dumps(first))

    def thread(self, name: str) -> int:
        """The number of thread `name`. A new thread gets a row."""
        number = self._threads.get(name)
        if number is None:
            number = self._threads[name] = len(self._threads) + 1
            self._event({"ph": "M", "name": "thread_name", "args": {"name": name}}, number)
        return number

    def span(
        self, thread: str, name: str, begin_ns: int, end_ns: int, batch: int, image: str = ""
    ) -> None:
        """Work `name` on `thread`, for a batch (from 0) and possibly one image of the batch.

        `name` needs no escaping in JSON.
        """
        number = self._threads.get(thread) or self.thread(thread)
        begin = begin_ns - self._origin
        if name != WAIT:
            self._flows.setdefault(batch, {}).setdefault(number, begin)
        if (batch, image) != self._last_of:  # the spans of an image come one after the other
            self._last_of = (batch, image)
            self._args = f'"batch":{batch}'
            if image:
                self._args += f',"image":{json.dumps(image)}'
        # Microseconds as exact decimals. A float would lose digits in long runs.
        duration = end_ns - begin_ns
        self._put(
            f',\n{{"ph":"X","name":"{name}","pid":{PROCESS},"tid":{number},'
            f'"ts":{begin // 1000}.{begin % 1000:03d},'
            f'"dur":{duration // 1000}.{duration % 1000:03d},"args":{{{self._args}}}}}'
        )

    def finish(self, batch: int) -> None:
        """Writes the flow of a batch, of which no more spans come. Its points are in order of
        time."""
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
        if len(self._pending) >= MAX_PENDING:
            self._flush()

    def _flush(self) -> None:
        with write_errors(self._path):
            self._file.write("".join(self._pending))
        self._pending.clear()

    def _write_end(self) -> None:
        for batch in list(self._flows):
            self.finish(batch)
        for place, name in enumerate(row_order(self._threads)):
            order = {"name": "thread_sort_index", "args": {"sort_index": place}}
            self._event({"ph": "M", **order}, self._threads[name])
        self._put("\n]}\n")
        self._flush()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            try:
                self._write_end()
            except BaseException:
                self._output.__exit__(*sys.exc_info())
                raise
        self._output.__exit__(kind, error, trace)
