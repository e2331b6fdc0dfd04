"""Batches of tensors in source order, from a ring of a few buffers that the core's threads fill.

The caller computes on one batch while C threads fill the next ones. The GIL is taken once for a
batch. Images that the core leaves to Pillow (PNG, CMYK, whatever it does not know) are decoded
here.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from zoofast import _core
from zoofast._core import Status
from zoofast.base.checks import check_least
from zoofast.base.cpus import usable_cpus
from zoofast.base.files import MAX_FILE_BYTES, PART
from zoofast.base.sequences import Selection
from zoofast.errors import OutputError, SourceError
from zoofast.preprocess.cache import PixelCache
from zoofast.preprocess.prepare import Refusal, prepare_with_pillow
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import FetchedSource, Item, Source
from zoofast.preprocess.sources.readahead import Fetched, ReadAhead, nbytes_of

DEPTH = 3  # batches: the caller's, one that is being filled, one that is queued
# Of fetched images that wait for a computing thread: with more, no further batch is queued.
MAX_QUEUED_BYTES = 256_000_000


@dataclass(frozen=True)
class Failure:
    """An image that gave no tensor, and why: a short `cause` to count by, a `reason` in words.

    cause: "bad name", "unreadable" or "too large" for a file that was not decoded; "empty", "not an
    image", "truncated" or "corrupt" where Pillow refuses it; "not OpenCV's" where OpenCV may decode
    other pixels; "wrong size" where it does not fit the recipe; "no full bin" for the images of a
    last bin that is left out.
    """

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
        default_factory=lambda: dict.fromkeys((*_core.DECODERS[1:], "pillow"), 0)
    )

    def add(self, images: int, totals: _core.Totals) -> None:
        self.images += images
        self.nbytes_in += totals.nbytes_in
        for stage, nanoseconds in zip(_core.STAGES, totals.stage_ns, strict=True):
            self.stage_seconds[stage] += nanoseconds / 1e9
        for decoder, decoded in zip(_core.DECODERS, totals.decoded, strict=True):
            if decoded:
                self.decoders[decoder] += decoded

    def add_stats(self, other: Stats) -> None:
        """Adds the sums over other images."""
        self.images += other.images
        self.nbytes_in += other.nbytes_in
        for stage, seconds in other.stage_seconds.items():
            self.stage_seconds[stage] += seconds
        for decoder, decoded in other.decoders.items():
            self.decoders[decoder] += decoded


@dataclass
class BatchOutcome:
    """What became of the `items` of one batch. `names` are of the images that have a tensor.

    good: the positions of these images in `items`. `names` and `failures` are in source order.
    `slots` is valid until the batch is given back.
    """

    items: list[Item]
    good: list[int]
    names: list[str]
    failures: list[Failure]
    pillow_ns: tuple[int, int]  # begin and end of Pillow's part, CLOCK_MONOTONIC
    slots: _core.Batch  # of the ring, with the outcome of each item

    @property
    def is_good(self) -> NDArray[np.bool_]:
        """(n,): which of the items have a tensor."""
        mask = np.zeros(len(self.items), bool)
        mask[self.good] = True
        return mask


@dataclass
class Prepared(BatchOutcome):
    """One batch of tensors in memory: `array` (len(names), *recipe.shape) of recipe.dtype.

    It has a row for each name. It is a view into the ring, and valid until the batch is given back.
    """

    array: NDArray[Any]


@dataclass(frozen=True)
class OutputPaths:
    """Where tensors' files go: `NAME` + suffix in `folder`, and a temporary name until whole.

    files: names of images whose files have other names; their paths in `folder`. part: ends a
    temporary name. prefix: the bytes before each tensor.
    """

    folder: str
    suffix: str
    files: Mapping[str, str] | None = None
    part: str = PART
    prefix: bytes = b""

    def final(self, item: Item) -> str:
        return os.path.join(self.folder, self.file(item.name))

    def file(self, name: str) -> str:
        """The path in `folder` of the image `name`."""
        return (self.files and self.files.get(name)) or name + self.suffix

    def temporary(self, item: Item) -> str:
        return self.final(item) + self.part


def default_batch(threads: int) -> int:
    """How many images a batch has, unless the caller says it."""
    return max(8, threads)


def check_imported(recipe: Recipe, source: Source, items: Sequence[Item]) -> None:
    """Compares an imported recipe with the library's own transform, if this is its first use.

    Raises RecipeError where they differ.
    """
    if recipe.imported is not None:
        # Imported here: most recipes need no importer.
        from zoofast.preprocess.importers.first_use import check_first_use

        check_first_use(recipe.imported, source, items)


@dataclass
class _Queued:
    """A batch that was given to the pool, and its images, as they were fetched."""

    batch: _core.Batch
    items: list[Item]
    fetched: list[Fetched | None] | None  # None of an image whose pixels the cache has
    nbytes: int  # of them
    is_done: bool = False  # by the core
    # By Pillow, in threads: what an interrupted call began is not begun again.
    by_pillow: dict[int, Future[Refusal | None]] = field(default_factory=dict)

    def error(self, i: int) -> OSError | None:
        """Why image i could not be fetched."""
        data = None if self.fetched is None else self.fetched[i]
        return data if isinstance(data, OSError) else None


class _ByPillow(NamedTuple):
    """What became of the images that Pillow decoded; when it began and ended, CLOCK_MONOTONIC."""

    refusals: dict[int, Refusal | None]
    ns: tuple[int, int]


R = TypeVar("R", bound="Ring[Any]")
T = TypeVar("T", bound=BatchOutcome)


class Ring(ABC, Generic[T]):
    """What Loader and FileWriter share: a ring of batches, filled in source order.

    Loader says what the arguments are.
    """

    _paths: OutputPaths | None = None  # None: the tensors stay in memory

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        *,
        items: Sequence[Item] | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        depth: int = DEPTH,
        shared: bool = False,
        max_file_bytes: int = MAX_FILE_BYTES,
        memory: Callable[[int], Any] | None = None,
        cache: PixelCache | None = None,
    ) -> None:
        check_least(
            1, batch_size=batch_size, threads=threads, depth=depth, max_file_bytes=max_file_bytes
        )
        self.recipe, self.stats, self.max_file_bytes = recipe, Stats(), max_file_bytes
        self._lock = threading.RLock()  # held by each public method
        self._is_waiting = False  # an interrupt changes nothing now
        self._is_interrupted = False  # while the ring changed
        self._source = source
        self._items: Sequence[Item] = source.items if items is None else items
        check_imported(recipe, source, self._items)
        self.threads = threads or usable_cpus()
        self._plan = recipe.plan()
        size = batch_size or default_batch(self.threads)
        for_files = self._paths is not None
        prefix = b"" if self._paths is None else self._paths.prefix
        try:
            self.ring = [
                _core.Batch(self._plan, size, for_files, prefix, shared, max_file_bytes, memory)
                for _ in range(depth)
            ]
        except (OSError, MemoryError) as error:
            nbytes = depth * size * recipe.nbytes
            raise MemoryError(
                f"{depth} batches of {size} tensors need {nbytes:,} bytes of memory"
            ) from error
        self._free = list(self.ring)
        self._held: set[_core.Batch] = set()  # taken and not given back
        self._queue: deque[_Queued] = deque()
        # To write a file may take as long as to compute two images. Two more writers keep a
        # single computing thread from waiting for a slow write.
        # Pixels go to the page cache, which takes much less time.
        writers = 2 * self.threads + 2 if for_files else 0 if cache is None else self.threads
        self._pool = _core.Pool(self.threads, writers=writers)
        self._pillow: ThreadPoolExecutor | None = None
        self._pixels = None if cache is None else cache.open(source, recipe)
        self._reader: ReadAhead | None = None
        self._upcoming: list[Item] = []  # the next batch, if its bytes are not all there
        self._fetched: list[Fetched | None] = []  # those that are
        try:
            self._open_reader()
        except BaseException:
            self.close()
            raise

    def _open_reader(self) -> None:
        """Begins with the first item, and to fetch the items' bytes, if the source's bytes are
        fetched."""
        self._next_item, self._rest = 0, iter(self._items)
        if self._reader is not None:
            self._reader.close()
        if isinstance(self._source, FetchedSource):
            items = self._items
            self._is_fetched = np.fromiter(map(self._must_fetch, items), bool, len(items))
            if not self._is_fetched.all():
                items = Selection.where(items, self._is_fetched)
            self._reader = self._source.open_reader(items, self.max_file_bytes)

    def __enter__(self: R) -> R:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the images that are being computed, drops the others, frees the ring.

        In a process made by fork: does nothing, since the threads are the parent's.
        """
        if not self._pool.is_here:
            return
        with self._lock:
            if self._reader is not None:
                self._reader.close()
            self._pool.close()
            if self._pillow is not None:
                self._pillow.shutdown()
            if self._pixels is not None:
                self._pixels.close()

    def __iter__(self) -> Iterator[T]:
        while (taken := self.take()) is not None:
            yield taken
            self.give_back(taken)

    def restart(self, items: Sequence[Item]) -> None:
        """Begins with other items of the source; call this after the last batch was taken."""
        with self._lock:
            self._items = items
            self._open_reader()

    def take(self) -> T | None:
        """The next batch in source order, once it is complete; None after the last batch.

        Raises RuntimeError when the caller holds all batches of the ring (it would wait for ever),
        and in a process made by fork; ValueError after `close`; SourceError when the source of
        archives is closed, or the process has too many open files. Ctrl-C while it waits loses
        nothing: the next call goes on. After Ctrl-C at another moment, the next call raises
        RuntimeError.
        """
        self._pool.check()  # before the lock, which a process made by fork may find locked
        with self._lock, self._guarded():
            self._fill(wait=True)
            if not self._queue:
                if self._next_item < len(self._items):
                    raise RuntimeError("all batches of the ring are held; give one back first")
                return None
            queued = self._queue[0]
            self._is_waiting = True
            if not queued.is_done:
                self._pool.wait(queued.batch)
                queued.is_done = True
            totals = queued.batch.totals()
            not_ok = {i: queued.batch.outcome(i) for i in totals.not_ok}
            pillow = self._run_pillow(queued, not_ok)
            self._is_waiting = False
            self._queue.popleft()
            self._source.check_open(queued.items)  # after they are read
            self._held.add(queued.batch)
            return self._finish(queued, totals, not_ok, pillow)

    def give_back(self, taken: T) -> None:
        """Lets the ring reuse the batch at once; its slots must not be read any more.

        Raises ValueError for a batch that was given back before, or of another ring.
        """
        self._pool.check()
        with self._lock, self._guarded():
            if taken.slots not in self._held:
                raise ValueError("the batch was given back before, or is another Loader's")
            self._held.remove(taken.slots)
            self._free.append(taken.slots)
            self._fill()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Ctrl-C may come between two instructions. If it comes while the ring changes, images may
        be lost, or get the bytes of others."""
        if self._is_interrupted:
            raise RuntimeError(
                "an earlier call was interrupted, and images may be missing; make a new loader"
            )
        self._is_waiting = False
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self._is_interrupted = not self._is_waiting
            raise

    def _fill(self, wait: bool = False) -> None:
        """Gives batches to the pool. wait: for fetched bytes, if no batch is queued."""
        self._pool.check()
        while self._free and self._next_item < len(self._items):
            items = self._upcoming or list(islice(self._rest, self._free[-1].capacity))
            fetched = None
            if self._reader is not None:
                self._upcoming = items
                if not self._fetch(items, wait and not self._queue):
                    return
                fetched, self._fetched, self._upcoming = self._fetched, [], []
            batch = self._free.pop()
            self._next_item += len(items)
            self._submit(batch, items, fetched)
            self._queue.append(_Queued(batch, items, fetched, nbytes_of(fetched or ())))

    def _fetch(self, items: list[Item], wait: bool) -> bool:
        """Takes the bytes of `items` from the reader; False when they are not all there."""
        assert self._reader is not None
        if sum(queued.nbytes for queued in self._queue) > MAX_QUEUED_BYTES:
            return False
        first = self._next_item
        flags = self._is_fetched[first + len(self._fetched) : first + len(items)].tolist()
        for is_fetched, run in groupby(flags):
            left = len(list(run))
            if not is_fetched:
                self._fetched += [None] * left
                continue
            while left:
                if wait:
                    self._is_waiting = True
                    self._reader.wait()
                    self._is_waiting = False
                fetched = self._reader.take(left, wait)
                if not fetched:
                    return False
                self._fetched += fetched
                left -= len(fetched)
        return True

    def _must_fetch(self, item: Item) -> bool:
        if item.problem is not None:
            return False
        return self._pixels is None or not self._pixels.has(item, self.max_file_bytes)

    def _submit(
        self, batch: _core.Batch, items: list[Item], fetched: list[Fetched | None] | None
    ) -> None:
        self._source.check_open(items)
        batch.clear()
        to = temporary = None
        for i, item in enumerate(items):
            data = None if fetched is None else fetched[i]
            if item.problem is not None or isinstance(data, OSError):
                batch.add_path("")  # keeps its place in the batch; cannot be read
                continue
            if self._paths is not None:
                to = os.fsencode(self._paths.final(item))
                temporary = os.fsencode(self._paths.temporary(item))
            if fetched is not None:
                # Without data: pixels of the cache. If they are damaged, Pillow decodes the image.
                batch.add_bytes(data or b"", to, temporary)
            elif item.offset is not None:
                batch.add_range(
                    self._source.fds[item.archive], item.offset, item.nbytes, to, temporary
                )
            else:
                batch.add_path(item.path, to, temporary)
        if self._pixels is not None:
            self._pixels.attach(batch, items)
        self._pool.submit(batch)

    def _finish(
        self,
        queued: _Queued,
        totals: _core.Totals,
        not_ok: dict[int, _core.Outcome],
        pillow: _ByPillow,
    ) -> T:
        batch, items = queued.batch, queued.items
        self.stats.add(len(items), totals)
        refusals: dict[int, Refusal] = {}
        for i, refusal in pillow.refusals.items():
            if refusal is None:
                self.stats.decoders["pillow"] += 1
            else:
                refusals[i] = refusal
        if self._pixels is not None:
            self._pixels.collect(batch)
        for i, outcome in not_ok.items():
            if outcome.status != Status.UNSUPPORTED:
                refusals[i] = self._refusal(items[i], outcome, queued.error(i))
        batch.drop_bytes()
        failures = [
            Failure(items[i].name, items[i].path, refusals[i].cause, refusals[i].reason)
            for i in sorted(refusals)
        ]
        good = [i for i in range(len(items)) if i not in refusals]
        names = [items[i].name for i in good]
        return self._deliver(BatchOutcome(items, good, names, failures, pillow.ns, batch))

    @abstractmethod
    def _deliver(self, outcome: BatchOutcome) -> T:
        """The batch as the caller gets it."""

    def _refusal(self, item: Item, outcome: _core.Outcome, error: OSError | None) -> Refusal:
        """error: why the item could not be fetched."""
        if item.problem is not None:
            return Refusal("bad name", item.problem)
        if error is not None and error.errno != errno.EFBIG:
            return _unreadable(item, error)
        if outcome.status == Status.WRITE:
            assert self._paths is not None
            reason = os.strerror(outcome.errno)
            raise OutputError(f"{self._paths.final(item)}: cannot be written: {reason}")
        if outcome.status == Status.NOMEM:
            raise MemoryError(f"out of memory at {item.path}")
        if outcome.status == Status.READ:
            if error is not None or outcome.errno == errno.EFBIG:
                return Refusal("too large", f"larger than {self.max_file_bytes:,} bytes")
            irregular = outcome.errno in (errno.EINVAL, errno.ENXIO)  # a pipe, device; a socket
            reason = "not a regular file" if irregular else os.strerror(outcome.errno)
            return _unreadable(item, OSError(outcome.errno, reason))
        return Refusal("wrong size", self.recipe.size_mismatch(*outcome.size))

    def _run_pillow(self, queued: _Queued, not_ok: Mapping[int, _core.Outcome]) -> _ByPillow:
        """Prepares the images that the core leaves to Pillow, several of them in threads."""
        begin_ns = time.monotonic_ns()
        positions = [i for i, outcome in not_ok.items() if outcome.status == Status.UNSUPPORTED]
        if len(positions) < 2:
            refusals = {i: self._run_pillow_on(queued, i) for i in positions}
        else:
            if self._pillow is None:
                self._pillow = ThreadPoolExecutor(self.threads)
            futures = queued.by_pillow
            for i in positions:
                if i not in futures:
                    futures[i] = self._pillow.submit(self._run_pillow_on, queued, i)
            try:
                refusals = {i: futures[i].result() for i in positions}
            except Exception:
                wait(futures.values())
                futures.clear()
                raise
        return _ByPillow(refusals, (begin_ns, time.monotonic_ns() if positions else begin_ns))

    def _run_pillow_on(self, queued: _Queued, i: int) -> Refusal | None:
        batch, item = queued.batch, queued.items[i]
        data = None if queued.fetched is None else queued.fetched[i]
        if data is None or isinstance(data, OSError):
            try:
                data = self._source.read(item, self.max_file_bytes)
            except OSError as error:
                return _unreadable(item, error)
        out, workspace = batch.tensor_bytes(i), _core.Workspace()
        try:
            refusal = prepare_with_pillow(bytes(data), self.recipe, self._plan, workspace, out)
        except MemoryError as error:
            raise MemoryError(f"out of memory at {item.path}") from error
        if refusal is None and self._pixels is not None:
            self._pixels.keep_by_pillow(batch, i, self._plan, workspace, len(data))
        if refusal is None and self._paths is not None:
            path = self._paths.final(item)
            try:
                _core.write_file(path, self._paths.temporary(item), batch.file_bytes(i))
            except OSError as error:
                raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
        return refusal


def _unreadable(item: Item, error: OSError) -> Refusal:
    """Raises SourceError where the process, and not the image, is at fault."""
    reason = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise SourceError(
            f"{item.path}: cannot be read: {reason}; use fewer threads, or raise the limit with "
            "ulimit -n"
        ) from error
    return Refusal("unreadable", reason)


class Loader(Ring[Prepared]):
    """Takes `items` of a source (default: all) in order, in batches of Prepared, in memory.

    A context manager. Iterating gives each batch back when the next is asked for; with `take` and
    `give_back` the caller can hold several. `threads` (default: all usable CPUs) fill `depth`
    batches of `batch_size` images (default: 8, or the number of threads if that is greater). Other
    processes can map the batches when they are `shared`. memory(nbytes): gives the memory of a
    batch; None: the Loader allocates it. A `cache` keeps the images' pixels for later Loaders.
    Several threads may share a Loader; each batch goes to one of them.

    An image file of more than `max_file_bytes` bytes is a failure, and is not read. The environment
    variable ZOOFAST_ISA chooses the CPU level.

    Raises CpuLevelError for a wrong ZOOFAST_ISA; RecipeError where an imported recipe differs from
    its library; MemoryError when there is no memory for the batches, or for an image; ValueError
    for counts below 1, and for memory of another size.
    """

    def _deliver(self, outcome: BatchOutcome) -> Prepared:
        array = outcome.slots.array
        for row, i in enumerate(outcome.good):  # closes the gaps that failed images left
            if row != i:
                array[row] = array[i]
        return Prepared(**vars(outcome), array=array[: len(outcome.good)])
