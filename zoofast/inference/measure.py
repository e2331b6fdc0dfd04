"""Latency and throughput of a model on one device, measured with made-up data."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.text import counted
from zoofast.errors import BackendError
from zoofast.inference.backends import Model, PinningModel, QueuedModel, latency
from zoofast.inference.job import Commit, InferJob, InferReport, Progress, dummy_batch, warm_up

ALIVE_SECONDS = 0.5  # between two signs of life of a long measurement


@dataclass
class Level:
    """Batches of which `concurrency` are under way at a time.

    latencies: of each batch, in milliseconds, from its memory on the host to the outputs' memory on
    the host. images, seconds: of all batches.
    """

    concurrency: int
    latencies: list[float]
    images: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.seconds, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; latencies in milliseconds."""
        return {
            "concurrency": self.concurrency,
            "images_per_second": self.images_per_second,
            "host_latency_ms": latency(self.latencies),
        }


@dataclass
class BenchReport(InferReport):
    """times: of the first level; the device's time of a batch does not depend on the level."""

    levels: list[Level] = field(default_factory=list)


@dataclass(frozen=True)
class BenchJob(InferJob):
    """Measures a model at several levels of concurrency. Each measurement takes `loop` executions,
    or lasts `seconds`. levels: () for one batch at a time, and for a device that holds several
    batches also 2 and as many as it holds."""

    seconds: float | None = None
    levels: tuple[int, ...] = ()

    def run(
        self,
        progress: Progress = lambda files: None,
        ready: Callable[[], Any] = lambda: None,
        commit: Commit = lambda outputs, images: None,
        opened: Callable[[Model], Any] = lambda model: None,
    ) -> BenchReport:
        """As InferJob.run. progress: called with 0 now and then, as a sign of life."""
        with self.open(self.levels[0] if self.levels else 1) as model:
            opened(model)
            held = model.max_in_flight if isinstance(model, QueuedModel) else 0
            levels = self.levels or ((1, 2, held) if held else (1,))
            report = BenchReport(model.input.shape[0], inputs=model.inputs)
            data = self._data(model)
            warm_up(model, data, self.warmup)
            ready()
            report.levels.append(self._measure(model, data, levels[0], progress))
            report.times = model.times()
            for level in levels[1:] if held else ():
                report.levels.append(self._measure(model, data, level, progress))
        # What computes several batches with threads divides the CPUs among them when it loads.
        for level in () if held else levels[1:]:
            with self.open(level) as model:
                data = self._data(model)
                warm_up(model, data, self.warmup)
                report.levels.append(self._measure(model, data, level, progress))
        report.images = sum(level.images for level in report.levels)
        report.seconds = sum(level.seconds for level in report.levels)
        return report

    def _data(self, model: Model) -> list[NDArray[Any]]:
        """A batch, in memory that the device copies directly if it has such memory."""
        data = dummy_batch(model.inputs, self.pure_data)
        return pinned(model, data) if isinstance(model, PinningModel) else data

    def _measure(
        self, model: Any, data: Sequence[NDArray[Any]], level: int, progress: Progress
    ) -> Level:
        most = model.max_in_flight if isinstance(model, QueuedModel) else model.concurrency
        if level > most:
            raise BackendError(
                f"{self.spec.model}: the device takes at most {counted(most, 'batch', 'batches')} "
                f"at a time, not {level}"
            )
        begin = time.perf_counter()
        last_report = begin

        def more(begun: int) -> bool:
            """Whether to begin a batch after `begun` batches."""
            nonlocal last_report
            now = time.perf_counter()
            if now - last_report > ALIVE_SECONDS:
                last_report = now
                progress(0)
            if self.seconds is None:
                return begun < self.loop
            return begun < level or now - begin < self.seconds

        run = _run_queued if isinstance(model, QueuedModel) else _run_in_threads
        latencies = run(model, data, level, more)
        seconds = time.perf_counter() - begin
        return Level(level, latencies, len(latencies) * model.input.shape[0], seconds)


def pinned(model: PinningModel, data: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Copies of the arrays in memory that the device copies directly."""
    copies = []
    for array in data:
        memory = np.frombuffer(model.host_memory(array.nbytes), array.dtype)
        copies.append(memory.reshape(array.shape))
        copies[-1][...] = array
    return copies


def _run_queued(
    model: Any, data: Sequence[NDArray[Any]], level: int, more: Callable[[int], bool]
) -> list[float]:
    """The latency of each batch, in milliseconds."""
    latencies: list[float] = []
    begun: deque[float] = deque()
    while True:
        while len(begun) < level and more(len(latencies) + len(begun)):
            begun.append(time.perf_counter())
            model.begin(*data, rows=model.input.shape[0])
        if not begun:
            return latencies
        model.end()
        latencies.append((time.perf_counter() - begun.popleft()) * 1e3)


def _run_in_threads(
    model: Model, data: Sequence[NDArray[Any]], level: int, more: Callable[[int], bool]
) -> list[float]:
    """The same with `level` threads; one batch at a time is run by the calling thread."""
    numbers = itertools.count()

    def run() -> list[float]:
        latencies = []
        while more(next(numbers)):
            begin = time.perf_counter()
            model.infer(*data)
            latencies.append((time.perf_counter() - begin) * 1e3)
        return latencies

    if level == 1:
        return run()
    with ThreadPoolExecutor(level) as threads:
        return [ms for part in threads.map(lambda _: run(), range(level)) for ms in part]


def search_sizes(is_within: Callable[[int], bool], largest: int) -> None:
    """Looks for the largest batch size that is within a limit: doubles it while it is, then halves
    the interval until it is an eighth of the size."""
    low, high = 0, 1
    while high <= largest and is_within(high):
        low, high = high, 2 * high
    if high > largest:
        return
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        if is_within(middle):
            low = middle
        else:
            high = middle
