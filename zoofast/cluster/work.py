"""What runs on a node: its source, its model, and ranges of images, one after the other.

Nothing here knows of Ray. Expected errors are values (`Refused`), since an exception of a node
would reach the driver inside another one.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoofast.base.files import write_atomic
from zoofast.base.provenance import model_digest, sha256
from zoofast.base.rows import NamedRows
from zoofast.base.sequences import Selection
from zoofast.cluster.ranges import MAX_IMAGES
from zoofast.cluster.shared import (
    LOGITS_BYTES,
    TENSORS_BYTES,
    check_shared,
    new_file,
    write_logits,
)
from zoofast.errors import BackendError, SourceError, ZoofastError
from zoofast.evaluation.answers import Places
from zoofast.evaluation.evaluate import check_output
from zoofast.inference.backends import TensorInfo
from zoofast.inference.devices import Devices
from zoofast.inference.spec import ModelSpec, check_recipe
from zoofast.inference.stream import ring_depth, stream
from zoofast.preprocess.bins import Packing, bin_files, plan_bins
from zoofast.preprocess.cache import PixelCache
from zoofast.preprocess.folder import choose
from zoofast.preprocess.loader import BatchOutcome, Failure, Loader, Stats
from zoofast.preprocess.recipe import Recipe, resize_order
from zoofast.preprocess.sinks import BinSink, open_sink
from zoofast.preprocess.sources import Item, Names, Source, open_source
from zoofast.scoring.topk import TopK
from zoofast.timing.timeline import Timeline

BLOCK_IMAGES = 4096  # whose names have one digest


def names_of_block(items: Sequence[Item], block: int) -> list[str]:
    """The names of BLOCK_IMAGES items, fewer at the end, from number `block` * BLOCK_IMAGES on."""
    return [item.name for item in items[block * BLOCK_IMAGES : (block + 1) * BLOCK_IMAGES]]


def names_digests(items: Sequence[Item]) -> list[str]:
    """Identifies a list of images: the SHA-256 of the names of each block, in order."""
    return _digests(Names(items))


def bins_digests(items: Sequence[Item], packing: Packing) -> list[str]:
    """Identifies the names of the images' bins: the SHA-256 of each block of names, in order."""
    return [] if packing.is_plain else _digests(bin_files(items, packing))


def _digests(names: Iterable[str]) -> list[str]:
    names = iter(names)
    blocks = ("\n".join(block) for block in iter(lambda: list(islice(names, BLOCK_IMAGES)), []))
    return [sha256(text.encode("utf-8", "surrogatepass")) for text in blocks]


@dataclass(frozen=True)
class Images:
    """Which images a run is about. folder: the driver's, at which relative paths begin."""

    where: str
    limit: int | None
    shard: tuple[int, int]
    digests: list[str]  # see names_digests
    resize_order: str
    folder: str
    max_file_bytes: int


@dataclass(frozen=True)
class NodeCache:
    """The cache of pixels that each node keeps. outputs: a folder, and the bytes that it is to
    hold; a cache on the same disk leaves as many free."""

    folder: str
    max_bytes: int | None
    outputs: tuple[str, int] | None = None

    @classmethod
    def of(
        cls, cache: PixelCache | None, outputs: tuple[str, int] | None = None
    ) -> NodeCache | None:
        """For the nodes of a run whose options have `cache`."""
        if cache is None:
            return None
        return cls(os.path.abspath(cache.folder), cache.max_bytes, outputs)

    def open(self, warn: Callable[[str], None]) -> PixelCache:
        """The cache on this node. Raises OutputError where there are outputs, and the folder cannot
        be made."""
        cache = PixelCache(self.folder, self.max_bytes, warn)
        return cache.beside(Path(self.outputs[0]), self.outputs[1]) if self.outputs else cache


