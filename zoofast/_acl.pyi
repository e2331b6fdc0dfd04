"""Models on Ascend NPUs (zoofast/_acl.pyx, csrc/acl.h). Private to zoofast.

All functions raise AclError. No function holds the GIL while it waits for a device.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

class AclError(Exception):
    """A function of ACL failed: its number, name and explanation, and the cure if it is known."""

class Tensor(NamedTuple):
    """An input or output of a model."""

    name: str
    type: int  # aclDataType
    shape: tuple[int, ...]  # -1 where dynamic
    nbytes: int  # of the largest shape; 0: not known
    aipp: int  # 0 none, 1 static, 2 dynamic

class Times(NamedTuple):
    """Milliseconds of a batch's steps; compute: of one execution. Below 0: unknown."""

    to_device: float
    compute: float
    from_device: float

def open_library(file: str | os.PathLike[str]) -> None:
    """Opens libascendcl.so, at the first call in this process."""

def is_open() -> bool: ...
def finalize() -> None:
    """Releases the devices and finalizes ACL, unless a model is open or a device was abandoned. At
    the end of the process; ACL cannot be used again."""

class HostMemory:
    """Pinned memory of the host: a writable buffer."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

class Model:
    """A model on a device, which holds up to `slots` batches at a time.

    One thread makes it and calls its methods, except host_memory and abandon.
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    dynamic: str  # "", "batch", "hw", "dims" or "shape"
    gears: list[tuple[int, ...]]  # the shapes that the model is compiled for
    def __init__(self, device: int, file: str | os.PathLike[str], slots: int) -> None: ...
    @property
    def in_flight(self) -> int: ...
    def set_aipp(
        self,
        source: tuple[int, int],
        crop: tuple[int, int, int, int],
        swap: bool,
        low: Sequence[float],
        var: Sequence[float],
    ) -> None:
        """Dynamic AIPP: RGB images of `source` (h, w), crop (y, x, h, w), then for each channel
        (value - low) * var. swap: the network takes BGR. Before the first batch."""

    def set_output_size(self, i: int, nbytes: int) -> None:
        """For an output of unknown size; before the first batch."""

    def host_memory(self, nbytes: int) -> HostMemory: ...
    def begin(
        self, arrays: Sequence[NDArray[Any]], gear: Sequence[int] = (), loop: int = 1
    ) -> None:
        """Queues a batch; the arrays must not change before its end. gear: one of `gears`, or with
        a dynamic shape the dimensions of all inputs in a row."""

    def end(self, dtypes: Sequence[np.dtype[Any]]) -> tuple[list[NDArray[Any]], Times]:
        """Waits for the oldest batch; its outputs, with the caller's dtypes."""

    def abandon(self) -> None:
        """For a device that does not answer, from any thread: `end` raises within about a second,
        and closing leaves everything as it is."""

    def close(self, seconds: int = 2) -> None:
        """Waits for queued batches, for `seconds` at most, and frees everything."""
