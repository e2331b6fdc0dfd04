"""From a source of images to a folder of tensors: resumable, checked, and accounted for."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoofast.base.cpus import usable_cpus
from zoofast.base.files import MAX_FILE_BYTES
from zoofast.base.lock import output_lock
from zoofast.base.provenance import versions
from zoofast.errors import ImageError, OutputError
from zoofast.preprocess.loader import BatchOutcome, Failure, Stats
from zoofast.preprocess.manifest import Manifest, read_manifest, write_manifest
from zoofast.preprocess.recipe import Recipe, resize_order
from zoofast.preprocess.sinks import Sink, open_sink
from zoofast.preprocess.sources import Item, Source
from zoofast.preprocess.verify import Verified, verify


@dataclass(frozen=True)
class PrepOptions:
    """How to prepare a folder. `shard` (i, n) takes every n-th image, from the i-th, i from 1."""

    format: str = "bin"  # bin, npy or pack
    threads: int | None = None
    on_error: str = "skip"  # or "stop", at the first image that fails
    resume: bool = False
    overwrite: bool = False
    limit: int | None = None
    shard: tuple[int, int] = (1, 1)
    verify: int = 0
    max_file_bytes: int = MAX_FILE_BYTES  # of an image file; a larger one is a failure


@dataclass
class PrepReport:
    """What a run did. `prepared` counts this run's tensors, `resumed` those of earlier runs."""

    recipe: Recipe
    source: str
    folder: str
    options: PrepOptions
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
    names: list[str] = field(default_factory=list)  # of all images that the folder is about

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
        options = asdict(self.options)
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
            "names": self.names,
        }


def choose(source: Source, limit: int | None, shard: tuple[int, int]) -> list[Item]:
    """The items that a run is about: the i-th of n shards, then at most `limit` of them."""
    i, n = shard
    return source.items[i - 1 :: n][:limit]


def space_needed(recipe: Recipe, items: Sequence[Item], options: PrepOptions, folder: Path) -> int:
    """Bytes that the tensors of `items` take on disk."""
    return len(items) * open_sink(options.format, folder, recipe).space_each


def free_space(folder: Path) -> int:
    """Bytes free where `folder` is or will be."""
    at = folder.absolute()
    while not at.exists():
        at = at.parent
    return shutil.disk_usage(at).free


Progress = Callable[[PrepReport], None]


def prepare_folder(
    source: Source,
    folder: str | os.PathLike[str],
    recipe: Recipe,
    options: PrepOptions = PrepOptions(),
    progress: Progress = lambda report: None,
) -> PrepReport:
    """Prepares the images of `source` into `folder`, with a manifest beside them.

    `progress` is called when it is known what is to be done, and after every batch. Images that
    fail are in the report's `failures`. Raises OutputError (no room, not writable, another run's
    folder), ImageError (with on_error "stop"), KeyboardInterrupt; the folder can be resumed after
    each.
    """
    path = Path(folder)
    _refuse_image_folder(source, path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{folder}: cannot be written to: {reason}") from error
    with output_lock(path):
        return _prepare_locked(source, path, recipe, options, progress)


def _prepare_locked(
    source: Source, folder: Path, recipe: Recipe, options: PrepOptions, progress: Progress
) -> PrepReport:
    items = choose(source, options.limit, options.shard)
    report = PrepReport(
        recipe, source.where, os.fspath(folder), options, len(items), len(source.skipped)
    )
    report.threads = options.threads or usable_cpus()
    earlier = _earlier_run(folder, recipe, options)
    sink = open_sink(options.format, folder, recipe)
    report.names = [item.name for item in items if item.problem is None]
    completed: set[str] = set()
    if earlier is not None:  # without a manifest nobody knows what the files in the folder hold
        report.names = list(dict.fromkeys(earlier.names + report.names))
        completed = sink.completed(items, report.names)
    todo = [item for item in items if item.name not in completed]
    report.resumed = len(items) - len(todo)
    needed, free = len(todo) * sink.space_each, free_space(folder)
    if needed > free:
        raise OutputError(
            f"{folder}: {needed:,} bytes are needed and {free:,} are free; free some space, or "
            "prepare a part with --limit or --shard, or score without bins"
        )
    write_manifest(folder, report.as_dict())
    progress(report)
    begin = time.monotonic()
    try:
        _store(source, todo, options, sink, report, progress)
        report.seconds = time.monotonic() - begin
        report.state = "complete"
        if options.verify:
            failed = {failure.name for failure in report.failures}
            stored = [item for item in items if item.name not in failed]
            report.verified = verify(
                source,
                stored,
                folder,
                recipe,
                options.format,
                options.verify,
                options.max_file_bytes,
            )
    finally:
        if report.state != "complete":
            report.seconds = time.monotonic() - begin
            report.state = "interrupted"
        try:
            write_manifest(folder, report.as_dict())
        except OutputError:
            if report.state == "complete":
                raise
    return report


def _refuse_image_folder(source: Source, folder: Path) -> None:
    """Raises OutputError when `folder` is the source, or holds images of it."""
    if not folder.is_dir():
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
        sink.store(source, items, report.threads, options.max_file_bytes, count)
    except OutputError as error:
        raise OutputError(
            f"{error}; the tensors written so far stay, and --resume continues"
        ) from error


def _earlier_run(folder: Path, recipe: Recipe, options: PrepOptions) -> Manifest | None:
    """The run that this one continues; None when it begins anew, in a folder without tensors."""
    earlier = read_manifest(folder)
    if earlier is None:
        return None
    if options.overwrite and not options.resume:
        # All of it, before anything else: a tensor that stayed would count as this run's.
        open_sink(earlier.format, folder, recipe).clear(earlier.names)
        return None
    if not options.resume:
        raise OutputError(
            f"{folder} holds an earlier run ({earlier.state}, recipe {earlier.recipe_name}); "
            "continue it with --resume, replace it with --overwrite, or choose another folder"
        )
    for what, was, now in (
        ("recipe", earlier.recipe_digest, recipe.digest),
        ("format", earlier.format, options.format),
        ("Pillow, of another resize order", earlier.resize_order, resize_order()),
    ):
        if was != now:
            raise OutputError(
                f"{folder} was prepared with another {what} ({was}, now {now}); resume with the "
                "same one, or choose another folder"
            )
    return earlier
