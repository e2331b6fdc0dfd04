"""From a source of images to a folder of tensors: resumable, checked, and accounted for."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.by_name import NameIndex
from zoofast.base.checks import ON_ERROR, check_least, check_one_of
from zoofast.base.cpus import usable_cpus
from zoofast.base.files import MAX_FILE_BYTES, write_atomic
from zoofast.base.lock import output_lock
from zoofast.base.nodes import NodeReport
from zoofast.base.provenance import versions
from zoofast.base.sequences import Selection, Strings
from zoofast.errors import ImageError, OutputError
from zoofast.preprocess.bins import PLAIN, Bin, Packing, plan_bins, side_file
from zoofast.preprocess.cache import PixelCache
from zoofast.preprocess.loader import BatchOutcome, Failure, Stats, check_imported
from zoofast.preprocess.manifest import (
    Manifest,
    mark_interrupted,
    packing_as_dict,
    read_manifest,
    write_manifest,
)
from zoofast.preprocess.recipe import Recipe, resize_order
from zoofast.preprocess.sinks import (
    FORMATS,
    Sink,
    open_sink,
    remove_files,
    space_of_files,
    stored_files,
)
from zoofast.preprocess.sources import FetchedSource, Item, Names, Source
from zoofast.preprocess.verify import Verified, verify

SPACE_CURE = (
    "free some space, or prepare a part with --limit or --shard, or use `zoofast eval`, which "
    "writes no tensors"
)


@dataclass(frozen=True)
class PrepOptions:
    """How to prepare a folder.

    shard (i, n): every n-th image, from the i-th, i from 1. limit: only the first images, of the
    shard if there is one. threads: None for all usable CPUs. resume: continue an earlier run in the
    folder. overwrite: remove an earlier run's tensors first. verify: how many random images are
    prepared by Pillow and NumPy too, and compared.

    Raises ValueError for an option out of range.
    """

    format: str = "bin"  # bin, npy or pack
    threads: int | None = None
    on_error: str = "skip"  # or "stop", at the first image that fails
    resume: bool = False
    overwrite: bool = False
    limit: int | None = None
    shard: tuple[int, int] = (1, 1)
    verify: int = 0
    max_file_bytes: int = MAX_FILE_BYTES  # of an image file; a larger one is a failure
    packing: Packing = PLAIN  # only with "bin"
    side_file: str | None = None  # a file of the labels or sizes of each bin; see bins.side_file
    side_line: str = "{labels}"
    cache: PixelCache | None = None  # of the images' pixels

    def __post_init__(self) -> None:
        i, n = self.shard
        if not 1 <= i <= n:
            raise ValueError(f"shard must be (i, n) with i from 1 to n, not {self.shard}")
        check_one_of(FORMATS, format=self.format)
        check_one_of(ON_ERROR, on_error=self.on_error)
        check_least(0, verify=self.verify)
        check_least(1, threads=self.threads, limit=self.limit, max_file_bytes=self.max_file_bytes)


@dataclass
class PrepReport:
    """What a run did. `prepared` counts this run's tensors, `resumed` those of earlier runs."""

    recipe: Recipe
    source: str
    folder: str
    options: PrepOptions
    images: int  # of the whole source
    total: int
    skipped: int
    prepared: int = 0
    resumed: int = 0
    failures: list[Failure] = field(default_factory=list)
    state: str = "running"  # then complete or interrupted
    seconds: float = 0.0
    nbytes_in: int = 0
    nbytes_out: int = 0
    threads: int = 0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    decoders: dict[str, int] = field(default_factory=dict)
    verified: Verified | None = None
    names: Strings = field(default_factory=Strings)  # of all images that the folder is about
    bins: list[Bin] | None = None  # None where each image has a file that is named after it
    unnamed: list[int] = field(default_factory=list)  # places of images without a usable name
    nodes: list[NodeReport] = field(default_factory=list)  # of a cluster; [] on this machine alone

    @property
    def causes(self) -> dict[str, int]:
        """Failures by cause, most first."""
        return dict(Counter(failure.cause for failure in self.failures).most_common())

    @property
    def images_per_second(self) -> float:
        """Of this run's images, by the clock."""
        return self.prepared / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return self.content() | {"names": list(self.names)}

    def content(self) -> dict[str, Any]:
        """Everything, for `json_pieces`: the names are Strings, since a list takes more memory."""
        options = asdict(replace(self.options, cache=None))
        options["cache"] = self.options.cache and os.fspath(self.options.cache.folder)
        options["shard"] = f"{self.options.shard[0]}/{self.options.shard[1]}"
        return {
            "tool": "zoofast prep",
            "versions": versions(),
            "state": self.state,
            "recipe": {"name": self.recipe.name, "digest": self.recipe.digest},
            "resize_order": resize_order(),
            "shape": list(self.recipe.shape),
            "dtype": self.recipe.dtype,
            "layout": self.recipe.layout,
            "source": self.source,
            "folder": self.folder,
            "options": options,
            "images_in_source": self.images,
            "total": self.total,
            "skipped_as_no_image": self.skipped,
            "prepared": self.prepared,
            "resumed": self.resumed,
            "failed": len(self.failures),
            "failures_by_cause": self.causes,
            "failures": [asdict(failure) for failure in self.failures],
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "nbytes_in": self.nbytes_in,
            "nbytes_out": self.nbytes_out,
            "threads": self.threads,
            "stage_seconds": self.stage_seconds,
            "decoders": self.decoders,
            "verified": asdict(self.verified) if self.verified else None,
            "nodes": [asdict(node) for node in self.nodes],
            "names": self.names,
            "places_without_name": self.unnamed,
            "packing": self.bins and packing_as_dict(self.options.packing, self.bins),
        }


