"""The element type of .bin results, and whether all results of a folder are of one run.

`zoofast infer` records both. Without a record, the sizes and values of the files must be plausible.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

import numpy as np

from zoofast.errors import ResultError
from zoofast.inference.record import RunRecord, record_path
from zoofast.scoring.listing import DEVICE_FOLDER, ResultFolder

SCORES = ("auto", "logits", "probabilities")  # what a result's numbers are said to be
BIN_DTYPES = (
    "float32",
    "float16",
    "float64",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
)
DEFAULT_DTYPE = "float32"
IMAGENET_CLASSES = (1000, 1001)
MAX_SAMPLED, MAX_SAMPLED_BYTES = 16, 1 << 20  # files whose size and values are looked at
SMALLEST_NORMAL, LARGEST_PLAUSIBLE = float(np.finfo(np.float32).tiny), 1e20


def find_record(folder: Path) -> RunRecord | None:
    """The record of the run that made a result folder, or its parent if it is of one device."""
    absolute = Path(os.path.abspath(folder))
    record = RunRecord.read(absolute)
    if record is None and DEVICE_FOLDER.fullmatch(absolute.name):
        return RunRecord.read(absolute.parent)
    return record


def probable_dtype(record: RunRecord | None, output_index: int, requested: str | None) -> str:
    """The element type, without a look at the files. requested: by the user, or None."""
    if requested is not None:
        return requested
    if record is not None and output_index < len(record.outputs):
        dtype = record.outputs[output_index].dtype
        return dtype if dtype in BIN_DTYPES else DEFAULT_DTYPE
    return DEFAULT_DTYPE


def result_format(
    listing: ResultFolder, requested: str | None, record: RunRecord | None
) -> tuple[str, int | None]:
    """(element type of .bin files, values of each image; None when they are not recorded).

    Raises ResultError when the results are of several runs, when `requested` is not what the record
    says, and, without a record, when the files are hardly of type float32.
    """
    if record is not None:
        _check_one_run(listing, record)
    # infer may have been ended before it recorded the outputs.
    if record is None or listing.output_index >= len(record.outputs):
        if requested is None:
            _check_plausible(listing)
        return requested or DEFAULT_DTYPE, None
    output = record.outputs[listing.output_index]
    values = math.prod(output.shape)
    if record.images_per_file != 1:
        if not record.images or output.shape[:1] != (record.images_per_file,):
            raise ResultError(
                f"{listing.folder}: each file holds the results of {record.images_per_file} "
                "images, and nothing says which: pack the bins with zoofast prep, or run infer "
                "with one image a file"
            )
        values //= record.images_per_file
    if output.dtype not in BIN_DTYPES:
        raise ResultError(f"{listing.folder}: output {listing.output_index} is {output}, no scores")
    if record.outfmt == "BIN" and requested not in (None, output.dtype):
        raise ResultError(
            f"{listing.folder}: infer has written {output}; give no --bin-dtype, or delete "
            f"{recorded_in(listing)} if another program has made the results"
        )
    return output.dtype, values


def recorded_in(listing: ResultFolder) -> Path:
    """The file that holds the record."""
    path = record_path(listing.folder)
    return path if path.exists() else record_path(listing.folder.absolute().parent)


def _check_one_run(listing: ResultFolder, record: RunRecord) -> None:
    """Raises ResultError for results that the recorded run has not made."""
    files = [*listing.files, *(file for files in listing.duplicates.values() for file in files)]
    suffix = f".{record.outfmt.lower()}"
    others = [file for file in files if not file.lower().endswith(suffix)]
    reason = f"is not a {suffix} file"
    if not others and record.samples:
        samples = set(record.samples)
        others = [
            file
            for name, file in zip(listing.names, listing.files, strict=True)
            if name not in samples
        ]
        reason = "is not of its images"
    if others:
        raise ResultError(
            f"{listing.folder}: {len(others)} results are not of the run that "
            f"{recorded_in(listing)} records ({others[0]} {reason}); run infer into an empty "
            "folder, or delete the record if another program has made the results"
        )


def _check_plausible(listing: ResultFolder) -> None:
    """Raises ResultError when the .bin files are hardly float32 scores."""
    bins = [file for file in listing.files if file.lower().endswith(".bin")]
    sampled = bins[:: -(-len(bins) // MAX_SAMPLED)] if bins else []
    contents: dict[str, bytes] = {}
    for file in sampled:
        content = _sample(listing.folder / file)
        if content:
            contents[file] = content
    if not contents:
        return
    file, content = next(iter(contents.items()))
    if all(len(each) == len(content) for each in contents.values()):
        _check_size(listing.folder, file, len(content))
    reasons = [reason for each in contents.values() if (reason := _implausible(each))]
    if 2 * len(reasons) > len(contents):
        raise ResultError(
            f"{listing.folder}: {file} holds {reasons[0]} if it is float32; give its type with "
            "--bin-dtype (float32 if it is right)"
        )


def _sample(path: Path) -> bytes:
    """The file's content; empty for a file that scoring will report as broken."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_SAMPLED_BYTES:
            return path.read_bytes()
    except OSError:
        pass
    return b""


def _check_size(folder: Path, file: str, nbytes: int) -> None:
    """Raises ResultError for a size that is of another type than float32."""
    if nbytes / 4 in IMAGENET_CLASSES:
        return
    candidates = [
        dtype for dtype in BIN_DTYPES if nbytes / np.dtype(dtype).itemsize in IMAGENET_CLASSES
    ]
    if candidates:
        classes = nbytes // np.dtype(candidates[0]).itemsize
        raise ResultError(
            f"{folder}: {file} has {nbytes} bytes, which are {classes} values if they are "
            f"{' or '.join(candidates)}; give the type with --bin-dtype, also for float32"
        )
    if nbytes % 4:
        raise ResultError(
            f"{folder}: {file} has {nbytes} bytes, which are no float32; give the type with "
            "--bin-dtype float16 or another"
        )


def _implausible(content: bytes) -> str | None:
    """What is wrong with the values of a file if it holds float32; None when nothing is."""
    values = np.frombuffer(content[: len(content) // 4 * 4], np.float32)
    finite = np.abs(values[np.isfinite(values)])
    if 2 * len(finite) < len(values):
        return "NaN or infinite values"
    if finite.max() > LARGEST_PLAUSIBLE:
        return f"values of {finite.max():.0e}"
    if 0 < finite.max() < SMALLEST_NORMAL:
        return "denormal values only"
    return None
