"""A run of a model over a folder of tensor files, on one or more devices; resuming such a run.

<folder>_run.json beside the result folder records which run's results the folder holds; see
zoofast.inference.record. A run replaces all results of the recorded run, but not before its own
first outputs are computed. So a folder never holds results of two runs.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoofast.base.files import write_atomic, write_errors
from zoofast.base.lock import output_lock
from zoofast.base.names import stem
from zoofast.base.provenance import model_digest
from zoofast.errors import BackendError, OutputError, ResultError
from zoofast.inference.ais_bench import summary
from zoofast.inference.backends import Times, latency
from zoofast.inference.job import PURE, InferJob, InferReport, Progress
from zoofast.inference.outputs import ResultSink, is_whole, sibling_path
from zoofast.inference.parallel import run_jobs
from zoofast.inference.record import RecordedOutput, RunRecord, record_path
from zoofast.inference.spec import DEVICE_TIMEOUT
from zoofast.inference.workers import DeviceRun, Lost


@dataclass
class FolderRun:
    """What a run did, on each device.

    resumed: files whose results an earlier run had made. inputs: all files of both runs, in order.
    earlier_results: the earlier run's files and their results. further: files of the model's
    further inputs, as in InferJob.
    """

    model: str
    folder: Path | None
    runs: list[DeviceRun]
    resumed: int = 0
    inputs: Sequence[str] = ()
    earlier_results: Sequence[tuple[str, list[str]]] = ()
    further: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def failures(self) -> dict[str, str]:
        """File -> reason, of the files that were left out."""
        return {file: reason for run in self.runs for file, reason in run.report.failures.items()}

    @property
    def lost_devices(self) -> dict[int, str]:
        """Device -> why it was given up. The other devices computed its files."""
        return {run.device: run.lost for run in self.runs if run.lost is not None}

    def as_dict(self) -> dict[str, Any]:
        """The numbers for JSON. Rates are images a second."""
        images = sum(run.report.images for run in self.runs)
        seconds = max(run.report.seconds for run in self.runs)
        return {
            "model": self.model,
            "batchsize": self.runs[0].report.batch,
            "devices": [run.device for run in self.runs],
            "lost_devices": {str(device): why for device, why in self.lost_devices.items()},
            "output": str(self.folder) if self.folder else None,
            "images": images,
            "images_per_file": self.runs[0].report.images_per_file,
            "files": sum(run.report.files for run in self.runs),
            "resumed": self.resumed,
            "seconds": seconds,
            "images_per_second": images / max(seconds, 1e-9),
            "device_throughput": sum(run.report.throughput() for run in self.runs),
            "latency_ms": latency([ms for run in self.runs for ms in run.report.times.compute]),
            "failures": self.failures,
        }

    def write_summaries(self, arguments: list[str]) -> None:
        """Writes ais_bench's summary file beside each device's results. Raises OutputError.

        It names the results of an earlier run too. Those in another folder are in the first file.
        """
        if self.folder is None:
            return
        folders = [self.folder]
        if len(self.runs) > 1:
            folders = [_device_folder(self.folder, run.device) for run in self.runs]
        position = {file: i for i, file in enumerate(self.inputs)}
        for run, folder in zip(self.runs, folders, strict=True):
            earlier = [
                (file, paths)
                for file, paths in self.earlier_results
                if Path(paths[0]).parent == folder
                or (folder == folders[0] and Path(paths[0]).parent not in folders)
            ]
            results = sorted(
                [*earlier, *run.report.results], key=lambda result: position.get(result[0], 0)
            )
            report = replace(run.report, results=results)
            content = json.dumps(summary(report, arguments, self.further)).encode()
            write_atomic(sibling_path(folder, "_summary.json"), content)


_RESULT = re.compile(r"(.+)_([0-9]{1,4})\.(bin|npy|txt)", re.ASCII)


def infer_folder(
    job: InferJob,
    devices: Sequence[int],
    *,
    source: str | None = None,
    images: Mapping[str, tuple[str, ...]] | None = None,
    recipe: str | None = None,
    resume: bool = False,
    timeout: float = DEVICE_TIMEOUT,
    begin: Callable[[int], None] = lambda files: None,
    progress: Progress = lambda files: None,
    lost: Lost = lambda device, reason: None,
) -> FolderRun:
    """Runs `job` on `devices`. Each device gets a part of the files, and a folder of its own if
    there are several. If a device is lost, the others compute the rest of its part.

    source: where the files are from, for the record. images, recipe: as RunRecord has them. resume:
    results of an earlier run of the same model, source, recipe and format are kept. Otherwise all
    results of the earlier run are removed when the first outputs are computed. timeout, lost: as in
    run_jobs.
    begin: called once with the number of files that the earlier run had done. Raises OutputError
    (also when a run cannot be resumed, or another process writes to the folder), BackendError,
    SourceError.
    """
    if job.folder is None:
        begin(0)
        runs = _run_devices(job, devices, None, progress, timeout, lost)
        return FolderRun(job.spec.model, None, runs)
    parts = job.folder.with_name(f".{job.folder.name}.parts")
    with output_lock(job.folder, job.folder.with_name(f".{job.folder.name}.lock")):
        shutil.rmtree(parts, ignore_errors=True)  # of a run that was killed
        results = _Results(job, job.folder, source, resume, images or {}, recipe)
        resumed = len(job.files or []) - len(results.todo or [])
        begin(resumed)
        try:
            with write_errors(parts):
                parts.mkdir()
            rest = replace(
                job, files=results.todo, parts=parts, images_per_file=results.images_per_file
            )
            runs = _run_devices(rest, devices, results, progress, timeout, lost)
        finally:
            shutil.rmtree(parts, ignore_errors=True)
    files = job.files or []
    return FolderRun(
        job.spec.model, job.folder, runs, resumed, files, results.earlier_results, job.further
    )


def _device_folder(folder: Path, device: int) -> Path:
    """Where a device's results go if there are several devices, as in ais_bench."""
    return folder / f"device{device}"


