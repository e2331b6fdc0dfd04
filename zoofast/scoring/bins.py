"""Results of bins that `zoofast prep` packed or named as a guide does: the rows of each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoofast import _logits
from zoofast.base.files import read_file
from zoofast.base.npy import map_npy
from zoofast.errors import ResultError
from zoofast.inference.record import RunRecord
from zoofast.scoring.formats import result_format
from zoofast.scoring.listing import ResultFolder, list_results
from zoofast.scoring.results import FILES_PER_STEP, ReadOptions
from zoofast.scoring.topk import TopK


def images_of(record: RunRecord | None, sample: str) -> tuple[str, ...]:
    """The images that a sample's result is about."""
    return (sample,) if record is None else record.images.get(sample, (sample,))


def name_images(
    listing: ResultFolder, record: RunRecord, labelled: Mapping[str, int]
) -> ResultFolder:
    """A listing of results of one image each, by the images' names; "" for no image.

    Labels can also be of the bins, as in some guides: where no image is in `labelled`, and bins
    are, the names stay.
    """
    names = [images_of(record, sample)[0] for sample in listing.names]
    if not any(name in labelled for name in names) and any(n in labelled for n in listing.names):
        names = [sample if name else "" for sample, name in zip(listing.names, names, strict=True)]
    return replace(listing, names=names)


def list_bins(
    folder: Path | str, record: RunRecord, options: ReadOptions
) -> tuple[ResultFolder, ResultFolder, str, int]:
    """Lists result files of several images each.

    Returns the listing of the files; one of their rows, by the images' names, "" for a row without
    an image; the element type of .bin files; and the number of classes. Raises ResultError as
    list_results and result_format do.
    """
    listing = list_results(folder, options.output_index, options.kind)
    dtype, classes = result_format(listing, options.bin_dtype, record)
    if classes is None:
        raise ResultError(f"{folder}: infer has not recorded its outputs; run infer again")
    names = [name for sample in listing.names for name in images_of(record, sample)]
    files = [file for file in listing.files for _ in range(record.images_per_file)]
    return listing, replace(listing, names=names, files=files), dtype, classes


def read_bins(
    folder: Path | str,
    record: RunRecord,
    k: int,
    options: ReadOptions,
    progress: Callable[[int, int], None],
) -> tuple[ResultFolder, NDArray[np.void], TopK, int]:
    """The rows of result files of several images each, as if each row were a file.

    Returns the listing of the rows; each row's _logits.RESULT_DTYPE; the k best classes of each;
    and how many classes the record says. Raises ResultError as list_bins does.
    """
    listing, listing_of_rows, dtype, classes = list_bins(folder, record, options)
    images = record.images_per_file
    rows = images * len(listing.files)
    results = np.zeros(rows, _logits.RESULT_DTYPE)
    best = TopK.empty(rows, min(k, classes))
    for i, file in enumerate(listing.files):
        if i % FILES_PER_STEP == 0:
            progress(i, len(listing.files))
        part = slice(i * images, (i + 1) * images)
        logits = read_bin(listing.folder / file, dtype, (images, classes), results[part])
        ranked = _no_rows(images, best) if logits is None else TopK.of_logits(logits, k)
        best.put(np.arange(rows)[part], ranked)
    progress(len(listing.files), len(listing.files))
    return listing_of_rows, results, best, classes


def read_bin(
    path: Path, dtype: str, shape: tuple[int, int], results: NDArray[np.void]
) -> NDArray[np.float32] | None:
    """The logits of a file of several images, of the shape (images, classes).

    None where it has other values; `results`, each image's _logits.RESULT_DTYPE, say what it has.
    """
    logits = _read(path, dtype, results)
    images, classes = shape
    if logits.size == images * classes:
        results["count"] = classes
        return logits.reshape(shape)
    results["count"] = logits.size
    if 0 < logits.size < images * classes:  # also if it has as many values as one image
        results["status"] = _logits.BYTES
        results["offset"] = path.stat().st_size
    return None


def _read(path: Path, dtype: str, results: NDArray[np.void]) -> NDArray[np.float32]:
    """All values of a file; where there are none, `results` says why."""
    try:
        if path.suffix.lower() == ".npy":
            values = np.asarray(map_npy(path))
        elif path.suffix.lower() == ".txt":
            values = _logits.parse(read_file(path))
        else:
            data = read_file(path)
            itemsize = np.dtype(dtype).itemsize
            if len(data) % itemsize:
                results["status"], results["offset"] = _logits.BYTES, len(data)
                return np.empty(0, np.float32)
            values = np.frombuffer(data, dtype)
    except OSError as error:
        results["status"], results["sys_errno"] = _logits.READ, error.errno or 0
        return np.empty(0, np.float32)
    except ValueError:
        is_npy = path.suffix.lower() == ".npy"
        results["status"] = _logits.NPY_HEADER if is_npy else _logits.NUMBER
        return np.empty(0, np.float32)
    if not values.size:
        results["status"] = _logits.EMPTY
    return np.ascontiguousarray(values, np.float32).reshape(-1)


def _no_rows(count: int, best: TopK) -> TopK:
    """Rows without classes, as TopK says them."""
    shape = (count, best.classes.shape[1])
    nan = np.full(count, np.nan, np.float32)
    return TopK(np.full(shape, -1, np.int32), np.full(shape, np.nan, np.float32), nan, nan, nan)
