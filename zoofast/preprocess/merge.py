"""The folders of a preparation's shards -> one folder, as one machine would have made it."""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.files import PART, write_errors
from zoofast.base.rows import npy_header, read_named_rows, write_by_place
from zoofast.base.shards import (
    NAMES_SHOWN,
    check_names,
    check_shards,
    parse_shard,
    shard_places,
    shard_total,
)
from zoofast.base.text import counted, listed
from zoofast.errors import OutputError
from zoofast.preprocess.bins import Bin
from zoofast.preprocess.folder import check_space, locked_folder
from zoofast.preprocess.manifest import (
    MANIFEST,
    Manifest,
    mark_interrupted,
    packing_as_dict,
    read_content,
    read_manifest,
    write_manifest,
)
from zoofast.preprocess.sinks import PACK, remove_files, space_of_files, stored_files

SUMS = ("total", "prepared", "resumed", "nbytes_in", "nbytes_out", "threads")
TABLES = ("stage_seconds", "decoders")  # whose numbers are sums too
SAME = ("recipe", "resize_order", "shape", "dtype", "layout", "skipped_as_no_image")
SAME_OPTIONS = ("format", "limit", "packing")

Progress = Callable[[int, int], None]  # tensors so far, all tensors


@dataclass(frozen=True)
class _Shard:
    """One shard's folder. places (n,): of the manifest's names, in the whole source."""

    folder: Path
    manifest: Manifest
    content: dict[str, Any]
    shard: tuple[int, int]
    places: NDArray[np.int64]
    unnamed: NDArray[np.int64]  # places of the images without a usable name

    @property
    def stored(self) -> list[str]:
        """The names of the images that have a tensor."""
        return [name for name in self.manifest.names if name not in self.manifest.failed]


