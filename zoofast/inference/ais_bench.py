"""The numbers of a run in ais_bench's words: the lines on standard output and the summary file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from zoofast.inference.job import InferReport
from zoofast.inference.workers import DeviceRun


def statistics(times: Sequence[float]) -> dict[str, float]:
    """The numbers of one line of the summary. times: milliseconds; no times give zeros."""
    values = np.asarray(times or [0.0])
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "percentile(99%)": float(np.percentile(values, 99)),
    }


def summary_lines(report: InferReport, display_all: bool = False) -> Iterator[str]:
    """ais_bench's performance summary of one device. display_all: also the times of the copies."""

    def line(name: str, times: Sequence[float]) -> str:
        numbers = ", ".join(f"{key} = {value}" for key, value in statistics(times).items())
        return f"[INFO] {name} (ms): {numbers}"

    yield "[INFO] -----------------Performance Summary------------------"
    if display_all and report.times.to_device:
        yield line("H2D_latency", report.times.to_device)
    yield line("NPU_compute_time", report.times.compute)
    if display_all and report.times.from_device:
        yield line("D2H_latency", report.times.from_device)
    mean = float(np.mean(report.times.compute))
    yield (
        f"[INFO] throughput 1000*batchsize.mean({report.batch})/NPU_compute_time.mean({mean}): "
        f"{report.throughput()}"
    )
    yield "[INFO] ------------------------------------------------------"


def device_lines(runs: Sequence[DeviceRun]) -> Iterator[str]:
    """ais_bench's last lines after a run on several devices."""
    for index, run in enumerate(runs):
        yield (
            f"i:{index} device_{run.device} throughput:{run.report.throughput()} "
            f"start_time:{run.start_time} end_time:{run.end_time}"
        )
    yield f"[INFO] summary throughput:{sum(run.report.throughput() for run in runs)}"


def summary(
    report: InferReport,
    arguments: list[str],
    further: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, Any]:
    """The content of ais_bench's summary file, with its keys in its order. further: files of the
    model's further inputs, as in InferJob."""
    others = further or {}

    def with_count(times: Sequence[float]) -> dict[str, float]:
        return {**statistics(times), "count": len(times)}

    return {
        "filesinfo": {
            str(i): {"infiles": [file, *others.get(file, ())], "outfiles": results}
            for i, (file, results) in enumerate(report.results)
        },
        "args": arguments,
        "NPU_compute_time": with_count(report.times.compute),
        "H2D_latency": with_count(report.times.to_device),
        "D2H_latency": with_count(report.times.from_device),
        "throughput": report.throughput(),
        "npu_compute_time_list": report.times.compute,
        "pid": os.getpid(),
    }
