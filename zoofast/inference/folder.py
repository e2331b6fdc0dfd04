"""A run of a model over a folder of tensor files, on one or more devices; resuming such a run.

<folder>_run.json beside the result folder records which run's results the folder holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoofast.base.files import write_atomic
from zoofast.base.names import stem
from zoofast.base.provenance import model_digest
from zoofast.errors import OutputError, ResultError
from zoofast.inference.ais_bench import summary
from zoofast.inference.backends import latency
from zoofast.inference.job import InferJob, Progress
from zoofast.inference.outputs import sibling_path
from zoofast.inference.processes import DeviceRun, run_jobs
from zoofast.inference.record import RunRecord


@dataclass
class FolderRun:
    """What a run did, on each device. resumed: files whose results an earlier run had made."""

    model: str
    folder: Path | None
    runs: list[DeviceRun]
    resumed: int = 0

    @property
    def failures(self) -> dict[str, str]:
        """File -> reason, of the files that were left out."""
        return {file: reason for run in self.runs for file, reason in run.report.failures.items()}

    def as_dict(self) -> dict[str, Any]:
        """The numbers for JSON. Rates are images a second."""
        images = sum(run.report.images for run in self.runs)
        seconds = max(run.report.seconds for run in self.runs)
        return {
            "model": self.model,
            "batchsize": self.runs[0].report.batch,
            "devices": [run.device for run in self.runs],
            "output": str(self.folder) if self.folder else None,
            "images": images,
            "files": sum(run.report.files for run in self.runs),
            "resumed": self.resumed,
            "seconds": seconds,
            "images_per_second": images / max(seconds, 1e-9),
            "device_throughput": sum(run.report.throughput() for run in self.runs),
            "latency_ms": latency([ms for run in self.runs for ms in run.report.times.compute]),
            "failures": self.failures,
        }

    def write_summaries(self, arguments: list[str]) -> None:
        """Writes ais_bench's summary file beside each device's results. Raises OutputError."""
        if self.folder is None:
            return
        for run in self.runs:
            folder = self.folder if len(self.runs) == 1 else _device_folder(self.folder, run.device)
            content = json.dumps(summary(run.report, arguments)).encode()
            write_atomic(sibling_path(folder, "_summary.json"), content)


def infer_folder(
    job: InferJob,
    devices: Sequence[int],
    *,
    source: str | None = None,
    resume: bool = False,
    begin: Callable[[int], None] = lambda images: None,
    progress: Progress = lambda images: None,
) -> FolderRun:
    """Runs `job` on `devices`. Each device gets a part of the files, and a folder of its own if
    there are several.

    source: where the files are from, for the record. resume: results of an earlier run of the same
    model, source and format are kept. Otherwise earlier results of these files are removed first.
    begin: called once with the number of images that the earlier run had done. Raises OutputError
    (also when a run cannot be resumed), BackendError, SourceError.
    """
    todo = job.files
    if job.folder is not None:
        samples = tuple(stem(file) for file in job.files or [])
        record = RunRecord(
            model_digest(job.spec.model), source, job.fmt, job.images_per_file, samples=samples
        )
        todo = _prepare_folder(job, job.folder, record, resume)
    resumed = len(job.files or []) - len(todo or [])
    begin(resumed * job.images_per_file)
    runs = run_jobs(_divide(replace(job, files=todo), devices), progress)
    if job.folder is not None:
        replace(record, outputs=tuple(runs[0].report.outputs)).write(job.folder)
    return FolderRun(job.spec.model, job.folder, runs, resumed)


def _device_folder(folder: Path, device: int) -> Path:
    """Where a device's results go if there are several devices, as in ais_bench."""
    return folder / f"device{device}"


def _divide(job: InferJob, devices: Sequence[int]) -> list[InferJob]:
    """One job for each device, with consecutive files."""
    jobs = []
    for i, device in enumerate(devices):
        files, folder = job.files, job.folder
        if files is not None:
            files = files[len(files) * i // len(devices) : len(files) * (i + 1) // len(devices)]
        if folder is not None and len(devices) > 1:
            folder = _device_folder(folder, device)
            folder.mkdir(exist_ok=True)
        spec = replace(job.spec, device=device)
        jobs.append(replace(job, spec=spec, files=files, folder=folder))
    return jobs


def _prepare_folder(
    job: InferJob, folder: Path, record: RunRecord, resume: bool
) -> list[str] | None:
    """Writes the record; returns the files that have no results yet.

    Without `resume`, earlier results of the files are removed first: a later --resume must not take
    them for results of this run.
    """
    existing = _existing_results(folder, job.fmt)
    files = job.files or []
    recorded = _read_record(folder) if resume else None
    if recorded is not None:
        _check_record(recorded, folder, record)
        replace(record, outputs=recorded.outputs).write(folder)
        return [file for file in files if stem(file) not in existing]
    if resume and existing:
        raise OutputError(f"{folder}: holds results of an unknown run; begin anew without --resume")
    for file in files:
        for result in existing.get(stem(file), []):
            with suppress(FileNotFoundError):
                result.unlink()
    record.write(folder)
    return job.files


def _read_record(folder: Path) -> RunRecord | None:
    try:
        return RunRecord.read(folder)
    except ResultError as error:
        raise OutputError(f"{error}, without --resume") from error


def _check_record(recorded: RunRecord, folder: Path, record: RunRecord) -> None:
    """Raises OutputError unless `recorded` is of the run that `record` describes."""
    for key in ("model", "input", "outfmt", "images_per_file"):
        old, new = getattr(recorded, key), getattr(record, key)
        if old != new:
            raise OutputError(
                f"{folder}: holds a run of another {key} ({old}, not {new}); begin anew without "
                "--resume"
            )


def _existing_results(folder: Path, fmt: str) -> dict[str, list[Path]]:
    """The result files of a folder and of its devices' folders, by the name of the input."""
    results: dict[str, list[Path]] = {}
    for where in (folder, *folder.glob("device*")):
        for path in where.glob(f"*_*.{fmt.lower()}"):
            results.setdefault(path.stem.rpartition("_")[0], []).append(path)
    return results
