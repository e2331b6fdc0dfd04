"""When a device of `zoofast infer` is given up: by a clock that the test sets."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from zoofast.errors import BackendError
from zoofast.inference import workers
from zoofast.inference.job import InferJob
from zoofast.inference.spec import ModelSpec
from zoofast.inference.workers import Message, Ready, Workers


class Silent(Workers):
    """Workers that send only what the test gives to `_handle`."""

    def _start(self, index: int) -> None: ...
    def _receive(self, seconds: float) -> list[tuple[int, Message]]:
        return []

    def _let_go_on(self, index: int) -> None: ...
    def _give_up(self, index: int) -> None: ...
    def _wait_for_end(self, indices: Sequence[int]) -> None: ...
    def _end_all(self) -> None: ...


def test_a_worker_is_lost_if_it_is_late_at_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stop of the whole process, a message that waits comes before the second look."""
    clock = SimpleNamespace(now=1000.0, time=lambda: 1.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(workers, "time", clock)
    lost: dict[int, str] = {}
    jobs = [InferJob(ModelSpec("m.om", device=i), files=["x.bin"]) for i in range(2)]
    devices = Silent(jobs, lambda files: None, lambda *first: None, 60.0, lost.__setitem__)
    devices._restart_clocks()
    for index in range(2):
        devices._handle(index, Ready())
    clock.now += 59
    devices._lose_late()
    clock.now += 1000  # stopped
    devices._lose_late()
    assert not lost
    devices._handle(0, 1)
    clock.now += 0.4
    devices._lose_late()
    assert not lost
    clock.now += 0.2
    devices._lose_late()
    assert list(lost) == [1] and "device 1 has not answered for 1,060 s" in lost[1]
    clock.now += 61
    devices._lose_late()
    clock.now += 1
    with pytest.raises(BackendError, match="device 0 has not answered for 63 s"):
        devices._lose_late()
