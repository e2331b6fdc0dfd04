"""The C core (zoofast/_core.pyx). Private to zoofast; `zoofast.__all__` lists the public API.

Sizes are in pixels, (height, width). Times are in nanoseconds of time.monotonic_ns()'s clock.
"""

import enum
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FILTERS: dict[str, int]
PASS_ORDERS: dict[str, int]  # which pass of a resize comes first; see zf_pass_order, zoofast.h
RESIZES: dict[str, int]
PADDINGS: dict[str, int]  # where the resized image lies in a larger tensor
# How the side that keeps the proportion becomes whole; see zf_side_rounding, zoofast.h.
SIDE_ROUNDINGS: dict[str, int]
# Of the centre crop's origin, (side - crop) / 2; see zf_crop_rounding, zoofast.h.
CROP_ROUNDINGS: dict[str, int]
# The stages of the work on an image, as csrc/zoofast.h lists them. "entropy", "idct", "colour"
# (upsampling and colour conversion) and "resize" alternate, so their times are estimates.
STAGES: tuple[str, ...]
# "none" first: no decoder accepted the image. "cache" last: the pixels of an earlier run.
DECODERS: tuple[str, ...]
PAGE: int  # bytes
COMPILER: str  # that built this module, with its version

class Status(enum.IntEnum):
    OK = 0
    UNSUPPORTED = 1
    NOMEM = 2
    READ = 3
    WRITE = 4
    SIZE = 5
    CANCELLED = 6

class Outcome:
    """What happened to one image."""

    @property
    def status(self) -> int: ...  # a Status
    @property
    def errno(self) -> int: ...  # for READ and WRITE
    @property
    def size(self) -> tuple[int, int]: ...  # for SIZE: the tensor's size if it were accepted
    @property
    def decoder(self) -> int: ...  # index into DECODERS
    @property
    def nbytes_in(self) -> int: ...  # bytes of the image file
    @property
    def stage_ns(self) -> tuple[int, ...]: ...  # time of each stage, in the order of STAGES
    @property
    def begin_ns(self) -> int: ...  # when a thread of the pool began to compute it
    @property
    def worker(self) -> int: ...  # which of the computing threads, from 0
    @property
    def write_begin_ns(self) -> int: ...  # of a job with a file: when a thread began to write it
    @property
    def writer(self) -> int: ...  # which of the writing threads, from 0

class Totals(NamedTuple):
    """Sums over the images of a batch."""

    nbytes_in: int
    stage_ns: tuple[int, ...]  # in the order of STAGES
    decoded: tuple[int, ...]  # number of images with status OK by decoder, in the order of DECODERS
    not_ok: list[int]  # indices of the images with another status

class StoredPixels(NamedTuple):
    """What became of the pixels that `store_pixels` asked for; not of pixels of an earlier run."""

    i: int  # its place in the batch
    status: int  # a Status. OK: the pixels were written, unless errno says why not
    errno: int
    checksum: int  # of the pixels
    place: tuple[int, int, int, int]  # x, y, width, height of the image in its pixels
    file_nbytes: int  # of the image file, before it was read
    file_mtime_ns: int  # since 1970; 0 of a range
    read_ns: int  # when the file was read, since 1970

Bytes = bytes | memoryview | NDArray[np.uint8]

def isa_names() -> tuple[str, ...]:
    """The names of the CPU levels of this build, slowest first."""

def isa(name: str | None = None) -> str:
    """The name of the CPU level in use: `name`, else ZOOFAST_ISA, else the fastest of this CPU.

    Raises CpuLevelError if the level is unknown or this CPU cannot run it.
    """