def _run_devices(
    job: InferJob,
    devices: Sequence[int],
    results: _Results | None,
    progress: Progress,
    timeout: float,
    lost: Lost,
) -> list[DeviceRun]:
    """Runs `job`. What lost devices have not done, the others do after their own parts.

    progress: called with a negative number for files that must be computed again.
    """
    several = len(devices) > 1
    runs: dict[int, DeviceRun] = {}
    jobs = _divide(job, devices, several)
    counted = 0  # files

    def count(files: int) -> None:
        nonlocal counted
        counted += files
        progress(files)

    def commit(outputs: tuple[RecordedOutput, ...], images_per_file: int) -> None:
        nonlocal job
        job = replace(job, images_per_file=images_per_file)
        if results is not None:
            results.commit(outputs, images_per_file)

    while True:
        try:
            new_runs = run_jobs(jobs, count, commit, timeout, lost)
        except BackendError as error:
            reasons = [run.lost for run in runs.values() if run.lost is not None]
            raise BackendError("; ".join([*reasons, str(error)])) from error
        batch = max(run.report.batch for run in new_runs)
        rest: list[str] = []
        for part, run in zip(jobs, new_runs, strict=True):
            if run.lost is not None and part.files is not None:
                done = results.keep_done(part.files) if results is not None else set()
                rest += [file for file in part.files if file not in done]
                known = replace(part, images_per_file=job.images_per_file)
                run.report = _report_of_lost(known, batch, done, results)
            earlier = runs.get(run.device)
            runs[run.device] = run if earlier is None else _joined(earlier, run)
        if not rest:
            return [runs[device] for device in devices]
        count(sum(run.report.files for run in runs.values()) - counted)
        left = [device for device in devices if runs[device].lost is None]
        # Perhaps only files that fit no model are left
        again = replace(job, files=rest, check_fit=False)
        jobs = _divide(again, left[: len(rest)], several)


def _report_of_lost(
    job: InferJob, batch: int, done: set[str], results: _Results | None
) -> InferReport:
    """What a lost device did: the results that it has written. The times are unknown."""
    images = job.images_per_file or 1
    report = InferReport(batch, images, files=len(done), images=len(done) * images)
    if job.folder is not None and results is not None:
        sink = ResultSink(job.folder, job.fmt, results.outputs)
        report.results = [
            (file, sink.files(stem(file))) for file in job.files or [] if file in done
        ]
    return report


def _joined(first: DeviceRun, second: DeviceRun) -> DeviceRun:
    """Two runs of one device, one after the other, as one. Its seconds include the wait between."""
    a, b = first.report, second.report
    report = InferReport(
        a.batch,
        a.images_per_file,
        a.files + b.files,
        a.images + b.images,
        second.end_time - first.start_time,
        Times(
            [*a.times.compute, *b.times.compute],
            [*a.times.to_device, *b.times.to_device],
            [*a.times.from_device, *b.times.from_device],
        ),
        {**a.failures, **b.failures},
        [*a.results, *b.results],
    )
    return DeviceRun(first.device, report, first.start_time, second.end_time, second.lost)


