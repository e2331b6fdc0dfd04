"""Ordered batches of tensors from a bounded ring of buffers, filled by the core's threads.

The caller computes on one batch while C threads fill the next ones; the GIL is taken once per
batch. Images that the core leaves to Pillow (PNG, CMYK, anything odd) are decoded here.
"""

from __future__ import annotations

import functools
import io
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from zoofast import _core
from zoofast._core import Status
from zoofast.base.cpus import usable_cpus
from zoofast.errors import ImageError, OutputError
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import Item, Source

DEPTH = 3  # batches: one with the caller, one being filled, one queued
DEPTH_FOR_FILES = 6  # and some that wait for the disk, so that nobody who computes does


@dataclass(frozen=True)
class Failure:
    """An image that gave no tensor, and why: a short `cause` to count by, a `reason` in words."""

    name: str
    path: str
    cause: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass
class Stats:
    """Sums over the images that were tried."""

    images: int = 0
    nbytes_in: int = 0
    stage_seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(_core.STAGES, 0.0)
    )
    decoders: dict[str, int] = field(
        default_factory=lambda: {"turbo": 0, "baseline": 0, "pillow": 0}
    )

    def add(self, images: int, totals: _core.Totals) -> None:
        self.images += images
        self.nbytes_in += totals.nbytes_in
        for stage, nanoseconds in zip(_core.STAGES, totals.stage_ns, strict=True):
            self.stage_seconds[stage] += nanoseconds / 1e9
        for decoder, decoded in zip(_core.DECODERS, totals.decoded, strict=True):
            if decoded:
                self.decoders[decoder] += decoded


@dataclass
class Prepared:
    """One batch. `array` (n, *recipe.shape) and `names` hold the images that succeeded, in source
    order; it is a view into the ring. Array and slots are valid until the batch is given back."""

    items: list[Item]
    names: list[str]
    array: NDArray[Any]
    failures: list[Failure]
    pillow_ns: tuple[int, int]  # when Pillow's part of the batch began and ended, monotonic
    slots: _core.Batch  # the ring's, with the outcome of every item


# Where an image's tensor file goes: (final path, temporary path), or None for memory only.
Target = Callable[[Item], tuple[bytes, bytes]]


class Loader:
    """Takes `items` of a source in order, in batches of Prepared. A context manager.

    Iterating gives each batch back when the next is asked for; `take` and `give_back` let several
    be held. `threads` (default: all usable CPUs) decode into `depth` batches of `batch_size`, the
    `ring`; other processes can map it when it is `shared`. With `target`, each tensor is also
    written to a file, `prefix` first; such batches are not contiguous and keep the slots of failed
    images, so `array` is empty then.

    ZOOFAST_ISA chooses the CPU level. Raises CpuLevelError; OutputError when a file cannot be
    written.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        *,
        items: Sequence[Item] | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        depth: int | None = None,
        target: Target | None = None,
        prefix: bytes = b"",
        shared: bool = False,
    ) -> None:
        self.recipe, self.stats = recipe, Stats()
        self._source, self._target = source, target
        self._items = list(source.items if items is None else items)
        self.threads = threads or usable_cpus()
        self._plan = recipe.plan()
        size = batch_size or max(8, self.threads)
        if depth is None:
            depth = DEPTH if target is None else DEPTH_FOR_FILES
        self.ring = [
            _core.Batch(self._plan, size, target is not None, prefix, shared) for _ in range(depth)
        ]
        self._free = list(self.ring)
        self._queue: deque[tuple[_core.Batch, list[Item]]] = deque()
        self._at = 0
        # A write may take as long as computing two images; one more pair, so that a single thread
        # is not held up by a slow one.
        writers = 0 if target is None else 2 * self.threads + 2
        self._pool = _core.Pool(self.threads, writers=writers)
        self._pillow: ThreadPoolExecutor | None = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets running images end, drops the others, frees the ring."""
        self._pool.close()
        if self._pillow is not None:
            self._pillow.shutdown()

    def __iter__(self) -> Iterator[Prepared]:
        while (prepared := self.take()) is not None:
            yield prepared
            self.give_back(prepared)

    def take(self) -> Prepared | None:
        """The next batch in source order, waiting for it; None after the last.

        Raises RuntimeError when all batches of the ring are held, which would wait for ever.
        """
        self._fill()
        if not self._queue:
            if self._at < len(self._items):
                raise RuntimeError("all batches of the ring are held; give one back first")
            return None
        batch, items = self._queue.popleft()
        self._pool.wait(batch)
        return self._finish(batch, items)

    def give_back(self, prepared: Prepared) -> None:
        """Lets the ring reuse the batch, at once; its array must not be read any more."""
        self._free.append(prepared.slots)
        self._fill()

    def _fill(self) -> None:
        while self._free and self._at < len(self._items):
            batch = self._free.pop()
            items = self._items[self._at : self._at + batch.capacity]
            self._at += len(items)
            self._submit(batch, items)
            self._queue.append((batch, items))

    def _submit(self, batch: _core.Batch, items: list[Item]) -> None:
        batch.clear()
        for item in items:
            to, tmp = self._target(item) if self._target else (None, None)
            if item.in_archive:
                batch.add_range(self._source.fd, item.offset, item.nbytes, to, tmp)
            else:
                batch.add_path(item.path, to, tmp)
        self._pool.submit(batch)

    def _finish(self, batch: _core.Batch, items: list[Item]) -> Prepared:
        totals = batch.totals()
        self.stats.add(len(items), totals)
        not_ok = {i: batch.outcome(i) for i in totals.not_ok}
        odd = [i for i, outcome in not_ok.items() if outcome.status == Status.UNSUPPORTED]
        failures: dict[int, Failure] = {}
        pillow_begin = time.monotonic_ns()
        through_pillow = self._through_pillow(batch, items, odd)
        pillow_end = time.monotonic_ns() if odd else pillow_begin
        for i, failure in zip(odd, through_pillow, strict=True):
            if failure is None:
                self.stats.decoders["pillow"] += 1
            else:
                failures[i] = failure
        for i, outcome in not_ok.items():
            if outcome.status != Status.UNSUPPORTED:
                failures[i] = self._failure(items[i], outcome)
        good = [i for i in range(len(items)) if i not in failures]
        if self._target is None:
            for to, i in enumerate(good):
                if to != i:
                    batch.array[to] = batch.array[i]
        return Prepared(
            items,
            [items[i].name for i in good],
            batch.array[: len(good) if self._target is None else 0],
            [failures[i] for i in sorted(failures)],
            (pillow_begin, pillow_end),
            batch,
        )

    def _failure(self, item: Item, outcome: _core.Outcome) -> Failure:
        status, error = outcome.status, outcome.errno
        if status == Status.WRITE:
            assert self._target is not None
            path = os.fsdecode(self._target(item)[0])
            raise OutputError(f"cannot write {path}: {os.strerror(error)}")
        if status == Status.NOMEM:
            raise MemoryError(f"out of memory at {item.path}")
        if status == Status.READ:
            return Failure(item.name, item.path, "unreadable", os.strerror(error))
        return Failure(item.name, item.path, "wrong size", self._wrong_size(outcome.size))

    def _wrong_size(self, got: tuple[int, int]) -> str:
        want = self.recipe.size
        return f"{got[0]}x{got[1]} after resizing; the recipe's tensor is {want[0]}x{want[1]}"

    def _through_pillow(
        self, batch: _core.Batch, items: list[Item], odd: list[int]
    ) -> list[Failure | None]:
        if len(odd) < 2:
            return [self._one_through_pillow(batch, items[i], i) for i in odd]
        if self._pillow is None:
            self._pillow = ThreadPoolExecutor(self.threads)
        return list(self._pillow.map(lambda i: self._one_through_pillow(batch, items[i], i), odd))

    def _one_through_pillow(self, batch: _core.Batch, item: Item, i: int) -> Failure | None:
        try:
            data = self._source.read(item)
        except OSError as error:
            return Failure(item.name, item.path, "unreadable", error.strerror or str(error))
        rgb = decode_with_pillow(data)
        if isinstance(rgb, tuple):
            return Failure(item.name, item.path, *rgb)
        outcome = _core.Workspace().prepare_rgb(rgb, self._plan, batch.tensor_bytes(i))
        if outcome.status == Status.SIZE:
            return Failure(item.name, item.path, "wrong size", self._wrong_size(outcome.size))
        if outcome.status != Status.OK:
            raise MemoryError(f"out of memory at {item.path}")
        if self._target is not None:
            to, tmp = self._target(item)
            try:
                _core.write_file(os.fsdecode(to), os.fsdecode(tmp), batch.file_bytes(i))
            except OSError as error:
                raise OutputError(f"cannot write {os.fsdecode(to)}: {error.strerror}") from error
        return None