class Plan:
    """A recipe in the core's form.

    resize is a key of RESIZES; resize_size is twice the given side for "short" and "height". crop
    is (0, 0) for none. channel_index gives the index of R, G and B in the tensor. table has the
    result of normalization for each 8-bit value of R, G and B: (3, 256) uint8, float16 or float32.
    is_turned: by the EXIF orientation, as cv2.imread. divisor, mean and std are for
    cv2-linear-float32: what pixels are divided by before the resize, and the normalization.
    padding is a key of PADDINGS; fill (3,) has the elements of R, G and B around the image.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    def __init__(
        self,
        *,
        resize: str,
        resize_size: tuple[int, int],
        resize_rounding: str,
        filter: str,
        pass_order: str,
        crop: tuple[int, int],
        crop_rounding: str,
        out_size: tuple[int, int],
        nhwc: bool,
        channel_index: Sequence[int],
        table: NDArray[Any],
        is_turned: bool = False,
        divisor: float = 1,
        padding: str = "none",
        fill: NDArray[Any] | None = None,
        mean: Sequence[float] = (0, 0, 0),
        std: Sequence[float] = (1, 1, 1),
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def pixels_nbytes(self) -> int:
        """Bytes of an image's 8-bit pixels: planes of R, G and B of the tensor's size."""

class Workspace:
    """The memory that one thread needs to prepare images."""

    def __init__(self, isa: str | None = None) -> None: ...
    def prepare(self, data: Bytes, plan: Plan, out: NDArray[np.uint8]) -> Outcome:
        """Prepare the JPEG `data` into `out`, which has plan.nbytes bytes."""

    def prepare_rgb(self, rgb: NDArray[np.uint8], plan: Plan, out: NDArray[np.uint8]) -> Outcome:
        """Prepare decoded pixels (H, W, 3) into `out`, which has plan.nbytes bytes."""

    def pixels(self, plan: Plan) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
        """The 8-bit pixels, (plan.pixels_nbytes,), of the tensor that was made last; and x, y,
        width and height of the image in them. ValueError: the recipe has none."""

    def decode(
        self, data: Bytes, window: tuple[int, int, int, int] | None = None
    ) -> NDArray[np.uint8] | None:
        """For tests: the RGB pixels (H, W, 3) of a JPEG, or of its window (x0, y0, x1, y1).

        None: no decoder accepted the file, so Pillow has to decide.
        """

def exif_orientation(data: Bytes) -> int:
    """The orientation, 1 to 8, that cv2.imread finds in EXIF data without their "Exif" signature.

    0: it finds none.
    """

def checksum(data: Bytes) -> int:
    """A 64-bit sum that tells whether pixels were damaged; see zf_checksum, pixels.c."""

def allocate(fd: int, offset: int, nbytes: int) -> None:
    """Have the disk set blocks aside for a part of a file, and make the file as long.

    Writing there takes less time then. A disk that cannot is no error.
    """

def write_file(
    path: str | os.PathLike[str], tmp_path: str | os.PathLike[str], data: NDArray[np.uint8]
) -> None:
    """Write `data` to `tmp_path`, then rename it to `path`. Raises OSError."""

class Batch:
    """Slots for `capacity` tensors, and the jobs that fill the slots.

    Without `for_files`, the tensors follow one another and `array` is contiguous. With `for_files`,
    each slot begins on a page, so that direct I/O can write it. `prefix` is the header that begins
    every slot and its file. Another process can map a `shared` batch by the file descriptor `fd`,
    which the batch owns. An image file of more than `max_file_nbytes` bytes is not read: its
    outcome is Status.READ with errno EFBIG. 0: no limit. The slots lie in what `memory` returns, a
    writable buffer of the given number of bytes; None: in pages of this process.
    """

    plan: Plan
    capacity: int
    array: NDArray[Any]  # (capacity, *plan.shape)
    fd: int  # -1: not shared
    def __init__(
        self,
        plan: Plan,
        capacity: int,
        for_files: bool = False,
        prefix: bytes = b"",
        shared: bool = False,
        max_file_nbytes: int = 0,
        memory: Callable[[int], Any] | None = None,
    ) -> None: ...
    def __len__(self) -> int: ...
    def clear(self) -> None: ...
    def add_path(self, path: str, to: bytes | None = None, tmp: bytes | None = None) -> None:
        """Add the image in the file `path`. to: the path of the tensor's file, in a batch for
        files; tmp: its path until it is complete. The same of the other images that are added."""

    def add_range(
        self, fd: int, offset: int, nbytes: int, to: bytes | None = None, tmp: bytes | None = None
    ) -> None:
        """Add the image in `nbytes` bytes of an open file, from `offset` on."""

    def add_bytes(
        self, data: bytes | memoryview, to: bytes | None = None, tmp: bytes | None = None
    ) -> None:
        """Add an image whose file is in memory. The batch keeps `data`."""

    def drop_bytes(self) -> None:
        """Let go of the bytes that were added. The batch must be done."""

    def use_pixels(
        self,
        i: int,
        fd: int,
        offset: int,
        checksum: int,
        place: tuple[int, int, int, int],
        file_nbytes: int,
        file_mtime_ns: int,
    ) -> None:
        """Make tensor i of the pixels that are at `offset` of the file `fd`. Where these are
        damaged, or the image file has another size or time now, the image is prepared."""

    def store_pixels(self, i: int, fd: int, offset: int) -> None:
        """Write the pixels of image i at `offset` of the file `fd`, unless they are used."""

    def stored_pixels(self) -> list[StoredPixels]: ...
    def file_bytes(self, i: int) -> NDArray[np.uint8]:
        """A view of slot i: the contents of its file, `prefix` and tensor."""

    def tensor_bytes(self, i: int) -> NDArray[np.uint8]:
        """A view of the tensor in slot i."""

    def outcome(self, i: int) -> Outcome: ...
    def totals(self) -> Totals: ...
    def busy(self) -> tuple[dict[int, list[int]], dict[int, int], int]:
        """What the threads did: the time of each worker by stage, in the order of STAGES; the time
        of each writer; and when the last job was done. A worker's "write" is 0."""

class Pool:
    """Threads of the core that compute tensors, and others that write files, all without the GIL.

    Batches for files, and those that store pixels, need a writer. A child process made by fork has
    none of the threads: there, `close` does nothing, and the other methods raise RuntimeError.
    """

    threads: int
    writers: int
    def __init__(self, threads: int, isa: str | None = None, writers: int = 0) -> None: ...
    @property
    def is_here(self) -> bool:
        """Whether the threads are of this process, or have ended."""

    def check(self) -> None:
        """Raise ValueError after `close`, and RuntimeError in a process made by fork."""

    def submit(self, batch: Batch) -> None:
        """Queue a batch. It must not be used until wait() returns."""

    def wait(self, batch: Batch) -> None:
        """Wait until every job of the batch is done. Ctrl-C interrupts the wait."""

    def close(self) -> None:
        """Wait for running jobs, drop the others, end the threads. The pool is then of no use."""