def _divide(job: InferJob, devices: Sequence[int], several: bool) -> list[InferJob]:
    """One job for each device, with consecutive files. several: each device has its own folder."""
    jobs = []
    for i, device in enumerate(devices):
        files, folder = job.files, job.folder
        if files is not None:
            files = files[len(files) * i // len(devices) : len(files) * (i + 1) // len(devices)]
        if folder is not None and several:
            folder = _device_folder(folder, device)
            folder.mkdir(exist_ok=True)
        spec = replace(job.spec, device=device)
        jobs.append(replace(job, spec=spec, files=files, folder=folder))
    return jobs


@dataclass
class _Sample:
    """The result files of one input that exist, each with the number of its output."""

    files: list[tuple[int, Path]] = field(default_factory=list)

    def is_done(self, record: RunRecord) -> bool:
        """Whether it has every output of the recorded run, whole."""
        outputs = record.outputs
        return {i for i, _ in self.files} == set(range(len(outputs))) and all(
            is_whole(file, record.outfmt, outputs[i].dtype, outputs[i].shape)
            for i, file in self.files
        )


class _Results:
    """The results in a folder: what an earlier run made, and what is still to be done.

    todo: the files that have no result of every output yet; None for pure inference.
    earlier_results: the other files, each with its results.
    images_per_file: the job's, or the earlier run's; None: not known yet.
    """

    def __init__(
        self,
        job: InferJob,
        folder: Path,
        source: str | None,
        resume: bool,
        images: Mapping[str, tuple[str, ...]],
        recipe: str | None,
    ) -> None:
        self._folder = folder
        self._committed = False
        names = [PURE] if job.files is None else [stem(file) for file in job.files]
        self._record = RunRecord(
            model_digest(job.spec.model),
            source,
            job.fmt,
            job.images_per_file or 1,
            samples=tuple(names),
            images={name: images[name] for name in names if name in images},
            recipe=recipe,
        )
        try:
            earlier = RunRecord.read(folder)
        except ResultError as error:
            if resume:
                raise OutputError(str(error)) from error
            earlier = None
        existing = _existing_results(folder)
        self.todo = job.files
        self.earlier_results: list[tuple[str, list[str]]] = []
        self.images_per_file = job.images_per_file
        if resume and earlier is not None:
            self.images_per_file = job.images_per_file or earlier.images_per_file
            self._record = replace(self._record, images_per_file=self.images_per_file)
            self._check_same(earlier)
            self.todo = []
            for file in job.files or []:
                sample = existing.get(stem(file))
                if sample is not None and sample.is_done(earlier):
                    self.earlier_results.append(
                        (file, [str(path) for _, path in sorted(sample.files)])
                    )
                else:
                    self.todo.append(file)
        elif resume and existing:
            raise OutputError(
                f"{folder}: holds results of an unknown run; begin anew without --resume"
            )
        todo = {stem(file) for file in self.todo} if self.todo is not None else {PURE}
        replaced = todo | set(() if resume or earlier is None else earlier.samples)
        others = sorted(existing.keys() - set(names) - replaced)
        if others:
            raise OutputError(
                f"{folder}: holds {len(others)} results of other inputs ({others[0]}) that no run "
                "of zoofast has recorded; remove them, or choose another --output_dirname"
            )
        self._to_remove = [
            file for name in replaced for _, file in existing.get(name, _Sample()).files
        ]

    def commit(self, outputs: tuple[RecordedOutput, ...], images_per_file: int) -> None:
        """Removes the results that are replaced, and records the run; once.

        No record exists meanwhile: a run that is killed here leaves results of an unknown run.
        """
        if self._committed:
            return
        self._committed = True
        _remove([record_path(self._folder), *self._to_remove])
        self._record = replace(self._record, outputs=outputs, images_per_file=images_per_file)
        self._record.write(self._folder)

    @property
    def outputs(self) -> int:
        """The number of the model's outputs; 0 before the first are computed."""
        return len(self._record.outputs)

    def keep_done(self, files: Sequence[str]) -> set[str]:
        """Those of a lost device's `files` that have whole results of every output. The results of
        the others are removed, since another device gets these files."""
        if not self._committed:
            return set()
        existing = _existing_results(self._folder)
        done, to_remove = set(), []
        for file in files:
            sample = existing.get(stem(file), _Sample())
            if sample.is_done(self._record):
                done.add(file)
            else:
                to_remove += [path for _, path in sample.files]
        _remove(to_remove)
        return done

    def _check_same(self, earlier: RunRecord) -> None:
        """Raises OutputError unless the earlier run is one that this run can continue."""
        for key in ("model", "input", "recipe", "outfmt", "images_per_file"):
            recorded, value = getattr(earlier, key), getattr(self._record, key)
            if recorded != value:
                raise OutputError(
                    f"{self._folder}: holds a run of another {key} ({recorded}, not {value}); "
                    "begin anew without --resume"
                )
        if earlier.images != self._record.images:
            raise OutputError(
                f"{self._folder}: holds a run of bins of other images; begin anew without --resume"
            )


def _remove(paths: Sequence[Path]) -> None:
    """Removes the files that exist. Raises OutputError."""
    try:
        for path in paths:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be removed: {error.strerror}") from error


def _existing_results(folder: Path) -> dict[str, _Sample]:
    """The result files of a folder and of its devices' folders, by the name of the input."""
    results: dict[str, _Sample] = {}
    for where in (folder, *folder.glob("device[0-9]*")):
        if where.is_dir():
            for path in where.iterdir():
                match = _RESULT.fullmatch(path.name)
                if match:
                    sample = results.setdefault(match[1], _Sample())
                    sample.files.append((int(match[2]), path))
    return results
