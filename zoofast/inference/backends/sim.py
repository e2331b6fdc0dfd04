"""A simulated NPU: it computes nothing and takes the time that an NPU of a given speed would."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.errors import BackendError
from zoofast.inference.backends import BatchSize
from zoofast.inference.backends.null import NullModel, parse_model

MAX_OVERRUN_NS = 50_000_000  # of a sleep on a busy machine


def load(
    model: str, device: int, batch: BatchSize, provider: str | None, concurrency: int
) -> SimModel:
    """model: the null backend's text, @, images a second: 8x3x224x224:float32:1000@21301.5."""
    spec, _, fps = model.rpartition("@")
    try:
        speed = float(fps)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise BackendError(
            f"{model}: a simulated NPU is SHAPE[:DTYPE[:CLASSES]]@FPS, as "
            "8x3x224x224:float32:1000@21301"
        )
    return SimModel(*parse_model(spec, batch), speed)


class SimModel(NullModel):
    """Returns the scores of NullModel after the time that an NPU of `fps` images a second takes.

    An execution lasts batch / fps seconds. A sleep may last longer than it was asked to; the next
    execution is shorter by that time, because an NPU would not have lost it. After more than
    MAX_OVERRUN_NS the process was stopped, and the rest of that time is lost.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], classes: int, fps: float
    ) -> None:
        super().__init__(shape, dtype, classes)
        self._ns = round(shape[0] / fps * 1e9)
        self._overrun_ns = 0  # by which the last sleep was too long

    def infer(self, *batch: NDArray[Any], loop: int = 1) -> list[NDArray[Any]]:
        outputs = []
        for _ in range(loop):
            end = time.monotonic_ns() - self._overrun_ns + self._ns
            outputs = super().infer(*batch)
            while (left := end - time.monotonic_ns()) > 0:
                time.sleep(left / 1e9)
            self._overrun_ns = min(-left, MAX_OVERRUN_NS)
            self._times.compute[-1] = self._ns / 1e6
        return outputs

    def reset_times(self) -> None:
        super().reset_times()
        self._overrun_ns = 0