def decode_with_pillow(data: bytes) -> NDArray[np.uint8] | tuple[str, str]:
    """RGB pixels (H, W, 3) as Pillow makes them, or (cause, reason) why it refuses."""
    if not data:
        return ("empty", "the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.ascontiguousarray(image.convert("RGB"))
    except UnidentifiedImageError:
        return ("not an image", "not an image that Pillow can identify")
    except Image.DecompressionBombError as error:
        return ("too large", str(error))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise many types on bad input
        cause = "truncated" if "truncated" in str(error) else "corrupt"
        return (cause, f"{error}" or type(error).__name__)


class _Kept(threading.local):
    """What `prepare` keeps from call to call, for each thread; making it anew takes as long as a
    tenth of an image."""

    workspace: _core.Workspace | None = None
    isa: str | None = None

    def workspace_for(self, isa: str | None) -> _core.Workspace:
        if self.workspace is None or self.isa != isa:
            self.workspace, self.isa = _core.Workspace(isa), isa
        return self.workspace


_kept = _Kept()


@functools.lru_cache(maxsize=16)
def _plan_of(recipe: Recipe) -> _core.Plan:
    return recipe.plan()


def prepare(image: bytes | str | os.PathLike[str], recipe: Recipe) -> NDArray[Any]:
    """One image, given as its file's bytes or path, as a tensor of recipe.shape and recipe.dtype.

    Raises ImageError, naming the file, when Pillow too would refuse it.
    """
    where = "image" if isinstance(image, bytes) else os.fspath(image)
    try:
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
    except OSError as error:
        raise ImageError(f"{where}: {error.strerror}") from error
    plan = _plan_of(recipe)
    tensor = np.empty(plan.shape, plan.dtype)
    out = tensor.reshape(-1).view(np.uint8)
    workspace = _kept.workspace_for(os.environ.get("ZOOFAST_ISA"))
    outcome = workspace.prepare(data, plan, out)
    if outcome.status == Status.UNSUPPORTED:
        rgb = decode_with_pillow(data)
        if isinstance(rgb, tuple):
            raise ImageError(f"{where}: {rgb[1]}")
        outcome = workspace.prepare_rgb(rgb, plan, out)
    if outcome.status == Status.SIZE:
        got, want = outcome.size, recipe.size
        raise ImageError(
            f"{where}: {got[0]}x{got[1]} after resizing; the recipe's tensor is {want[0]}x{want[1]}"
        )
    if outcome.status != Status.OK:
        raise MemoryError(f"out of memory at {where}")
    return tensor