@dataclass(frozen=True)
class EvalWork:
    """An evaluation, as a node needs it. spec: of the first device; model_digest: "" for a model
    that is no file. mark: a file in the folder for the nodes' logits, see zoofast.cluster.shared;
    "" where no logits are kept."""

    images: Images
    recipe: Recipe
    spec: ModelSpec
    model_digest: str
    depth: int | None
    output_index: int
    top_k: int
    timeout: float
    mark: str = ""
    cache: NodeCache | None = None


@dataclass(frozen=True)
class PrepWork:
    """A preparation, as a node needs it. folder: on storage that all nodes share; mark: a file
    there, see zoofast.cluster.shared. bins: see bins_digests."""

    images: Images
    recipe: Recipe
    format: str
    folder: str
    mark: str
    packing: Packing
    bins: list[str]
    cache: NodeCache | None = None


@dataclass(frozen=True)
class Listed:
    """How many images a node lists, and the names of the first block that differs."""

    images: int
    block: int
    names: list[str]


@dataclass(frozen=True)
class Refused:
    """Why a node cannot do what it was asked to do."""

    reason: str
    is_node: bool = True  # the node is at fault; else the task, or the node's process
    missing_model: bool = False  # the node has not the model's file
    listed: Listed | None = None  # what the node lists, if these are other images


@dataclass(frozen=True)
class Opened:
    """A node is ready. batch: a task has a multiple of it of images; most: about as many at most.
    input, classes: of the model; None and 0 for a preparation."""

    threads: int
    devices: int
    batch: int
    concurrency: int = 0
    depth: int = 0
    input: TensorInfo | None = None
    classes: int = 0
    most: int = MAX_IMAGES


@dataclass
class Done:
    """What became of a task's images. is_good (n,): which of them have a tensor.

    best: the answers of the good ones, None for a preparation. failures: of the others, in order.
    device_ns: (in computing, in waiting), summed over the executors of the node's devices. file:
    that of the good ones' logits or tensors, "" if there is none. held: bin that lacks an image
    -> its temporary name; both in the folder of the tensors.
    """

    is_good: NDArray[np.bool_]
    failures: list[Failure]
    best: TopK | None
    stats: Stats
    seconds: float = 0.0
    device_ns: tuple[int, int] = (0, 0)
    executors: int = 1  # how many threads of devices these times are of
    lost_devices: dict[int, str] = field(default_factory=dict)
    waited: float = 0.0  # seconds since the task before; 0 for the first
    file: str = ""
    held: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)  # of the node's cache


