"""Runs one job on each of several devices at the same time."""

from __future__ import annotations

import time
from collections.abc import Sequence

from zoofast.inference.job import Commit, InferJob, Progress
from zoofast.inference.processes import Processes
from zoofast.inference.spec import DEVICE_TIMEOUT
from zoofast.inference.threads import Threads
from zoofast.inference.workers import DeviceRun, Lost


def run_jobs(
    jobs: Sequence[InferJob],
    progress: Progress = lambda files: None,
    commit: Commit = lambda outputs, images: None,
    timeout: float = DEVICE_TIMEOUT,
    lost: Lost = lambda device, reason: None,
) -> list[DeviceRun]:
    """Runs each job on its device, all at the same time; the runs are in the order of `jobs`.

    commit: called once, when the first outputs are computed and before any is written. timeout: as
    in zoofast.inference.devices.Devices. lost: called when a device is given up and the others go
    on. A single job runs in the calling thread if its backend cannot hang. Each job of the backend
    acl has a thread, each job of another backend a process.

    A device that cannot load the model, that fails or hangs is lost, and the others go on. Raises
    BackendError when no device is left, and when pure inference fails. Raises other errors of a job
    with the device's number.
    """
    spec = jobs[0].spec
    if len(jobs) == 1 and not spec.can_hang:
        started = time.time()
        report = jobs[0].run(progress, commit=commit)
        return [DeviceRun(spec.device, report, started, time.time())]
    workers = Threads if spec.can_hang and not spec.own_process else Processes
    return workers(jobs, progress, commit, timeout, lost).run()
