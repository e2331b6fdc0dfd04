"""Runs one job on each of several devices at the same time, each in a process of its own."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from zoofast.errors import BackendError, ZoofastError
from zoofast.inference.child import Child, end_children, wait_for_end
from zoofast.inference.devices import CHECK_SECONDS, OPENING_SECONDS, joined_reasons
from zoofast.inference.job import Commit, InferJob, InferReport, Progress
from zoofast.inference.record import RecordedOutput
from zoofast.inference.spec import DEVICE_TIMEOUT


@dataclass
class DeviceRun:
    """One device's part of a run, and when it ran, in seconds since the epoch.

    lost: why the device was given up; the report of such a device is empty.
    """

    device: int
    report: InferReport
    start_time: float
    end_time: float
    lost: str | None = None


@dataclass
class _Ready:
    """The model is loaded. The process waits for a message before it begins."""


@dataclass
class _FirstResult:
    """The first outputs are computed. The process waits for a message before it writes them."""

    outputs: tuple[RecordedOutput, ...]
    images_per_file: int


def run_jobs(
    jobs: Sequence[InferJob],
    progress: Progress = lambda files: None,
    commit: Commit = lambda outputs, images: None,
    timeout: float = DEVICE_TIMEOUT,
) -> list[DeviceRun]:
    """Runs each job on its device, all at the same time; the runs are in the order of `jobs`.

    commit: called once, when the first outputs are computed and before any is written. timeout: as
    in zoofast.inference.devices.Devices. A single job runs in the calling thread if its backend
    cannot hang.

    A device that cannot load the model, that fails or hangs is lost, and the others go on. Raises
    BackendError when no device is left, and when pure inference fails. Raises other errors of a job
    with the device's number.
    """
    if len(jobs) == 1 and not jobs[0].spec.can_hang:
        started = time.time()
        report = jobs[0].run(progress, commit=commit)
        return [DeviceRun(jobs[0].spec.device, report, started, time.time())]
    return _Processes(jobs, progress, commit, timeout).run()


class _Processes:
    """The processes of a run, and what they have sent so far."""

    def __init__(
        self,
        jobs: Sequence[InferJob],
        progress: Progress,
        commit: Commit,
        timeout: float,
    ) -> None:
        self._jobs, self._progress, self._commit = jobs, progress, commit
        self._timeout = timeout
        self._ready: set[int] = set()  # indices of jobs
        self._began = 0.0  # when all devices had loaded the model, in seconds since the epoch
        self._first: _FirstResult | None = None  # of any device
        self._runs: dict[int, DeviceRun] = {}
        self._children: list[Child] = []
        self._heard: list[float] = []  # when each process last sent something, monotonic seconds

    def run(self) -> list[DeviceRun]:
        try:
            for job in self._jobs:
                self._children.append(Child(_run_one, job))
                self._heard.append(time.monotonic())
            while len(self._runs) < len(self._jobs):
                running = [i for i in range(len(self._jobs)) if i not in self._runs]
                connections = [self._children[i].connection for i in running]
                for ready in wait(connections, min(self._timeout / 4, CHECK_SECONDS)):
                    self._receive(running[connections.index(ready)])  # type: ignore[arg-type]
                self._check_clocks()
            wait_for_end([self._children[i] for i, run in self._runs.items() if run.lost is None])
        finally:
            end_children(self._children)
            for child in self._children:
                child.close()
        return [self._runs[index] for index in range(len(self._jobs))]

    def _receive(self, index: int) -> None:
        child, device = self._children[index], self._jobs[index].spec.device
        prefix = f"device {device}: " if len(self._jobs) > 1 else ""
        try:
            message = child.connection.recv()
        except (EOFError, OSError):
            model, end = self._jobs[index].spec.model, child.describe_end()
            self._lose(index, f"{model}: the process of device {device} {end}")
            return
        self._heard[index] = time.monotonic()
        if isinstance(message, BackendError):
            self._lose(index, f"{prefix}{message}")
        elif isinstance(message, ZoofastError):
            raise type(message)(f"{prefix}{message}")
        elif isinstance(message, DeviceRun):
            self._runs[index] = message
            child.close()
        elif isinstance(message, _Ready):
            self._ready.add(index)
            self._begin_if_ready()
        elif isinstance(message, _FirstResult):
            if self._first is None:
                self._first = message
                self._commit(message.outputs, message.images_per_file)
                self._restart_clocks()  # no process was heard meanwhile
            elif self._first.images_per_file != message.images_per_file:
                raise BackendError(
                    f"{prefix}by their sizes, its files hold {message.images_per_file} images "
                    f"each, others {self._first.images_per_file}; give --images-per-file"
                )
            self._send(index)
        else:
            self._progress(message)

    def _begin_if_ready(self) -> None:
        """Lets all devices begin when each has loaded the model or is lost, so that the time that
        loading takes does not count."""
        if self._began or len(self._ready | self._runs.keys()) < len(self._jobs):
            return
        self._began = time.time()
        for index in self._ready - self._runs.keys():
            self._send(index)
        self._restart_clocks()

    def _restart_clocks(self) -> None:
        self._heard = [time.monotonic()] * len(self._jobs)

    def _check_clocks(self) -> None:
        now = time.monotonic()
        limit = self._timeout if self._began else max(self._timeout, OPENING_SECONDS)
        for index, job in enumerate(self._jobs):
            waits = index in self._runs or (index in self._ready and not self._began)
            if not waits and now - self._heard[index] > limit:
                what = "answered" if self._began else "loaded the model"
                self._lose(
                    index,
                    f"device {job.spec.device} has not {what} for {now - self._heard[index]:,.0f} "
                    f"s; a slow model may need a --device-timeout above {limit:g}",
                )

    def _send(self, index: int) -> None:
        """Lets the process go on."""
        with suppress(OSError):  # it has ended; the next _receive finds out
            self._children[index].connection.send(True)

    def _lose(self, index: int, reason: str) -> None:
        """Gives a device up. Raises BackendError if the others cannot compute its files."""
        job, child, now = self._jobs[index], self._children[index], time.time()
        run = DeviceRun(job.spec.device, InferReport(0), self._began or now, now, reason)
        self._runs[index] = run
        lost = {run.device: run.lost for run in self._runs.values() if run.lost is not None}
        if job.files is None or len(lost) == len(self._jobs):
            raise BackendError(joined_reasons(lost, self._began > 0))
        child.signal(signal.SIGTERM)  # run() kills the process if this does not end it
        child.close()
        self._begin_if_ready()


def _run_one(connection: Connection, job: InferJob) -> None:
    """The device's process: sends numbers of files, and then a DeviceRun or a ZoofastError."""
    signal.signal(signal.SIGTERM, _end_by_signal)
    started = 0.0

    def ask(message: Any) -> None:
        connection.send(message)
        connection.recv()

    def ready() -> None:
        nonlocal started
        ask(_Ready())
        started = time.time()

    message: DeviceRun | ZoofastError
    try:
        report = job.run(connection.send, ready, lambda *first: ask(_FirstResult(*first)))
        message = DeviceRun(job.spec.device, report, started, time.time())
    except ZoofastError as error:
        message = error
    # Everything is written. Python would print a traceback of a handler that runs at its exit.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection.send(message)


def _end_by_signal(*_: Any) -> None:
    """Ends the process, which writes the results that are computed first."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal would interrupt the writing
    sys.exit(-signal.SIGTERM)
