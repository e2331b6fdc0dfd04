"""One run on several devices: a process for each, because a device's calls keep the GIL."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from zoofast.errors import BackendError, ZoofastError
from zoofast.inference.folder import InferReport, Job, Progress


@dataclass
class DeviceRun:
    """One device's part of a run, and when it ran (seconds since the epoch)."""

    device: int
    report: InferReport
    start_time: float
    end_time: float


def run_jobs(jobs: Sequence[Job], progress: Progress) -> list[DeviceRun]:
    """Runs each job on its device, all at the same time; the runs in the order of `jobs`.

    A single job runs in the calling thread. Processes are spawned: a fork of a process that has
    used a device is broken. The first device that fails ends the others; its error is raised
    with its number.
    """
    if len(jobs) == 1:
        started = time.time()
        report = jobs[0].run(progress)
        return [DeviceRun(jobs[0].device, report, started, time.time())]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(jobs))
    processes, pipes = [], []
    for job in jobs:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run_one, args=(job, theirs, barrier), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    done: dict[int, DeviceRun] = {}
    try:
        while len(done) < len(jobs):
            waiting = [pipe for i, pipe in enumerate(pipes) if i not in done]
            for pipe in wait(waiting):
                index = pipes.index(pipe)  # type: ignore[arg-type]
                try:
                    message = pipes[index].recv()
                except EOFError:
                    processes[index].join()
                    raise BackendError(
                        f"device {jobs[index].device}: its process ended with exit code "
                        f"{processes[index].exitcode}"
                    ) from None
                if isinstance(message, ZoofastError):
                    raise type(message)(f"device {jobs[index].device}: {message}")
                if isinstance(message, DeviceRun):
                    done[index] = message
                else:
                    progress(message)
    finally:
        for index, process in enumerate(processes):
            if index not in done:
                process.terminate()
            process.join()
    return [done[index] for index in range(len(jobs))]


def _run_one(job: Job, pipe: Connection, barrier: Any) -> None:
    """In the device's process: sends counts of images, then a DeviceRun or a ZoofastError."""
    try:
        started = 0.0

        def ready() -> None:
            nonlocal started
            barrier.wait()  # loading takes its time; the devices begin together
            started = time.time()

        report = job.run(pipe.send, ready)
        pipe.send(DeviceRun(job.device, report, started, time.time()))
    except ZoofastError as error:
        pipe.send(error)
    except KeyboardInterrupt:
        pass  # the parent, interrupted as well, says so
