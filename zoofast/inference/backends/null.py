"""A model that computes nothing, to measure the speed of the host alone."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.errors import BackendError
from zoofast.inference.backends import BatchSize, TensorInfo, Times, check_batch, input_shape

_SPEC = re.compile(r"(?P<shape>[1-9]\d*(x[1-9]\d*)+)(:(?P<dtype>\w+))?(:(?P<classes>[1-9]\d*))?")
DTYPES = ("float32", "float16", "uint8")


def load(
    model: str, device: int, batch: BatchSize, provider: str | None, concurrency: int
) -> NullModel:
    """model: SHAPE[:DTYPE[:CLASSES]] instead of a file, for example 8x3x224x224:float32:1000."""
    return NullModel(*parse_model(model, batch))


def parse_model(model: str, batch: BatchSize) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """The input's shape and dtype, and the number of classes. Raises BackendError."""
    spec = _SPEC.fullmatch(model)
    if not spec or (spec["dtype"] or DTYPES[0]) not in DTYPES:
        raise BackendError(
            f"{model}: a made-up model is SHAPE[:DTYPE[:CLASSES]], as 8x3x224x224:float32:1000, "
            f"DTYPE one of {', '.join(DTYPES)}"
        )
    declared: list[int | None] = [int(number) for number in spec["shape"].split("x")]
    shape = input_shape(model, "image", declared, batch)
    return shape, np.dtype(spec["dtype"] or DTYPES[0]), int(spec["classes"] or 1000)


class NullModel:
    """The score of class i is -i (float32), for every image. A zoofast.inference.backends.Model."""

    concurrency = 1

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], classes: int) -> None:
        self.input = TensorInfo("image", shape, dtype)
        self.inputs = [self.input]
        self.outputs = [TensorInfo("class", (shape[0], classes), np.dtype(np.float32))]
        self._scores = np.tile(-np.arange(classes, dtype=np.float32), (shape[0], 1))
        self._times = Times()

    def infer(self, *batch: NDArray[Any], loop: int = 1) -> list[NDArray[Any]]:
        check_batch(self.inputs, batch)
        for _ in range(loop):
            begin = time.perf_counter()
            scores = self._scores.copy()
            self._times.compute.append((time.perf_counter() - begin) * 1e3)
        return [scores]

    def times(self) -> Times:
        return self._times

    def reset_times(self) -> None:
        self._times = Times()

    def __enter__(self) -> NullModel:
        return self

    def __exit__(self, *exception: object) -> None:
        pass
