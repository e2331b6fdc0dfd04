"""The C core. Internal: the public API is what `zoofast.__all__` names."""

import enum
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FILTERS: dict[str, int]
ORDERS: dict[str, int]  # which pass comes first; see zf_order in csrc/zoofast.h
# Of an image, in the core. libjpeg-turbo's decoding is "decode"; our own decoder's is "entropy",
# "idct" and "colour" (upsampling included). Of stages that alternate, the times are estimates.
STAGES: tuple[str, ...]
DECODERS: tuple[str, ...]
PAGE: int

class Status(enum.IntEnum):
    OK = 0
    UNSUPPORTED = 1
    NOMEM = 2
    READ = 3
    WRITE = 4
    SIZE = 5
    CANCELLED = 6

class Outcome(NamedTuple):
    """How one image went."""

    status: int  # a Status
    errno: int  # for READ and WRITE
    size: tuple[int, int]  # for SIZE: the (height, width) that the tensor would have had
    decoder: int  # index into DECODERS
    nbytes_in: int  # bytes of the image file
    stage_ns: tuple[int, ...]  # nanoseconds, as STAGES
    begin_ns: int  # when a pool's thread began it, on time.monotonic_ns()'s clock
    worker: int  # which one
    write_begin_ns: int  # of a job with a file: when a writer began to write it
    writer: int  # which one

class Totals(NamedTuple):
    """How a batch went, in sums over its images."""

    nbytes_in: int
    stage_ns: tuple[int, ...]  # as STAGES
    decoded: tuple[int, ...]  # images whose status is OK, by decoder, as DECODERS
    not_ok: list[int]  # the places of the others

Bytes = bytes | memoryview | NDArray[np.uint8]

def isa_names() -> tuple[str, ...]:
    """The CPU levels that this build knows, worst first."""

def isa(name: str | None = None) -> str:
    """The level in use: `name`, else ZOOFAST_ISA, else the best that this CPU runs.

    Raises CpuLevelError for a level that is unknown or that this CPU cannot run.
    """

class Plan:
    """A recipe as the core takes it. Sizes are (height, width); table is (3, 256)."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    def __init__(
        self,
        *,
        resize: str,
        resize_size: tuple[int, int],
        filter: str,
        order: str,
        crop: tuple[int, int],
        crop_truncates: bool,
        out_size: tuple[int, int],
        nhwc: bool,
        channel_at: Sequence[int],
        table: NDArray[Any],
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...

class Workspace:
    """Scratch for one thread at a time."""

    def __init__(self, isa: str | None = None) -> None: ...
    def prepare(self, data: Bytes, plan: Plan, out: NDArray[np.uint8]) -> Outcome:
        """JPEG bytes -> out (plan.nbytes bytes, contiguous)."""

    def prepare_rgb(self, rgb: NDArray[np.uint8], plan: Plan, out: NDArray[np.uint8]) -> Outcome:
        """Pixels (H, W, 3) -> out."""

    def decode(
        self,
        data: Bytes,
        window: tuple[int, int, int, int] | None = None,
        decoder: str = "none",
    ) -> NDArray[np.uint8] | None:
        """RGB pixels (H, W, 3), all or of the window (x0, y0, x1, y1); None: ask Pillow.

        decoder: one of DECODERS, to have no other try; "none": the usual order.
        """

def write_file(
    path: str | os.PathLike[str], tmp_path: str | os.PathLike[str], data: NDArray[np.uint8]
) -> None:
    """Write `data` whole under `path`, by way of `tmp_path`. Raises OSError."""

class Batch:
    """Slots for `capacity` tensors, and the jobs that fill them.

    With `for_files` each slot begins on a page and with `prefix`, so that it can be written by
    direct I/O; else tensors lie densely and `array` is contiguous. A `shared` batch can be mapped
    by another process, from its file descriptor `fd`, which the batch owns.
    """

    plan: Plan
    capacity: int
    array: NDArray[Any]  # (capacity, *plan.shape), on a page's beginning
    fd: int  # -1: not shared
    def __init__(
        self,
        plan: Plan,
        capacity: int,
        for_files: bool = False,
        prefix: bytes = b"",
        shared: bool = False,
    ) -> None: ...
    def __len__(self) -> int: ...
    def clear(self) -> None: ...
    def add_bytes(self, data: bytes, to: bytes | None = None, tmp: bytes | None = None) -> None: ...
    def add_path(self, path: str, to: bytes | None = None, tmp: bytes | None = None) -> None: ...
    def add_range(
        self, fd: int, offset: int, nbytes: int, to: bytes | None = None, tmp: bytes | None = None
    ) -> None: ...
    def file_bytes(self, i: int) -> NDArray[np.uint8]: ...
    def tensor_bytes(self, i: int) -> NDArray[np.uint8]: ...
    def outcome(self, i: int) -> Outcome: ...
    def totals(self) -> Totals: ...
    def busy(self) -> tuple[dict[int, list[int]], dict[int, int], int]:
        """Nanoseconds of each worker by stage, as STAGES without writing; of each writer; when the
        last of them was done."""

class Pool:
    """Threads of the core that compute, and others that write files. They never need the GIL."""

    threads: int
    writers: int  # at least one where a batch is for files
    def __init__(self, threads: int, isa: str | None = None, writers: int = 0) -> None: ...
    def submit(self, batch: Batch) -> None:
        """Queue a batch; leave it alone until wait() returns."""

    def wait(self, batch: Batch) -> None:
        """Return when every job of the batch is done. Ctrl-C interrupts the waiting."""

    def close(self) -> None:
        """Let running jobs end, drop the others."""