class Worker:
    """One node's part in a run. Its methods are called one after the other."""

    def __init__(self, work: EvalWork | PrepWork, cpus: int, devices: int) -> None:
        self._work, self._cpus, self._devices_here = work, max(cpus, 1), devices
        self._source: Source | None = None
        self._items: Sequence[Item] = []
        self._stack = ExitStack()
        self._part: _EvalPart | _FilesPart | _PackPart | None = None
        self._ended: float | None = None  # the task before, monotonic
        self._warnings: list[str] = []  # that the driver does not know yet

    def ping(self) -> None:
        """Returns as soon as the process has started."""

    def open(self, model: NDArray[np.uint8] | None = None) -> Opened | Refused:
        """Lists the images, unless they are listed, and loads the model. model: the file's bytes,
        if the node lacks it."""
        work = self._work
        with suppress(OSError):  # then paths that are absolute are found, too
            os.chdir(work.images.folder)
        try:
            if self._source is None:
                self._source = self._stack.enter_context(open_source(work.images.where))
                self._items = choose(self._source, work.images.limit, work.images.shard)
                refused = self._check_images()
                if refused is not None:
                    return refused
            source = self._source
            if isinstance(work, PrepWork):
                check_shared(work.mark, work.folder)
                if bins_digests(self._items, work.packing) != work.bins:
                    return Refused(
                        f"{work.images.where}: lists images of other paths, after which other bins "
                        "would be named"
                    )
                cache = self._open_cache()
                if cache is not None:
                    self._stack.enter_context(cache.kept_open(work.recipe))
                part = _PackPart if work.format == "pack" else _FilesPart
                self._part = part(work, source, self._cpus, cache)
                return Opened(self._cpus, 0, work.packing.images, most=self._part.most)
            path = _find_model(work, model)
            if path is None:
                return Refused(f"{work.spec.model}: no such model file", missing_model=True)
            self._part = _EvalPart(
                work, source, path, self._cpus, self._devices_here, self._open_cache(), self._stack
            )
            return self._part.opened
        except ZoofastError as error:
            self._stack.close()
            return Refused(str(error))

    def _open_cache(self) -> PixelCache | None:
        cache = self._work.cache
        return None if cache is None else cache.open(self._warnings.append)

    def _check_images(self) -> Refused | None:
        images = self._work.images
        if resize_order() != images.resize_order:
            return Refused("has a Pillow of another resize order; install the driver's version")
        ours = names_digests(self._items)
        pairs = zip_longest(ours, images.digests)
        block = next((i for i, (our, their) in enumerate(pairs) if our != their), None)
        if block is None:
            return None
        listed = Listed(len(self._items), block, names_of_block(self._items, block))
        return Refused(f"{images.where}: lists other images", listed=listed)

    def run(self, places: Places) -> Done | Refused:
        """Computes the images at `places`."""
        assert self._part is not None
        begin = time.monotonic()
        waited = 0.0 if self._ended is None else begin - self._ended
        try:
            done = self._part.run(Selection(self._items, places))
        except (BackendError, SourceError) as error:
            return Refused(str(error))
        except ZoofastError as error:
            return Refused(str(error), is_node=False)
        self._ended = time.monotonic()
        warnings = self._warnings.copy()
        self._warnings.clear()
        return replace(done, seconds=self._ended - begin, waited=waited, warnings=warnings)


def _find_model(work: EvalWork, model: NDArray[np.uint8] | None) -> str | None:
    """The path of the model's file on this node: as the driver names it, or a copy in the folder
    of temporary files; None if there is none. model: the bytes to write the copy from."""
    digest, name = work.model_digest, work.spec.model
    if not digest:
        return name
    folder = Path(tempfile.gettempdir(), f"zoofast-models-{os.getuid()}")
    if folder.exists() and folder.stat().st_uid != os.getuid():
        raise BackendError(f"{folder}: belongs to another user; remove it, or set TMPDIR")
    copy = folder / f"{digest}{Path(name).suffix}"
    for path in (Path(name), copy):
        with suppress(OSError):
            if model_digest(str(path)) == digest:
                return str(path)
    if model is None:
        return None
    folder.mkdir(mode=0o700, exist_ok=True)
    # Other nodes on this machine may write the same copy now.
    own = folder / f"{secrets.token_hex(4)}{Path(name).suffix}"
    write_atomic(own, model.tobytes())
    os.replace(own, copy)
    return str(copy)


