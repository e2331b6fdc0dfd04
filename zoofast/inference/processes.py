"""Runs one job on each of several devices at the same time, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from zoofast.errors import BackendError, ZoofastError
from zoofast.inference.job import InferJob, InferReport, Progress


@dataclass
class DeviceRun:
    """One device's part of a run, and when it ran, in seconds since the epoch."""

    device: int
    report: InferReport
    start_time: float
    end_time: float


def run_jobs(jobs: Sequence[InferJob], progress: Progress) -> list[DeviceRun]:
    """Runs each job on its device, all at the same time; the runs are in the order of `jobs`.

    A single job runs in the calling thread. The first device that fails ends the others; the error
    is raised with the device's number.
    """
    if len(jobs) == 1:
        started = time.time()
        report = jobs[0].run(progress)
        return [DeviceRun(jobs[0].spec.device, report, started, time.time())]
    # A fork of a process that has used a device does not work, so processes are spawned.
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(jobs))
    processes, pipes = [], []
    for job in jobs:
        pipe, child_pipe = context.Pipe(duplex=False)
        process = context.Process(target=_run_one, args=(job, child_pipe, barrier), daemon=True)
        process.start()
        child_pipe.close()
        processes.append(process)
        pipes.append(pipe)
    runs: dict[int, DeviceRun] = {}
    try:
        while len(runs) < len(jobs):
            for ready in wait([pipe for i, pipe in enumerate(pipes) if i not in runs]):
                index = pipes.index(ready)  # type: ignore[arg-type]
                device = jobs[index].spec.device
                try:
                    message = pipes[index].recv()
                except EOFError:
                    processes[index].join()
                    raise BackendError(
                        f"device {device}: its process ended with exit code "
                        f"{processes[index].exitcode}"
                    ) from None
                if isinstance(message, ZoofastError):
                    raise type(message)(f"device {device}: {message}")
                if isinstance(message, DeviceRun):
                    runs[index] = message
                else:
                    progress(message)
    finally:
        for index, process in enumerate(processes):
            if index not in runs:
                process.terminate()
            process.join()
    return [runs[index] for index in range(len(jobs))]


def _run_one(job: InferJob, pipe: Connection, barrier: Any) -> None:
    """The device's process: sends numbers of images, and then a DeviceRun or a ZoofastError."""
    try:
        started = 0.0

        def ready() -> None:
            nonlocal started
            barrier.wait()  # loading takes different times; the devices begin together
            started = time.time()

        report = job.run(pipe.send, ready)
        pipe.send(DeviceRun(job.spec.device, report, started, time.time()))
    except ZoofastError as error:
        pipe.send(error)
    except KeyboardInterrupt:
        pass  # the parent, which is interrupted as well, reports it
