"""What a profile holds. All rates are images per second."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from zoofast.base.provenance import versions
from zoofast.inference.transfer import Transfer
from zoofast.preprocess.loader import Failure
from zoofast.preprocess.recipe import Recipe
from zoofast.profiling.disk import DiskRate
from zoofast.timing.timeline import STAGES, WRITE, Span

MAX_IDLE = 0.15  # part of the time; a worker or a device that is idle for longer waits for others


@dataclass(frozen=True)
class ThreadRates:
    """The rates of the pipeline with `threads` threads, one per round."""

    threads: int
    rates: list[float]
    efficiency: float  # median rate / (threads × median rate of one thread)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


@dataclass(frozen=True)
class Stage:
    """The time of one stage, and the rate of the pipeline if the stage took no time."""

    name: str
    microseconds: float  # per image, in one thread
    share: float | None  # of an image's computing; None for writing, which is not computing
    rate_if_free: float | None  # None where no other stage is left


@dataclass(frozen=True)
class Demand:
    """The rate of one model on one chip, and how much of it this host supplies."""

    model: str
    chip: str
    batch: int
    recipe: str
    device_rate: float
    host_rate: float  # with the model's own recipe, on all threads
    cores: int  # that would supply the device, each as fast as a core of this host

    @property
    def supplied(self) -> float:
        """The part of the device's rate that this host supplies, at most 1."""
        return min(1.0, self.host_rate / self.device_rate)


@dataclass(frozen=True)
class StreamProfile:
    """The evaluation of a model: the pipeline and the device together."""

    model: str
    input: str
    rate: float
    device_rate: float  # of the device alone
    device_busy: float  # part of the time in which the device computed
    microseconds: dict[str, float]  # per image: h2d, infer, d2h
    transfer: Transfer | None = None  # None if the backend does not time its copies

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `microseconds` and the times of `transfer` are per image."""
        transfer = self.transfer.as_dict() if self.transfer else None
        return {**asdict(self), "transfer": transfer}


@dataclass
class Profile:
    """Everything that `zoofast.profiling.profile.profile` measured."""

    source: str
    sample: int  # images that were measured, of `total`
    total: int
    recipe: Recipe
    writes: bool  # the pipeline wrote each tensor to a file
    threads: int
    cores: int  # that the threads may use: one each, and no more than this process has
    rate: float
    nbytes_per_image: float
    failures: list[Failure]
    stages: list[Stage]
    per_thread: dict[str, dict[str, float]]  # thread -> stage or "idle" -> part of the time
    busy: float  # part of the time in which the workers kept `cores` busy, at most 1
    cores_used: float  # by the whole process
    scaling: list[ThreadRates]
    read: DiskRate
    write: DiskRate
    demands: list[Demand] = field(default_factory=list)
    rate_over_time: list[tuple[float, float]] = field(default_factory=list)
    window: list[Span] = field(default_factory=list)
    stream: StreamProfile | None = None
    verdict: list[str] = field(default_factory=list)

    @property
    def workers_wait(self) -> bool:
        """Whether something other than computing limits the pipeline."""
        return self.busy < 1 - MAX_IDLE

    def as_dict(self) -> dict[str, Any]:
        """All but `window`, for JSON."""
        return {
            "tool": "zoofast profile",
            "versions": versions(),
            "source": self.source,
            "images": {"total": self.total, "measured": self.sample},
            "recipe": {"name": self.recipe.name, "digest": self.recipe.digest},
            "writes_tensors": self.writes,
            "threads": self.threads,
            "cores": self.cores,
            "images_per_second": self.rate,
            "nbytes_per_image": self.nbytes_per_image,
            "verdict": self.verdict,
            "stages": [asdict(stage) for stage in self.stages],
            "per_thread": self.per_thread,
            "busy": self.busy,
            "cores_used": self.cores_used,
            "scaling": [{**asdict(point), "rate": point.rate} for point in self.scaling],
            "read": asdict(self.read),
            "write": asdict(self.write),
            "stream": self.stream.as_dict() if self.stream else None,
            "demands": [{**asdict(demand), "supplied": demand.supplied} for demand in self.demands],
            "rate_over_time": self.rate_over_time,
            "failures": [asdict(failure) for failure in self.failures],
        }


def stages_of(busy_ns: Mapping[str, int], images: int, rate: float, busy: float) -> list[Stage]:
    """The stages that took time, in the order of STAGES.

    busy_ns: stage -> nanoseconds, summed over the workers and writers. rate, busy: see Profile.

    While the workers compute, an image that needs less computing raises the rate. While they wait,
    it does not. Writers write files at the same time as the workers compute. So writing is no part
    of an image's computing. Without writing, the workers would not wait.
    """
    total = sum(ns for name, ns in busy_ns.items() if name != WRITE)
    waiting = busy < 1 - MAX_IDLE
    stages = []
    for name in STAGES:
        ns = busy_ns.get(name, 0)
        if not ns:
            continue
        share: float | None = ns / total if name != WRITE else None
        rate_if_free: float | None = rate
        if name == WRITE:
            rate_if_free = rate / busy if waiting else rate
        elif not waiting:
            rate_if_free = rate * total / (total - ns) if total > ns else None
        stages.append(Stage(name, ns / images / 1e3, share, rate_if_free))
    return stages