def choose(source: Source, limit: int | None, shard: tuple[int, int]) -> Sequence[Item]:
    """The items that a run is about: the i-th of n shards, then at most `limit` of them."""
    i, n = shard
    return source.items if n == 1 and limit is None else source.items[i - 1 :: n][:limit]


def space_needed(recipe: Recipe, items: Sequence[Item], options: PrepOptions, folder: Path) -> int:
    """Bytes that the tensors of `items` take on disk."""
    bins, dropped = _bins(items, options)
    sink = open_sink(options.format, folder, recipe, options.packing, bins)
    return (len(items) - len(dropped)) * sink.space_each


def output_files(items: Sequence[Item], options: PrepOptions) -> Sequence[str]:
    """The files of the tensors of `items`, relative to their folder. Raises OutputError."""
    return stored_files(Names(items), options.format, _bins(items, options)[0])


def _bins(items: Sequence[Item], options: PrepOptions) -> tuple[list[Bin] | None, list[Item]]:
    """The bins of `items`, None where each has a file that is named after it; and the items that
    are left out, since they do not fill a bin. Raises OutputError."""
    if options.packing.is_plain:
        return None, []
    if options.format != "bin":
        raise OutputError(f"--format {options.format} has no bins to pack or to name")
    if options.packing.is_numbered and options.shard[1] > 1:
        raise OutputError(
            "the bins are numbered, and each shard would count from 0; prepare without --shard, "
            "or name the bins by their images"
        )
    return plan_bins(items, options.packing)


def free_space(folder: Path) -> int:
    """Bytes free where `folder` is or will be."""
    at = folder.absolute()
    while not at.exists():
        at = at.parent
    return shutil.disk_usage(at).free


Progress = Callable[[PrepReport], None]

# Prepares items of a source, some of those that `choose` gives, into a sink, and counts in the
# report what is stored.
Store = Callable[[Source, Selection[Item], PrepOptions, Sink, PrepReport, Progress], None]


