"""Several devices that run one job each at the same time: what threads and processes share."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from zoofast.errors import BackendError, ZoofastError
from zoofast.inference.devices import joined_reasons
from zoofast.inference.job import Commit, InferJob, InferReport, Progress
from zoofast.inference.lateness import DeviceTimeoutError, Lateness
from zoofast.inference.record import RecordedOutput

Lost = Callable[[int, str], None]  # called when a device is given up: its number, the reason


@dataclass
class DeviceRun:
    """One device's part of a run, and when it ran, in seconds since the epoch.

    lost: why the device was given up; the report of such a device has the files that it had
    done, and no times.
    """

    device: int
    report: InferReport
    start_time: float
    end_time: float
    lost: str | None = None


@dataclass
class Ready:
    """The model is loaded. The worker waits before it begins."""


@dataclass
class FirstResult:
    """The first outputs are computed. The worker waits before it writes them."""

    outputs: tuple[RecordedOutput, ...]
    images_per_file: int


@dataclass
class Ended:
    """The worker ended without a result, for this reason."""

    reason: str


# Of a worker: what happened, a number of files that are done, or the end of its job.
Message = Ready | FirstResult | int | Ended | DeviceRun | BaseException


class Workers(ABC):
    """A worker for each job, and what they have sent so far. `run` is called once."""

    def __init__(
        self,
        jobs: Sequence[InferJob],
        progress: Progress,
        commit: Commit,
        timeout: float,
        lost: Lost,
    ) -> None:
        self._jobs, self._progress, self._commit = jobs, progress, commit
        self._tell_lost = lost
        self._ready: set[int] = set()  # indices of jobs
        self._began = 0.0  # when all devices had loaded the model, in seconds since the epoch
        self._first: FirstResult | None = None  # of any device
        self._runs: dict[int, DeviceRun] = {}
        self._heard: list[float] = []  # when each worker last sent something, monotonic seconds
        self._lateness = Lateness(timeout)

    @abstractmethod
    def _start(self, index: int) -> None:
        """Starts the worker of a job."""

    @abstractmethod
    def _receive(self, seconds: float) -> Iterable[tuple[int, Message]]:
        """What workers that still run have sent; waits so long for the first message."""

    @abstractmethod
    def _let_go_on(self, index: int) -> None:
        """Answers Ready or FirstResult."""

    @abstractmethod
    def _give_up(self, index: int) -> None:
        """Makes the worker of a lost device end, without waiting for it."""

    @abstractmethod
    def _wait_for_end(self, indices: Sequence[int]) -> None:
        """Lets workers that have sent their runs close their devices, in bounded time."""

    @abstractmethod
    def _end_all(self) -> None:
        """Ends all workers in bounded time. They write what is computed."""

    def run(self) -> list[DeviceRun]:
        try:
            for index in range(len(self._jobs)):
                self._start(index)
                self._heard.append(time.monotonic())
            while len(self._runs) < len(self._jobs):
                for index, message in self._receive(self._lateness.look_seconds):
                    self._handle(index, message)
                self._lose_late()
            self._wait_for_end([i for i, run in self._runs.items() if run.lost is None])
        finally:
            self._end_all()
        return [self._runs[index] for index in range(len(self._jobs))]

    def _handle(self, index: int, message: Message) -> None:
        prefix = f"device {self._jobs[index].spec.device}: " if len(self._jobs) > 1 else ""
        self._heard[index] = time.monotonic()
        if isinstance(message, Ended):
            self._lose(index, message.reason)
        elif isinstance(message, BackendError):
            self._lose(index, f"{prefix}{message}")
        elif isinstance(message, ZoofastError):
            raise type(message)(f"{prefix}{message}")
        elif isinstance(message, BaseException):
            raise message
        elif isinstance(message, DeviceRun):
            self._runs[index] = message
        elif isinstance(message, Ready):
            self._ready.add(index)
            self._begin_if_ready()
        elif isinstance(message, FirstResult):
            if self._first is None:
                self._first = message
                self._commit(message.outputs, message.images_per_file)
                self._restart_clocks()  # no worker was heard meanwhile
            elif self._first.images_per_file != message.images_per_file:
                raise BackendError(
                    f"{prefix}by their sizes, its files hold {message.images_per_file} images "
                    f"each, others {self._first.images_per_file}; give --images-per-file"
                )
            self._let_go_on(index)
        else:
            self._progress(message)

    def _begin_if_ready(self) -> None:
        """Lets all devices begin when each has loaded the model or is lost, so that the time that
        loading takes does not count."""
        if self._began or len(self._ready | self._runs.keys()) < len(self._jobs):
            return
        self._began = time.time()
        for index in self._ready - self._runs.keys():
            self._let_go_on(index)
        self._restart_clocks()

    def _restart_clocks(self) -> None:
        self._heard = [time.monotonic()] * len(self._jobs)

    def _lose_late(self) -> None:
        now, has_begun = time.monotonic(), self._began > 0
        for index, job in enumerate(self._jobs):
            waits = index in self._runs or (index in self._ready and not has_begun)
            since = None if waits else self._heard[index]
            name = f"device {job.spec.device}"
            reason = self._lateness.reason(index, name, since, now, has_begun)
            if reason is not None:
                self._lose(index, reason, DeviceTimeoutError)

    def _lose(self, index: int, reason: str, error: type[BackendError] = BackendError) -> None:
        """Gives a device up. Raises `error` if the others cannot compute its files."""
        job, now = self._jobs[index], time.time()
        run = DeviceRun(job.spec.device, InferReport(0), self._began or now, now, reason)
        self._runs[index] = run
        lost = {run.device: run.lost for run in self._runs.values() if run.lost is not None}
        if job.files is None or len(lost) == len(self._jobs):
            raise error(joined_reasons(lost, self._began > 0))
        self._tell_lost(job.spec.device, reason)
        self._give_up(index)
        self._begin_if_ready()


def run_job(
    job: InferJob,
    send: Callable[[Any], None],
    ask: Callable[[Any], None],
    opened: Callable[[Any], None] = lambda model: None,
) -> DeviceRun:
    """What a worker does. send: sends a message. ask: sends one and waits until the worker may go
    on. opened: called with the model. Raises what the job raises."""
    started = 0.0

    def ready() -> None:
        nonlocal started
        ask(Ready())
        started = time.time()

    report = job.run(send, ready, lambda *first: ask(FirstResult(*first)), opened)
    return DeviceRun(job.spec.device, report, started, time.time())
