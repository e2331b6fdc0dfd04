"""What ran when, as sections of a report; what profile and eval share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from zoofast.preprocess.loader import Failure
from zoofast.report.data import Column, Lines, Series, Stacks, Strip, Strips, Table
from zoofast.timing.timeline import Span
from zoofast.timing.trace import row_order

SHOWN_SPANS = 1000  # or two batches, if those have more: fewer would not show what overlaps
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
    kept = _whole_batches([span for span in spans if span.end_ns > begin])
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
        f"{len({span.batch for span in kept})} batches from the middle of the run; blank is other "
        "batches, or idle. Within an image, decoding and resizing alternate row by row; here one "
        "stage follows the other. --trace writes all of it for ui.perfetto.dev."
    )
    return Strips("Timeline", strips, note=note)


def _whole_batches(spans: Sequence[Span]) -> list[Span]:
    """The spans of the first batches, whole ones: cut anywhere else, the device, which is last,
    would be missing."""
    sizes = Counter(span.batch for span in spans)
    shown: set[int] = set()
    total = 0
    for batch in sorted(sizes):
        total += sizes[batch]
        if len(shown) >= 2 and total > SHOWN_SPANS:
            break
        shown.add(batch)
    return [span for span in spans if span.batch in shown]


def failures(found: Sequence[Failure]) -> Table:
    """The images that could not be prepared."""
    rows = [(failure.path, failure.reason) for failure in found[:FAILURES_SHOWN]]
    more = len(found) - len(rows)
    note = f"And {more:,} more." if more else ""
    return Table("", [Column("image"), Column("reason")], rows, note)