def prepare_folder(
    source: Source,
    folder: str | os.PathLike[str],
    recipe: Recipe,
    options: PrepOptions = PrepOptions(),
    progress: Progress = lambda report: None,
    labels: Mapping[str, int] | None = None,
    store: Store | None = None,
) -> PrepReport:
    """Prepares the images of `source` into `folder`, with a manifest beside them.

    `labels`: the class of each image, by name, for the side file that `options` may ask for.
    `progress` is called when it is known what is to be done, and after every batch. `store` does
    the work; None: this process does it. Images that fail are in the report's `failures`.

    Raises RecipeError where an imported recipe differs from its library (nothing is written then),
    OutputError (no room, not writable, another run's folder), ImageError (with on_error "stop"),
    KeyboardInterrupt; the folder can be resumed after each.
    """
    if not os.fspath(folder):  # an unset variable of a shell, which pathlib takes for "."
        raise OutputError("the folder for the tensors has no name; '.' is the current folder")
    path = Path(folder)
    _refuse_image_folder(source, path)
    check_imported(recipe, source, choose(source, options.limit, options.shard))
    with locked_folder(path):
        return _prepare_locked(
            source, path, recipe, options, progress, labels or {}, store or _store
        )


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Makes a folder for tensors, if needed, and holds its lock. Raises OutputError."""
    is_new = not os.path.lexists(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(
            f"{folder}: a file has this name; name a folder for the tensors"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{folder}: cannot be written to: {reason}") from error
    try:
        with output_lock(folder):
            yield
    except BaseException:
        if is_new:
            with suppress(OSError):
                folder.rmdir()  # only if it is empty: the run was refused
        raise


def _prepare_locked(
    source: Source,
    folder: Path,
    recipe: Recipe,
    options: PrepOptions,
    progress: Progress,
    labels: Mapping[str, int],
    store: Store,
) -> PrepReport:
    items = choose(source, options.limit, options.shard)
    report, dropped = _new_report(source, items, folder, recipe, options)
    side = _side_file(options, report, labels)
    earlier = _earlier_run(folder, recipe, options, report.bins)
    replaced: Sequence[str] | None = None
    if earlier is not None and not options.resume:
        replaced = stored_files(earlier.names, earlier.format, earlier.bins)
        earlier = None
    failed = earlier.failed if earlier is not None else frozenset()
    sink = open_sink(options.format, folder, recipe, options.packing, report.bins, failed)
    items = items[: len(items) - len(dropped)]
    is_todo = np.ones(len(items), bool)
    if earlier is not None:  # without a manifest nobody knows what the files in the folder hold
        _add_names(report, earlier)
        del earlier  # its names take memory
        is_todo = _is_todo(items, sink, report)
    todo = Selection.where(items, is_todo)
    report.resumed = len(items) - len(todo)
    needed = len(todo) * sink.space_each
    if replaced is not None:
        needed -= space_of_files(os.fspath(folder), replaced)
    check_space(folder, needed, SPACE_CURE)
    if options.cache is not None and store is _store:  # else the caches are on other machines
        options = replace(options, cache=options.cache.beside(folder, max(needed, 0)))
    if replaced is not None:
        # All of it, before anything else: a tensor that stayed would count as this run's.
        mark_interrupted(folder)
        remove_files(os.fspath(folder), replaced)
        del replaced  # its names take memory
    write_manifest(folder, report.content())
    progress(report)
    with _ending(report, folder) as begin:
        store(source, todo, options, sink, report, progress)
        if dropped:
            report.failures += _without_bin(dropped, options)
            progress(report)
        if report.failures:
            write_manifest(folder, report.content())  # before the bins that lack an image
        sink.finish()
        if side is not None and options.side_file is not None:
            write_atomic(options.side_file, side)
        report.seconds = time.monotonic() - begin
        report.state = "complete"
        if options.verify:
            report.verified = _verify(source, items, folder, report)
    return report


def _new_report(
    source: Source, items: Sequence[Item], folder: Path, recipe: Recipe, options: PrepOptions
) -> tuple[PrepReport, list[Item]]:
    """The report of a run that has not begun; and the items that `_bins` leaves out."""
    counts = len(source.items), len(items), len(source.skipped)
    report = PrepReport(recipe, source.where, os.fspath(folder), options, *counts)
    report.threads = options.threads or usable_cpus()
    report.bins, dropped = _bins(items, options)
    report.names = Strings(item.name for item in items if item.problem is None)
    report.unnamed = [i for i, item in enumerate(items) if item.problem is not None]
    return report, dropped


def _add_names(report: PrepReport, earlier: Manifest) -> None:
    """Puts the names of the earlier run before those of this run that are new."""
    if report.names != earlier.names:
        is_new = NameIndex(earlier.names).places(report.names) < 0
        report.names = Strings(chain(earlier.names, compress(report.names, is_new)))


def _is_todo(items: Sequence[Item], sink: Sink, report: PrepReport) -> NDArray[np.bool_]:
    """(n,): for which of `items` an earlier run has stored no tensor."""
    completed = zip(items, sink.completed(items, report.names), strict=True)
    is_todo = (item.problem is not None or not done for item, done in completed)
    return np.fromiter(is_todo, bool, len(items))


@contextmanager
def _ending(report: PrepReport, folder: Path) -> Iterator[float]:
    """Writes the manifest at the end, in which the run is "interrupted" unless it has set that it
    is "complete". Yields when the run began, in monotonic seconds."""
    begin = time.monotonic()
    try:
        yield begin
    finally:
        if report.state != "complete":
            report.seconds = time.monotonic() - begin
            report.state = "interrupted"
        try:
            write_manifest(folder, report.content())
        except OutputError:
            if report.state == "complete":
                raise


def check_space(folder: Path, needed: int, cure: str) -> None:
    """Raises OutputError unless `needed` bytes are free. cure: what the user can do."""
    free = free_space(folder)
    if needed > free:
        raise OutputError(f"{folder}: {needed:,} bytes are needed and {free:,} are free; {cure}")


def _verify(source: Source, items: Sequence[Item], folder: Path, report: PrepReport) -> Verified:
    """Compares some of the tensors of `items` with the reference."""
    options = report.options
    without = {failure.name for failure in report.failures}
    is_stored = (not (item.problem or item.name in without) for item in items)
    return verify(
        source,
        Selection.where(items, np.fromiter(is_stored, bool, len(items))),
        folder,
        report.recipe,
        options.format,
        options.verify,
        options.max_file_bytes,
        report.bins,
    )


def _without_bin(dropped: Sequence[Item], options: PrepOptions) -> list[Failure]:
    """The failures of the images that do not fill a bin."""
    reason = (
        f"the last bin would hold {len(dropped)} of {options.packing.images} images; --fill zero "
        "keeps it"
    )
    return [Failure(item.name, item.path, "no full bin", reason) for item in dropped]


def _side_file(options: PrepOptions, report: PrepReport, labels: Mapping[str, int]) -> bytes | None:
    """The content of the side file, before any work: a label may be missing."""
    if options.side_file is None:
        return None
    bins = report.bins
    if bins is None:
        if options.format != "bin":
            raise OutputError(f"--side-file is for bins, not for --format {options.format}")
        bins = [Bin(f"{name}.bin", (name,)) for name in report.names]
    has_lines = not options.side_file.endswith(".npy")
    if has_lines and "{i}" in options.side_line and options.shard[1] > 1:
        raise OutputError(
            "the lines of the side file are numbered by {i}, and each shard would count from 0; "
            "prepare without --shard, or use {stem}"
        )
    size = report.recipe.size
    return side_file(
        options.side_file, options.side_line, bins, options.packing, labels, size, report.folder
    )


def _refuse_image_folder(source: Source, folder: Path) -> None:
    """Raises OutputError when `folder` is the source, or holds images of it."""
    if not folder.is_dir() or isinstance(source, FetchedSource):
        return
    folders = {os.path.dirname(item.path) or "." for item in source.items if not item.in_archive}
    for image_folder in (source.where, *folders):
        if os.path.isdir(image_folder) and os.path.samefile(image_folder, folder):
            raise OutputError(f"{folder}: holds the images; choose another folder for the tensors")


def _store(
    source: Source,
    items: Sequence[Item],
    options: PrepOptions,
    sink: Sink,
    report: PrepReport,
    progress: Progress,
) -> None:
    """Prepares `items` into `sink`, and counts in `report` what is stored."""

    def count(batch: BatchOutcome, stats: Stats) -> None:
        report.prepared += len(batch.names)
        report.failures += batch.failures
        report.nbytes_in = stats.nbytes_in
        report.nbytes_out = report.prepared * sink.nbytes_each
        report.stage_seconds = stats.stage_seconds
        report.decoders = stats.decoders
        if batch.failures and options.on_error == "stop":
            raise ImageError(f"{batch.failures[0]} (stopped at the first failure)")
        progress(report)

    try:
        sink.store(source, items, report.threads, options.max_file_bytes, options.cache, count)
    except OutputError as error:
        raise OutputError(
            f"{error}; the tensors written so far stay, and --resume continues"
        ) from error


def _earlier_run(
    folder: Path, recipe: Recipe, options: PrepOptions, bins: list[Bin] | None
) -> Manifest | None:
    """The run in `folder` that this one continues or, without `resume`, replaces; None where there
    is none. Raises OutputError where neither is possible or asked for."""
    earlier = read_manifest(folder)
    if earlier is None:
        return None
    if options.overwrite and not options.resume:
        return earlier
    if not options.resume:
        raise OutputError(
            f"{folder} holds an earlier run ({earlier.state}, recipe {earlier.recipe_name}); "
            "continue it with --resume, replace it with --overwrite, or choose another folder"
        )
    for what, was, now in (
        ("recipe", earlier.recipe_digest, recipe.digest),
        ("format", earlier.format, options.format),
        ("packing of bins", earlier.packing, PLAIN if bins is None else options.packing),
        ("Pillow, of another resize order", earlier.resize_order, resize_order()),
    ):
        if was != now:
            raise OutputError(
                f"{folder} was prepared with another {what} ({was}, now {now}); resume with the "
                "same one, or choose another folder"
            )
    if earlier.bins != bins:
        raise OutputError(
            f"{folder}: its bins hold other images than this run would put into them; resume with "
            "the same images and --limit, or replace the bins with --overwrite"
        )
    return earlier
