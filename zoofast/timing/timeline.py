"""What ran when: spans of work on threads, summed up, sampled for a picture, and traced.

Whoever does timed work feeds one Timeline: the loader's outcomes, the thread of a backend, the
scorer. Memory is bounded, however long the run.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from zoofast import _core
from zoofast.preprocess.loader import BatchOutcome
from zoofast.timing.trace import WAIT, TraceWriter, row_order

# In the order of an image's way. The core's stages run in its workers; "pillow" is the decoding
# of what the core leaves to Pillow; "wait" is a thread's waiting for its next batch; "h2d" and
# "d2h" are copies to and from the device; "use" is whatever else the taker of a batch does.
STAGES = (*_core.STAGES, "pillow", WAIT, "h2d", "infer", "d2h", "score", "use")
# begin the names of the core's threads, those that compute and those that write files
WORKER, WRITER = "worker ", "writer "
WRITE = _core.STAGES[-1]
CALLER = "main"  # the thread that takes the batches
KEPT_BATCHES = 8  # in the sampled picture


@dataclass(frozen=True)
class Span:
    """`stage` of `batch` on `thread`; nanoseconds of the monotonic clock."""

    thread: str
    stage: str
    begin_ns: int
    end_ns: int
    batch: int


class Rate:
    """Images a second over time, in at most 2 × BINS bins that widen as the run goes on."""

    BINS = 120
    BATCHES = 8  # in a point: fewer would show the batches' own coarseness

    def __init__(self, begin_ns: int) -> None:
        self._begin = begin_ns
        self._batches = 0
        self._width = 50_000_000  # ns
        self._counts = [0]
        self._last = begin_ns

    def add(self, images: int, at_ns: int) -> None:
        """`images` were done at `at_ns`; times do not fall."""
        self._last = at_ns
        self._batches += 1
        at = (at_ns - self._begin) // self._width
        while at >= 2 * self.BINS:
            self._counts = [sum(self._counts[i : i + 2]) for i in range(0, len(self._counts), 2)]
            self._width *= 2
            at = (at_ns - self._begin) // self._width
        self._counts += [0] * (at + 1 - len(self._counts))
        self._counts[at] += images

    def points(self) -> list[tuple[float, float]]:
        """(seconds since the beginning, images a second), at the bins' middles.

        The last, unfinished bin joins the one before it.
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

    images: whether the loader's workers are recorded, who have a span for every stage of every
    image; it costs a little. busy_ns: thread -> stage -> nanoseconds.
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
        """One piece of work, of one of STAGES."""
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
        """What was done for a batch that CALLER asked the loader for at `asked_ns`: by the
        loader's workers, from the outcomes, and by Pillow.

        The core sums a stage's time over an image; decode and resize in truth alternate row by
        row. Here an image's stages stand one after the other; its file has a writer's row.
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
        """thread -> stage, in the order of STAGES, and "idle" -> part of the time so far."""
        seconds = (self.end_ns - self.begin_ns) or 1
        found = {}
        for thread in row_order(self.busy_ns):
            busy = self.busy_ns[thread]
            shares = {stage: busy[stage] / seconds for stage in STAGES if stage in busy}
            found[thread] = {**shares, "idle": max(0.0, 1.0 - sum(shares.values()))}
        return found

    def finish(self, batch: int, images: int, at_ns: int) -> None:
        """`batch`, of so many images, is through; no more spans of it come."""
        with self._lock:
            self.rate.add(images, at_ns)
            self.batches += 1
            if self._trace is not None:
                self._trace.finish(batch)

    def window(self) -> list[Span]:
        """All spans of KEPT_BATCHES consecutive batches, in the run's second half if it can be."""
        with self._lock:
            whole = [at for at in self._windows if at + KEPT_BATCHES <= self.batches]
            if whole:
                return list(self._windows[max(whole)])
            return [span for at in sorted(self._windows) for span in self._windows[at]]

    def _busy(self, thread: str) -> dict[str, int]:
        busy = self.busy_ns.get(thread)
        if busy is None:
            busy = self.busy_ns[thread] = {}
        return busy

    def _window_of(self, batch: int) -> list[Span] | None:
        """Where spans of `batch` are kept, if they are.

        A new window opens at every power of two, so that one is never far from the middle.
        """
        first = 0 if batch < KEPT_BATCHES else 1 << (batch.bit_length() - 1)
        if batch >= first + KEPT_BATCHES:
            return None
        if first not in self._windows:
            if first < min(self._windows, default=0):
                return None  # late; the window was dropped
            for old in sorted(self._windows)[:-1]:
                del self._windows[old]
            self._windows[first] = []
        return self._windows[first]
