"""Blocks about threads and time, which `profile` and `eval` share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from zoofast.base.text import counted
from zoofast.preprocess.loader import Failure
from zoofast.report.data import Column, Lines, Series, Stacks, Strip, Strips, Table
from zoofast.timing.timeline import Span
from zoofast.timing.trace import row_order

MAX_SPANS = 1000  # in a timeline, except that it always shows at least MIN_BATCHES
MIN_BATCHES = 2  # with fewer, a timeline does not show how batches overlap
MAX_FAILURES = 50  # in a table


def thread_shares(per_thread: Mapping[str, Mapping[str, float]], note: str = "") -> Stacks:
    """per_thread: thread -> stage or "idle" -> part of the time, 0 to 1."""
    shares = {
        thread: {stage: share * 100 for stage, share in parts.items()}
        for thread, parts in per_thread.items()
    }
    return Stacks("Threads", shares, "% of the time", 1, note)


def throughput(points: Sequence[tuple[float, float]]) -> Lines:
    """points: (seconds since the start, images per second)."""
    seconds, rates = [second for second, _ in points], [rate for _, rate in points]
    series = [Series("throughput", seconds, rates)]
    return Lines("Throughput over time", series, "seconds", "images/s", marks=False)


def timeline(spans: Sequence[Span]) -> Strips:
    """The spans of some batches, one row per thread."""
    begin = min((span.begin_ns for span in spans if span.stage != "wait"), default=0)
    chosen = _first_batches([span for span in spans if span.end_ns > begin])
    rows = {thread: i for i, thread in enumerate(row_order(span.thread for span in chosen))}
    strips = [
        Strip(
            span.thread,
            span.stage,
            max(span.begin_ns - begin, 0) / 1e6,
            (span.end_ns - begin) / 1e6,
        )
        for span in sorted(chosen, key=lambda span: (rows[span.thread], span.begin_ns))
    ]
    note = (
        f"The chart shows {counted(len({span.batch for span in chosen}), 'batch', 'batches')} from "
        "the middle of the run. In blank areas a thread is idle or works on other batches. Within "
        "an image, decoding and resizing alternate row by row; the chart shows the sum of each "
        "stage, one after the other. --trace writes the spans of all batches for ui.perfetto.dev."
    )
    return Strips("Timeline", strips, note=note)


def _first_batches(spans: Sequence[Span]) -> list[Span]:
    """All spans of the first batches. The spans of a batch stay together: its last ones, those of
    the device, would be missing otherwise."""
    sizes = Counter(span.batch for span in spans)
    shown: set[int] = set()
    total = 0
    for batch in sorted(sizes):
        total += sizes[batch]
        if len(shown) >= MIN_BATCHES and total > MAX_SPANS:
            break
        shown.add(batch)
    return [span for span in spans if span.batch in shown]


def failure_table(failures: Sequence[Failure]) -> Table:
    """The images that could not be prepared."""
    rows = [(failure.path, failure.reason) for failure in failures[:MAX_FAILURES]]
    more = len(failures) - len(rows)
    note = f"And {more:,} more." if more else ""
    return Table("", [Column("image"), Column("reason")], rows, note)
