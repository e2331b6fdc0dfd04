"""Records when each stage of the work ran: sums by thread and stage, a sample of spans, a trace.

The loader, the devices and the scorer of a run report their spans to one Timeline. Its memory is
bounded, however long the run.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from zoofast import _core
from zoofast.preprocess.loader import BatchOutcome
from zoofast.timing.trace import CALLER, WAIT, WORKER, WRITER, TraceWriter, row_order

# The stages in the order in which an image passes through them. _core.STAGES run in the core's
# threads. "pillow": decoding in Pillow. "wait": a thread waits for its next batch. "h2d", "d2h":
# copies to the device and from the device. "use": other work of the thread that takes the batches.
STAGES = (*_core.STAGES, "pillow", WAIT, "h2d", "infer", "d2h", "score", "use")
WRITE = _core.STAGES[-1]
SAMPLED_BATCHES = 8  # consecutive batches whose spans are kept


@dataclass(frozen=True)
class Span:
    """The time of one stage of a batch on a thread, in nanoseconds of the monotonic clock."""

    thread: str
    stage: str
    begin_ns: int
    end_ns: int
    batch: int


class Rate:
    """Images a second over time, in at most 2 × BINS bins, which widen during the run."""

    BINS = 120
    BATCHES = 8  # per point, at least: with fewer, single batches would show as noise

    def __init__(self, begin_ns: int) -> None:
        self._begin = begin_ns
        self._batches = 0
        self._width = 50_000_000  # ns
        self._counts = [0]
        self._last = begin_ns

    def add(self, images: int, at_ns: int) -> None:
        """`images` were done at time `at_ns`, which is not before the last one."""
        self._last = at_ns
        self._batches += 1
        index = (at_ns - self._begin) // self._width
        while index >= 2 * self.BINS:
            self._counts = [sum(self._counts[i : i + 2]) for i in range(0, len(self._counts), 2)]
            self._width *= 2
            index = (at_ns - self._begin) // self._width
        self._counts += [0] * (index + 1 - len(self._counts))
        self._counts[index] += images

    def points(self) -> list[tuple[float, float]]:
        """(seconds since the beginning, images a second), at the middle of each bin.

        The last bin is not full, so it is joined to the bin before it.
        """
        bins = -(-self.BATCHES * len(self._counts) // max(self._batches, 1))
        width = bins * self._width / 1e9
        counts = [sum(self._counts[i : i + bins]) for i in range(0, len(self._counts), bins)]
        if len(counts) > 1:
            counts[-2:] = [counts[-2] + counts[-1]]
        points = [((i + 0.5) * width, n / width) for i, n in enumerate(counts[:-1])]
        begin, end = (len(counts) - 1) * width, (self._last - self._begin) / 1e9
        if end > begin:
            points.append(((begin + end) / 2, counts[-1] / (end - begin)))
        return points


class Timeline:
    """Takes spans from any thread. Raises OutputError when the trace cannot be written.

    images: record the core's threads too, with a span for every stage of every image; that costs
    some time. busy_ns: thread -> stage -> nanoseconds.
    """

    def __init__(
        self, begin_ns: int, trace: TraceWriter | None = None, *, images: bool = True
    ) -> None:
        self.begin_ns, self._images = begin_ns, images
        self.busy_ns: dict[str, dict[str, int]] = {}
        self.rate = Rate(begin_ns)
        self.batches = 0
        self.end_ns = begin_ns  # of the latest span
        self._trace = trace
        self._lock = threading.Lock()
        self._windows: dict[int, list[Span]] = {}  # first batch -> spans

    def span(
        self, thread: str, stage: str, begin_ns: int, end_ns: int, batch: int, image: str = ""
    ) -> None:
        """Records one span. stage: one of STAGES."""
        with self._lock:
            busy = self._busy(thread)
            busy[stage] = busy.get(stage, 0) + end_ns - begin_ns
            self.end_ns = max(self.end_ns, end_ns)
            window = self._window_of(batch)
            if window is not None:
                window.append(Span(thread, stage, begin_ns, end_ns, batch))
            if self._trace is not None:
                self._trace.span(thread, stage, begin_ns, end_ns, batch, image)

    def prepared(self, batch: int, prepared: BatchOutcome, asked_ns: int) -> None:
        """Records the work on a batch that CALLER asked the loader for at `asked_ns`: of the
        core's threads, and of Pillow.

        The core measures the sum of a stage's time over an image, since decoding and resizing
        alternate row by row. In the timeline the stages of an image follow each other. Writing
        the file is in the row of a writer.
        """
        if self._images:
            self._by_workers(batch, prepared)
        begin, end = prepared.pillow_ns
        self.span(CALLER, WAIT, asked_ns, begin, batch)
        if end > begin:
            self.span(CALLER, "pillow", begin, end, batch)

    def _by_workers(self, batch: int, prepared: BatchOutcome) -> None:
        workers, writers, end_ns = prepared.slots.busy()
        with self._lock:
            for worker, spent in workers.items():
                busy = self._busy(f"{WORKER}{worker}")
                for stage, ns in zip(_core.STAGES, spent, strict=True):
                    if ns:
                        busy[stage] = busy.get(stage, 0) + ns
            for writer, ns in writers.items():
                busy = self._busy(f"{WRITER}{writer}")
                busy[WRITE] = busy.get(WRITE, 0) + ns
            self.end_ns = max(self.end_ns, end_ns)
            window = self._window_of(batch)
            if window is not None or self._trace is not None:
                self._spans_of_images(batch, prepared, window)

    def _spans_of_images(
        self, batch: int, prepared: BatchOutcome, window: list[Span] | None
    ) -> None:
        for i, item in enumerate(prepared.items):
            outcome = prepared.slots.outcome(i)
            thread, begin = f"{WORKER}{outcome.worker}", outcome.begin_ns
            for stage, ns in zip(_core.STAGES, outcome.stage_ns, strict=True):
                if not ns:
                    continue
                if stage == WRITE:
                    thread, begin = f"{WRITER}{outcome.writer}", outcome.write_begin_ns
                end = begin + ns
                if window is not None:
                    window.append(Span(thread, stage, begin, end, batch))
                if self._trace is not None:
                    self._trace.span(thread, stage, begin, end, batch, item.name)
                begin = end

    def shares(self) -> dict[str, dict[str, float]]:
        """thread -> stage (in the order of STAGES) or "idle" -> part of the time so far."""
        total_ns = (self.end_ns - self.begin_ns) or 1
        shares = {}
        for thread in row_order(self.busy_ns):
            busy = self.busy_ns[thread]
            parts = {stage: busy[stage] / total_ns for stage in STAGES if stage in busy}
            shares[thread] = {**parts, "idle": max(0.0, 1.0 - sum(parts.values()))}
        return shares

    def finish(self, batch: int, images: int, at_ns: int) -> None:
        """`batch`, of `images` images, is done; no more spans of it come."""
        with self._lock:
            self.rate.add(images, at_ns)
            self.batches += 1
            if self._trace is not None:
                self._trace.finish(batch)

    def window(self) -> list[Span]:
        """All spans of SAMPLED_BATCHES consecutive batches, from the run's second half if
        possible."""
        with self._lock:
            complete = [first for first in self._windows if first + SAMPLED_BATCHES <= self.batches]
            if complete:
                return list(self._windows[max(complete)])
            return [span for first in sorted(self._windows) for span in self._windows[first]]

    def _busy(self, thread: str) -> dict[str, int]:
        busy = self.busy_ns.get(thread)
        if busy is None:
            busy = self.busy_ns[thread] = {}
        return busy

    def _window_of(self, batch: int) -> list[Span] | None:
        """The window that takes the spans of `batch`, or None.

        A new window opens at every power of two, so that one of the last two windows is in the
        second half of the run.
        """
        first = 0 if batch < SAMPLED_BATCHES else 1 << (batch.bit_length() - 1)
        if batch >= first + SAMPLED_BATCHES:
            return None
        if first not in self._windows:
            if first < min(self._windows, default=0):
                return None  # the window of this late span was dropped
            for old in sorted(self._windows)[:-1]:
                del self._windows[old]
            self._windows[first] = []
        return self._windows[first]