class _EvalPart:
    """The model and the loader of a node, which stay while it takes tasks."""

    def __init__(
        self,
        work: EvalWork,
        source: Source,
        model: str,
        cpus: int,
        devices: int,
        cache: PixelCache | None,
        stack: ExitStack,
    ) -> None:
        self._work = work
        if work.mark:
            check_shared(work.mark, os.path.dirname(work.mark))
        spec = replace(work.spec, model=model, cpus=cpus)
        specs = [replace(spec, device=i) for i in range(devices)] or [spec]
        self._devices = stack.enter_context(Devices(specs, work.timeout))
        check_recipe(self._devices.input, work.recipe)
        check_output(self._devices, work.output_index)
        batch, concurrency = self._devices.input.shape[0], self._devices.concurrency
        depth = work.depth or ring_depth(
            batch, self._devices.prefetch, concurrency > len(self._devices)
        )
        self._loader = stack.enter_context(
            Loader(
                source,
                work.recipe,
                items=[],
                batch_size=batch,
                threads=cpus,
                depth=depth,
                shared=self._devices.shared,
                memory=self._devices.host_memory,
                max_file_bytes=work.images.max_file_bytes,
                cache=cache,
            )
        )
        shape = self._devices.outputs[work.output_index].shape
        classes = int(np.prod(shape[1:]))
        most = max(LOGITS_BYTES // (4 * classes), 1) if work.mark else MAX_IMAGES
        self.opened = Opened(
            cpus, len(specs), batch, concurrency, depth, self._devices.input, classes, most
        )

    def run(self, items: Selection[Item]) -> Done:
        loader, k = self._loader, self._work.top_k + 1
        loader.stats = Stats()
        loader.restart(items)
        timeline = Timeline(time.monotonic_ns(), images=False)
        batches: dict[int, tuple[BatchOutcome, TopK]] = {}
        logits: dict[int, NDArray[np.float32]] = {}
        for batch in stream(loader, self._devices, self._work.output_index, timeline):
            batches[batch.number] = batch.prepared, TopK.of_logits(batch.logits, k)
            if self._work.mark and len(batch.logits):
                logits[batch.number] = batch.logits
        outcomes = [batches[number] for number in sorted(batches)]
        rows = [logits[number] for number in sorted(logits)]
        busy = [
            stages for thread, stages in timeline.busy_ns.items() if thread.startswith("device")
        ]
        return Done(
            np.concatenate([outcome.is_good for outcome, _ in outcomes]),
            [failure for outcome, _ in outcomes for failure in outcome.failures],
            TopK.joined(best for _, best in outcomes),
            loader.stats,
            device_ns=(
                sum(each.get("infer", 0) for each in busy),
                sum(each.get("wait", 0) for each in busy),
            ),
            executors=len(busy),
            lost_devices=dict(self._devices.lost),
            file=write_logits(self._work.mark, rows) if rows else "",
        )


class _FilesPart:
    """The sinks of a node. Their files have their final names when a task is done, but for bins
    that lack an image."""

    most = MAX_IMAGES

    def __init__(self, work: PrepWork, source: Source, cpus: int, cache: PixelCache | None) -> None:
        self._work, self._source, self._cpus, self._cache = work, source, cpus, cache
        self._tag = secrets.token_hex(4)

    def run(self, items: Selection[Item]) -> Done:
        work, good, failures, sums = self._work, [], [], [Stats()]
        packing, bins = work.packing, None
        if not packing.is_plain:  # a task has whole bins
            first = items.places[:: packing.images]
            numbers = [int(place) // packing.images for place in first]
            bins, _ = plan_bins(items, packing, numbers)
        folder, tag = Path(work.folder), self._tag
        sink = open_sink(work.format, folder, work.recipe, packing, bins, tag=tag)

        def stored(batch: BatchOutcome, stats: Stats) -> None:
            good.append(batch.is_good)
            failures.extend(batch.failures)
            sums[0] = stats

        most = work.images.max_file_bytes
        sink.store(self._source, items, self._cpus, most, self._cache, stored)
        held = sink.held if isinstance(sink, BinSink) else {}
        return Done(np.concatenate(good), failures, None, sums[0], held=held)


class _PackPart:
    """Writes the tensors of each task to a file, which the driver adds to the pack."""

    def __init__(self, work: PrepWork, source: Source, cpus: int, cache: PixelCache | None) -> None:
        self._work, self._source, self._cpus, self._cache = work, source, cpus, cache
        self.most = max(TENSORS_BYTES // work.recipe.nbytes, 1)

    def run(self, items: Selection[Item]) -> Done:
        work = self._work
        path, recipe = new_file(work.mark), work.recipe
        rows = NamedRows(path, recipe.shape, recipe.dtype)
        good, failures = [], []
        with (
            closing(rows),
            Loader(
                self._source,
                recipe,
                items=items,
                threads=self._cpus,
                max_file_bytes=work.images.max_file_bytes,
                cache=self._cache,
            ) as loader,
        ):
            for batch in loader:
                rows.append(batch.names, batch.array)
                good.append(batch.is_good)
                failures += batch.failures
            rows.finish()
        return Done(np.concatenate(good), failures, None, loader.stats, file=path.name)
