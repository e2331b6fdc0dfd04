"""What an evaluation found, and how far a running one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from zoofast.base.nodes import NodeReport, lost_lines
from zoofast.base.provenance import model_digest, versions
from zoofast.base.text import percent
from zoofast.inference.backends import TensorInfo, Times, backend_of
from zoofast.inference.spec import ModelSpec
from zoofast.preprocess.loader import Failure, Stats
from zoofast.preprocess.recipe import Recipe
from zoofast.scoring.score import Score
from zoofast.timing.timeline import Timeline

HOST_BOUND, DEVICE_BOUND = 0.5, 0.9  # parts of the time that a device computes


@dataclass
class EvalProgress:
    """How far an evaluation is, for a progress bar.

    resumed: images done by an earlier run. images: tried by this run. scored: images of both runs
    with a label and an answer. hits: (top-1, top-k) of the scored images. device_busy: the part of
    the time that the devices computed. nbytes_in: bytes read. lost_devices: device -> why it was
    given up. lost_nodes: node of a cluster, or a device of it -> why.
    """

    resumed: int
    images: int = 0
    failures: int = 0
    scored: int = 0
    hits: tuple[int, int] = (0, 0)
    device_busy: float = 0.0
    nbytes_in: int = 0
    lost_devices: Mapping[int, str] = field(default_factory=dict)
    lost_nodes: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Evaluation:
    """The result of a run. Times and rates are of this run, without the resumed images."""

    recipe: Recipe
    source: str
    specs: Sequence[ModelSpec]
    total: int  # images chosen
    skipped: int  # files that are no images
    resumed: int = 0  # images done by an earlier run
    images: int = 0  # images that went through the model in this run
    failures: list[Failure] = field(default_factory=list)
    state: str = "running"  # then complete or partial
    seconds: float = 0.0  # first image to last answer, without loading and closing the model
    threads: int = 0
    depth: int = 0
    concurrency: int = 0  # batches that all devices compute at the same time
    input: TensorInfo | None = None
    times: list[Times] = field(default_factory=list)  # of each device
    stats: Stats = field(default_factory=Stats)
    timeline: Timeline = field(default_factory=lambda: Timeline(0))
    lost_devices: dict[int, str] = field(default_factory=dict)  # device -> reason
    score: Score | None = None
    classes: int = 0  # of the model
    nodes: list[NodeReport] = field(default_factory=list)  # of a cluster; [] on this machine alone
    lost_nodes: dict[str, str] = field(default_factory=dict)  # node, or its device -> reason

    @property
    def title(self) -> str:
        """The model, for people."""
        return self.specs[0].title or self.specs[0].model

    @property
    def done(self) -> int:
        """Images with an answer, of this run and of an earlier one."""
        return self.resumed + self.images

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds > 0 else 0.0

    def device_share(self, stage: str) -> float:
        """The part of the devices' time in `stage`, which is "infer" or "wait"."""
        per_thread = self.timeline.busy_ns
        devices = [busy for name, busy in per_thread.items() if name.startswith("device")]
        total = sum(ns for busy in devices for ns in busy.values())
        return sum(busy.get(stage, 0) for busy in devices) / (total or 1)

    def device_rate(self) -> float:
        """Images a second that the devices alone would compute; 0.0 for those of a cluster."""
        if self.input is None:
            return 0.0
        batch, concurrency = self.input.shape[0], self.concurrency / len(self.specs)
        means = [float(np.mean(times.compute)) for times in self.times if times.compute]
        return sum(1000 * batch * concurrency / max(mean, 1e-9) for mean in means)

    def lost_lines(self) -> list[str]:
        """A line for each device and node that was given up, with the reason."""
        devices = lost_lines(self.lost_devices.values(), "devices")
        return devices + lost_lines(self.lost_nodes.values())

    def bottleneck(self) -> str:
        """Whether the device waits for the host, or the host for the device: a sentence."""
        if not self.images:
            return "No image went through the model in this run."
        busy = self.device_share("infer")
        if self.nodes:
            return f"The nodes' devices compute {percent(busy)} of the time."
        which = "The device waits for this host"
        if busy >= HOST_BOUND:
            which = "Host and device are about equally fast"
        if busy >= DEVICE_BOUND:
            which = "This host waits for the device"
        return f"{which}: the device computes {percent(busy)} of the time."

    def as_dict(self) -> dict[str, Any]:
        """Everything except the sampled spans, for JSON."""
        spec = self.specs[0]
        return {
            "tool": "zoofast eval",
            "versions": versions(),
            "state": self.state,
            "model": spec.model,
            "model_digest": model_digest(spec.model),
            "backend": backend_of(spec.model, spec.backend),
            "devices": [each.device for each in self.specs],
            "lost_devices": {str(device): why for device, why in self.lost_devices.items()},
            "input": str(self.input),
            "batchsize": self.input.shape[0] if self.input else None,
            "recipe": {"name": self.recipe.name, "digest": self.recipe.digest},
            "source": self.source,
            "total": self.total,
            "skipped_as_no_image": self.skipped,
            "resumed": self.resumed,
            "images": self.images,
            "failures": [asdict(failure) for failure in self.failures],
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "device_images_per_second": None if self.nodes else self.device_rate(),
            "device_busy": self.device_share("infer"),
            "threads": self.threads,
            "ring_depth": self.depth,
            "concurrency": self.concurrency,
            "stage_seconds": self.stats.stage_seconds,
            "decoders": self.stats.decoders,
            "per_thread": self.timeline.shares(),
            "rate_over_time": self.timeline.rate.points(),
            "nodes": [asdict(node) for node in self.nodes],
            "score": self.score.as_dict() if self.score else None,
        }