def merge_folders(
    folders: Sequence[Path],
    out: Path,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Joins the folders of all shards in `out`. Returns the manifest that it has written.

    Tensors are linked where `out` is on the same file system, else copied. Raises OutputError: a
    shard or a tensor is missing or there twice, shards were prepared in different ways, or `out`
    holds tensors already (unless `overwrite`).
    """
    shards = sorted((_read(folder) for folder in folders), key=lambda shard: shard.shard)
    check_shards([(str(each.folder), each.shard) for each in shards])
    _check_same(shards)
    check_names([(str(each.folder), each.manifest.names) for each in shards])
    if any(os.path.exists(out) and each.folder.samefile(out) for each in shards):
        raise OutputError(f"{out}: is one of the shards; choose another folder")
    files = [_files(each) for each in shards]
    _check_files(shards, files)
    packs = [_read_pack(each) for each in shards if each.manifest.format == "pack"]
    with locked_folder(out):
        replaced = _replaced(out, overwrite)
        needed = sum(
            _nbytes(each, of_shard, out) for each, of_shard in zip(shards, files, strict=True)
        )
        check_space(out, needed - space_of_files(os.fspath(out), replaced), "free some space")
        if replaced:
            mark_interrupted(out)
            remove_files(os.fspath(out), replaced)
        content = _merged(shards, out)
        write_manifest(out, {**content, "state": "running"})
        if packs:
            write_by_place(out / PACK, packs)
        else:
            _join(shards, files, out, progress)
        write_manifest(out, content)
    return content


def _read(folder: Path) -> _Shard:
    read = read_content(folder)
    if read is None:
        raise OutputError(f"{folder}: holds no {MANIFEST}; give the folders of zoofast prep")
    manifest, content = read
    if manifest.state != "complete":
        raise OutputError(f"{folder}: is not complete; continue it with zoofast prep --resume")
    try:
        shard = parse_shard(content["options"]["shard"])
        unnamed = [int(place) for place in content["places_without_name"]]
        if len(manifest.names) + len(unnamed) != content["total"]:
            raise OutputError(f"{folder}: holds tensors of several runs, not of one shard")
        places = shard_places(shard, content["total"])
        limit, images = content["options"]["limit"], content["images_in_source"]
        if content["total"] != shard_total(shard, images, limit):
            raise ValueError(f"{content['total']} images of {images}")
        for key in ("dtype", "shape", "nodes", *SUMS, *TABLES, *SAME):
            content[key]
        return _Shard(folder, manifest, content, shard, np.delete(places, unnamed), places[unnamed])
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise OutputError(
            f"{folder}/{MANIFEST}: is of another version of zoofast ({error!r}); prepare it anew"
        ) from error


def _check_same(shards: Sequence[_Shard]) -> None:
    first = shards[0]
    for each in shards[1:]:
        pairs = [(key, each.content[key], first.content[key]) for key in SAME]
        ours, theirs = each.content["options"], first.content["options"]
        pairs += [(key, ours[key], theirs[key]) for key in SAME_OPTIONS]
        our, their = (f"{of.content['images_in_source']} images" for of in (each, first))
        pairs.append(("source", our, their))
        for key, our, their in pairs:
            if our != their:
                raise OutputError(
                    f"{each.folder} was prepared with another {key} ({our}) than {first.folder} "
                    f"({their})"
                )


def _files(shard: _Shard) -> list[str]:
    """The files of the tensors, relative to the folder; none for a pack."""
    manifest = shard.manifest
    if manifest.format == "pack":
        return []
    if manifest.bins is None:
        return [f"{name}.{manifest.format}" for name in shard.stored]
    has_all = manifest.packing.mirror  # then the bin of an image that failed holds zeros
    return [
        file
        for bin in manifest.bins
        if has_all or bin.images[0] not in manifest.failed
        for file in bin.files
    ]


def _check_files(shards: Sequence[_Shard], files: Sequence[Sequence[str]]) -> None:
    """Raises OutputError where a tensor is missing or has another size."""
    for each, of_shard in zip(shards, files, strict=True):
        shape, dtype = tuple(each.content["shape"]), each.content["dtype"]
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if each.manifest.format == "npy":
            nbytes += len(npy_header(shape, dtype))
        missing = [file for file in of_shard if _size(each.folder / file) != nbytes]
        if missing:
            raise OutputError(
                f"{each.folder}: {counted(len(missing), 'tensor')} missing or not whole: "
                f"{listed(missing, NAMES_SHOWN)}; prepare them with zoofast prep --resume"
            )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _is_linked(shard: _Shard, out: Path) -> bool:
    """Whether the tensors of a shard will be linked into `out`, and not copied."""
    is_same_disk = shard.folder.stat().st_dev == out.stat().st_dev
    return is_same_disk and shard.manifest.format != "pack"


def _nbytes(shard: _Shard, files: Sequence[str], out: Path) -> int:
    """The bytes that the tensors of a shard will take in `out`; none where they are linked."""
    if _is_linked(shard, out):
        return 0
    tensors = len(shard.stored) if shard.manifest.format == "pack" else len(files)
    shape, dtype = shard.content["shape"], shard.content["dtype"]
    return int(tensors * math.prod(shape) * np.dtype(dtype).itemsize)


def _replaced(out: Path, overwrite: bool) -> Sequence[str]:
    """The files of the tensors of an earlier run. Raises OutputError if they may not be removed."""
    earlier = read_manifest(out)
    if earlier is None:
        return []
    if not overwrite:
        raise OutputError(
            f"{out} holds an earlier run ({earlier.state}); replace it with --overwrite, or choose "
            "another folder"
        )
    return stored_files(earlier.names, earlier.format, earlier.bins)


def _join(
    shards: Sequence[_Shard], files: Sequence[Sequence[str]], out: Path, progress: Progress
) -> None:
    """Puts the files of all shards into `out`."""
    done, total = 0, sum(map(len, files))
    for each, of_shard in zip(shards, files, strict=True):
        for file in of_shard:
            target = out / file
            with write_errors(target):
                target.parent.mkdir(exist_ok=True)
                part = target.with_name(target.name + PART)
                part.unlink(missing_ok=True)
                try:
                    _link_or_copy(each.folder / file, part)
                    os.replace(part, target)
                except BaseException:
                    part.unlink(missing_ok=True)
                    raise
            done += 1
            progress(done, total)


def _link_or_copy(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, target)


def _read_pack(shard: _Shard) -> tuple[list[str], NDArray[Any], NDArray[np.int64]]:
    """The names and the rows of a shard's pack, and their places in the whole source."""
    names, rows = read_named_rows(shard.folder / PACK)
    missing = sorted({*shard.stored} - {*names})
    if missing or len(names) != len(shard.stored):
        raise OutputError(
            f"{shard.folder / PACK}: has other images than the manifest; prepare the shard anew"
            + (f"; missing: {listed(missing, NAMES_SHOWN)}" if missing else "")
        )
    place_of = dict(zip(shard.manifest.names, shard.places.tolist(), strict=True))
    return names, rows, np.array([place_of[name] for name in names], np.int64)


def _in_order(pairs: Iterable[tuple[int, Any]]) -> list[Any]:
    return [value for _, value in sorted(pairs, key=lambda pair: pair[0])]


def _merged(shards: Sequence[_Shard], out: Path) -> dict[str, Any]:
    """The manifest of the whole. Times are those of shards that ran side by side."""
    first, contents = shards[0], [each.content for each in shards]
    n, limit = first.shard[1], first.content["options"]["limit"]
    failures = _in_order(pair for each in shards for pair in _failures(each))
    seconds = max(float(content["seconds"]) for content in contents)
    prepared = sum(content["prepared"] for content in contents)
    bins: dict[str, list[str]] = {}
    if first.manifest.bins is not None:
        in_order = _in_order(
            pair
            for each in shards
            for pair in zip(each.places.tolist(), each.manifest.bins or [], strict=True)
        )
        made: list[Bin] = in_order
        bins = packing_as_dict(first.manifest.packing, made)
    names = _in_order(
        pair
        for each in shards
        for pair in zip(each.places.tolist(), each.manifest.names, strict=True)
    )
    return {
        **first.content,
        "folder": os.fspath(out),
        "options": {
            **first.content["options"],
            "shard": "1/1",
            "limit": None if limit is None else limit * n,
            "resume": False,
        },
        **{key: sum(content[key] for content in contents) for key in SUMS},
        "failed": len(failures),
        "failures_by_cause": dict(Counter(each["cause"] for each in failures).most_common()),
        "failures": failures,
        "seconds": seconds,
        "images_per_second": prepared / seconds if seconds > 0 else 0.0,
        **{
            table: {
                key: sum(content[table].get(key, 0) for content in contents)
                for key in dict.fromkeys(key for content in contents for key in content[table])
            }
            for table in TABLES
        },
        "verified": _verified([content["verified"] for content in contents]),
        "nodes": [node for content in contents for node in content["nodes"]],
        "names": names,
        "places_without_name": sorted(place for each in shards for place in each.unnamed.tolist()),
        "packing": bins or None,
    }


def _failures(shard: _Shard) -> list[tuple[int, dict[str, Any]]]:
    """(place, failure) of each. Images without a usable name fail in the order of the source."""
    place_of = dict(zip(shard.manifest.names, shard.places.tolist(), strict=True))
    unnamed = iter(shard.unnamed.tolist())
    return [
        (
            next(unnamed, -1) if each["cause"] == "bad name" else place_of.get(each["name"], -1),
            each,
        )
        for each in shard.content["failures"]
    ]


def _verified(parts: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    known = [part for part in parts if part]
    if not known:
        return None
    return {
        "images": sum(part["images"] for part in known),
        "equal": sum(part["equal"] for part in known),
        "largest_difference": max(part["largest_difference"] for part in known),
        "differing": [name for part in known for name in part["differing"]],
    }
