"""Timelines and trace files: exact sums, bounded memory, and what a viewer relies on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import traces
from zoofast.errors import OutputError
from zoofast.timing.timeline import SAMPLED_BATCHES, Rate, Timeline
from zoofast.timing.trace import TraceWriter, row_order

MS = 1_000_000


def _feed(timeline: Timeline, batches: int, begin: int = 0) -> None:
    """Two workers decode, then a device infers; a batch every 10 ms."""
    for batch in range(batches):
        at = begin + batch * 10 * MS
        timeline.span("worker 1", "decode", at, at + 4 * MS, batch, f"a{batch}")
        timeline.span("worker 0", "decode", at + 1 * MS, at + 5 * MS, batch, f"b{batch}")
        timeline.span("device", "wait", at, at + 5 * MS, batch)
        timeline.span("device", "infer", at + 5 * MS, at + 9 * MS, batch)
        timeline.finish(batch, 2, at + 9 * MS)


def test_a_trace_holds_every_span_row_and_flow(tmp_path: Path) -> None:
    begin = 987_654_321_012_345_678  # the monotonic clock of a host that is up for long
    with TraceWriter(tmp_path / "t.json", begin) as writer:
        _feed(Timeline(begin, writer), 3, begin)
    trace = traces.read_trace(tmp_path / "t.json")
    assert trace.threads == ["worker 0", "worker 1", "device"]
    assert len(trace.slices) == 12
    assert [s.name for s in trace.slices[:4]] == ["decode", "decode", "wait", "infer"]
    last = trace.slices[-1]
    assert (last.thread, last.batch, last.image) == ("device", 2, "")
    assert (last.begin, last.end) == (25_000.0, 29_000.0)  # microseconds
    assert trace.slices[0].image == "a0"
    # in the order of time; the wait is no work, so the arrow ends at the inference
    assert trace.flows == {i: ["worker 1", "worker 0", "device"] for i in range(3)}


def test_times_are_exact_to_the_nanosecond(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.json", 0) as writer:
        Timeline(0, writer).span("main", "use", 2**53 + 1, 2**53 + 1_000_008, 0)
    assert '"ts":9007199254740.993,"dur":1000.007,' in (tmp_path / "t.json").read_text()


def test_names_are_escaped(tmp_path: Path) -> None:
    name = 'x"\\\n</script>\udcff'
    with TraceWriter(tmp_path / "t.json", 0) as writer:
        writer.span('thread "1"', "use", 0, 5, 0, name)
    trace = traces.read_trace(tmp_path / "t.json")
    assert trace.slices[0].image == name
    assert trace.threads == ['thread "1"']


def test_rows_go_by_kind_then_by_number() -> None:
    names = ["worker 10", "worker 2", "main", "worker 0", "device 1", "device 0"]
    assert row_order(names) == [
        "worker 0", "worker 2", "worker 10", "main", "device 0", "device 1",
    ]  # fmt: skip


def test_an_exception_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), TraceWriter(tmp_path / "t.json", 0) as writer:
        writer.span("main", "use", 0, 1, 0)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent/t\.json"):
        TraceWriter(tmp_path / "absent" / "t.json", 0)


def _edited(edit: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        document = json.loads(path.read_text())
        edit(document["traceEvents"])
        path.write_text(json.dumps(document))

    return write


def _first(events: list[dict[str, Any]], phase: str) -> dict[str, Any]:
    return next(event for event in events if event["ph"] == phase)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.write_text("[1, 2"), "Expecting"),
        (lambda path: path.write_text("[]"), "list indices"),
        (_edited(lambda events: _first(events, "X").pop("dur")), "dur"),
        (_edited(lambda events: _first(events, "X").update(dur=-1)), "negative"),
        (_edited(lambda events: _first(events, "X").update(dur=10_500)), "begins before"),
        (_edited(lambda events: _first(events, "X").update(tid=99)), "99"),
        (_edited(lambda events: _first(events, "X").update(ph="Q")), "unknown phase"),
        (_edited(lambda events: events.remove(_first(events, "s"))), "phases"),
        (_edited(lambda events: events.remove(_first(events, "f"))), "phases"),
        (_edited(lambda events: _first(events, "t").update(ts=9_999)), "backwards"),
        (_edited(lambda events: _first(events, "t").update(ts=1_500)), "no slice"),
    ],
)
def test_a_damaged_trace_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    path = tmp_path / "t.json"
    with TraceWriter(path, 0) as writer:
        _feed(Timeline(0, writer), 2)
    traces.read_trace(path)
    damage(path)
    with pytest.raises(ValueError, match=complaint):
        traces.read_trace(path)


def test_a_timeline_sums_and_samples() -> None:
    timeline = Timeline(0)
    _feed(timeline, 100)
    assert timeline.busy_ns == {
        "worker 1": {"decode": 400 * MS},
        "worker 0": {"decode": 400 * MS},
        "device": {"wait": 500 * MS, "infer": 400 * MS},
    }
    assert timeline.end_ns == 999 * MS
    window = timeline.window()
    assert sorted({span.batch for span in window}) == list(range(64, 64 + SAMPLED_BATCHES))
    assert len(window) == 4 * SAMPLED_BATCHES


@pytest.mark.parametrize("batches", [0, 1, 5])
def test_short_runs_have_a_window_too(batches: int) -> None:
    timeline = Timeline(0)
    _feed(timeline, batches)
    assert len(timeline.window()) == 4 * batches


def test_a_timeline_holds_little_however_long_the_run(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.json", 0) as writer:
        timeline = Timeline(0, writer)
        _feed(timeline, 5000)
        held = sum(map(len, timeline._windows.values()))
        assert held <= 2 * 4 * SAMPLED_BATCHES
        assert writer._flows == {}
        assert len(timeline.rate._counts) <= 2 * Rate.BINS
    trace = traces.read_trace(tmp_path / "t.json")
    assert len(trace.slices) == 20_000 and len(trace.flows) == 5000


def test_threads_may_feed_a_timeline_at_once(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.json", 0) as writer:
        timeline = Timeline(0, writer)

        def feed(name: str) -> None:
            for batch in range(500):
                timeline.span(name, "infer", batch * 10, batch * 10 + 7, batch)

        threads = [threading.Thread(target=feed, args=(f"device {i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert timeline.busy_ns == {f"device {i}": {"infer": 3500} for i in range(4)}
    trace = traces.read_trace(tmp_path / "t.json")
    assert len(trace.slices) == 2000
    assert all(sorted(flow) == trace.threads for flow in trace.flows.values())


@pytest.mark.parametrize("seconds", [1, 20, 3000])
def test_the_rate_over_time_is_the_rate(seconds: int) -> None:
    rate = Rate(5 * MS)
    for i in range(1, 100 * seconds + 1):
        rate.add(3, 5 * MS + i * 10 * MS)  # 300 a second
    points = rate.points()
    assert 2 <= len(points) <= 2 * Rate.BINS
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert all(y == pytest.approx(300, rel=0.15) for _, y in points)
    width = 2 * points[0][0]
    assert points[-1][0] <= seconds < points[-1][0] + 1.5 * width
    assert Rate(0).points() == []
