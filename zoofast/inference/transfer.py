"""How much data goes to a device for each image, and how long that takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zoofast.base.text import percent
from zoofast.inference.backends import TensorInfo, Times


@dataclass(frozen=True)
class Transfer:
    """The data of one image. to_device, compute and from_device: microseconds, means of a run."""

    dtype: str  # of the inputs
    nbytes: int  # to the device
    nbytes_with_aipp: int  # of the same image as 8-bit pixels, which AIPP normalizes on the NPU
    to_device: float
    compute: float
    from_device: float

    @classmethod
    def of(cls, inputs: Sequence[TensorInfo], times: Times) -> Transfer | None:
        """None if the backend does not time its copies."""
        if not (times.to_device and times.compute):
            return None

        def mean(values: list[float]) -> float:
            return 1000 * float(np.mean(values or [0.0])) / inputs[0].shape[0]

        steps = (times.to_device, times.compute, times.from_device)
        dtypes = ", ".join(dict.fromkeys(str(info.dtype) for info in inputs))
        return cls(
            dtypes,
            sum(info.image_nbytes for info in inputs),
            sum(_aipp_nbytes(info) for info in inputs),
            *map(mean, steps),
        )

    @property
    def share(self) -> float:
        """The time of the copy to the device, as a part of the time of the computation."""
        return self.to_device / self.compute if self.compute else 0.0

    def sentences(self) -> Iterator[str]:
        """What the figures mean."""
        yield (
            f"An image has {self.nbytes:,} bytes. Its copy to the device takes "
            f"{self.to_device:,.0f} µs, {percent(self.share)} of the {self.compute:,.0f} µs of the "
            "computation"
            + (": the bus limits the device." if self.share > 1 else ", and may overlap with it.")
        )
        if self.nbytes_with_aipp < self.nbytes:
            parts = self.nbytes / self.nbytes_with_aipp
            yield (
                f"With AIPP an image has {self.nbytes_with_aipp:,} bytes of 8-bit pixels: the copy "
                f"takes about {self.to_device / parts:,.0f} µs, and the host normalizes nothing."
            )

    def as_dict(self) -> dict[str, Any]:
        """For JSON; times in microseconds."""
        return {**asdict(self), "bus_share": self.share}


def _aipp_nbytes(info: TensorInfo) -> int:
    """Bytes of an image for AIPP; of an input that is no image, its own."""
    is_image = len(info.shape) == 4 and info.dtype.kind == "f"
    return info.image_nbytes // (info.dtype.itemsize if is_image else 1)
