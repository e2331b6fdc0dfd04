"""What ran when, as sections of a report; what profile and eval share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoofast.loader import Failure
from zoofast.report.data import Column, Lines, Series, Stacks, Strip, Strips, Table
from zoofast.timeline import Span
from zoofast.trace import row_order

SHOWN_SPANS = 300  # more could not be told apart
FAILURES_SHOWN = 50


def thread_shares(per_thread: Mapping[str, Mapping[str, float]], note: str = "") -> Stacks:
    """per_thread: thread -> stage or "idle" -> part of the run's time."""
    shares = {
        thread: {stage: share * 100 for stage, share in parts.items()}
        for thread, parts in per_thread.items()
    }
    return Stacks("Threads", shares, "% of the time", 1, note)


def throughput(points: Sequence[tuple[float, float]]) -> Lines:
    """points: (seconds since the beginning, images a second)."""
    seconds, rates = [at for at, _ in points], [rate for _, rate in points]
    series = [Series("throughput", seconds, rates)]
    return Lines("Throughput over time", series, "seconds", "images/s", marks=False)


def timeline(spans: Sequence[Span]) -> Strips:
    """Some batches' spans, a row a thread."""
    begin = min((span.begin_ns for span in spans if span.stage != "wait"), default=0)
    kept = sorted((span for span in spans if span.end_ns > begin), key=lambda span: span.begin_ns)
    kept = kept[:SHOWN_SPANS]
    order = row_order(span.thread for span in kept)
    strips = [
        Strip(
            span.thread,
            span.stage,
            max(span.begin_ns - begin, 0) / 1e6,
            (span.end_ns - begin) / 1e6,
        )
        for span in sorted(kept, key=lambda span: (order.index(span.thread), span.begin_ns))
    ]
    note = (
        "A few batches from the middle of the run. Within an image, decode and resize alternate "
        "row by row; here one follows the other. --trace writes all of it for ui.perfetto.dev."
    )
    return Strips("Timeline", strips, note=note)


def failures(found: Sequence[Failure]) -> Table:
    """The images that could not be prepared."""
    rows = [(failure.path, failure.reason) for failure in found[:FAILURES_SHOWN]]
    more = len(found) - len(rows)
    note = f"And {more:,} more." if more else ""
    return Table("", [Column("image"), Column("reason")], rows, note)
