"""Result files -> the best classes of each, read by C threads; one file -> its logits."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from zoofast import _logits
from zoofast.base.checks import check_least, check_one_of
from zoofast.errors import ResultError
from zoofast.scoring.formats import BIN_DTYPES, find_record, probable_dtype, result_format
from zoofast.scoring.listing import file_names, list_results
from zoofast.scoring.topk import TopK

KINDS = {"txt": _logits.TXT, "bin": _logits.BIN, "npy": _logits.NPY}
# The C threads begin with the first 512 files, then get 8 times as many each time.
FIRST_FILES, GROWTH = 512, 8
FILES_PER_STEP = 2048  # between two calls of `progress`, when Ctrl-C is seen as well


@dataclass(frozen=True)
class ReadOptions:
    """How a folder of results is read.

    output_index: which of the model's outputs; None: the lowest that has files. kind: only "txt",
    "bin" or "npy" files; None: all. bin_dtype: element type of .bin files; None: the type that
    infer has recorded, or float32 without a record. threads: 1 to 1024.

    Raises ValueError for an option out of range.
    """

    output_index: int | None = None
    kind: str | None = None
    bin_dtype: str | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        check_least(0, output_index=self.output_index)
        check_least(1, threads=self.threads)
        if self.kind is not None:
            check_one_of(KINDS, kind=self.kind)
        if self.bin_dtype is not None:
            check_one_of(BIN_DTYPES, bin_dtype=self.bin_dtype)


DEFAULT_READING = ReadOptions()


class ResultReader:
    """Lists a folder's results and ranks them, on C threads without the GIL. A context manager.

    All threads but the caller's begin to read while the folder is being listed and sorted; `finish`
    reads along with them. k: how many classes of each file are ranked. `values`: how many values
    each file must have by infer's record; None without a record. Raises ResultError as list_results
    and result_format do. A broken file does not raise: see `read_failure`.
    """

    def __init__(self, folder: Path | str, k: int, options: ReadOptions = DEFAULT_READING) -> None:
        folder = Path(folder)
        try:
            self._dir_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ResultError(f"{folder}: cannot be listed: {error.strerror}") from error
        self._k, self._options = k, options
        self._readings: list[tuple[list[str], _logits.Reading]] = []
        try:
            record = find_record(folder)
            self._bin_dtype = probable_dtype(record, options.output_index or 0, options.bin_dtype)
            paths = self._list_and_begin(folder)
            self.listing = list_results(folder, options.output_index, options.kind, paths=paths)
            self._bin_dtype, self.values = result_format(self.listing, options.bin_dtype, record)
        except BaseException:
            self.close()
            raise

    def _list_and_begin(self, folder: Path) -> list[str]:
        """Lists the folder; begins to read the files that are probably needed. `finish` reads the
        needed files that this guess has missed."""
        index, kind = self._options.output_index or 0, self._options.kind
        endings = tuple(f"_{index}.{suffix}" for suffix in KINDS if kind in (None, suffix))
        listed, paths, count = file_names(folder), [], FIRST_FILES
        while part := list(itertools.islice(listed, count)):
            self._begin([path for path in part if path.endswith(endings)])
            paths += part
            count *= GROWTH
        return paths

    def _begin(self, files: list[str]) -> None:
        reading = _logits.Reading(
            self._dir_fd,
            list(map(os.fsencode, files)),
            _kinds(files),
            self._k,
            bin_dtype=self._bin_dtype,
            want_confidence=True,
            threads=self._options.threads,
        )
        self._readings.append((files, reading))

    def finish(
        self, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[NDArray[np.void], TopK]:
        """Waits until every file of `listing` is ranked. progress: is called with the number of
        files that are read so far, and of all files.

        Returns, in the order of `listing.files`, each file's _logits.RESULT_DTYPE, and the best
        classes of each file that has a row.
        """
        begun = [file for files, _ in self._readings for file in files]
        position = dict(zip(begun, range(len(begun)), strict=True))
        missing = [file for file in self.listing.files if file not in position]
        if missing:
            self._begin(missing)
            position |= {file: len(begun) + i for i, file in enumerate(missing)}
        order = np.array([position[file] for file in self.listing.files], np.intp)
        done, total = 0, len(position)
        progress(done, total)
        for files, reading in self._readings:
            of_part = 0
            while of_part < len(files):
                of_part = reading.rank_files(FILES_PER_STEP)
                progress(done + of_part, total)
            done += len(files)
            reading.end()
        results, classes, values = (
            np.concatenate([getattr(reading, array) for _, reading in self._readings])[order]
            for array in ("results", "classes", "values")
        )
        return results, TopK(classes, values, results["confidence"], results["sum"], results["min"])

    def close(self) -> None:
        """Stops reading. Idempotent."""
        for _, reading in self._readings:
            reading.end()
        if self._dir_fd >= 0:
            os.close(self._dir_fd)
        self._dir_fd = -1

    def __enter__(self) -> ResultReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _kinds(files: Sequence[str]) -> NDArray[np.uint8]:
    of_suffix = {suffix: KINDS[suffix.lower()] for suffix in {file[-3:] for file in files}}
    return np.array([of_suffix[file[-3:]] for file in files], np.uint8)


def read_failure(result: np.void) -> str | None:
    """Why a file has no row, in words; None when it has one. result: a _logits.RESULT_DTYPE."""
    status, at = int(result["status"]), int(result["offset"])
    if status == _logits.OK:
        return None
    if status == _logits.READ:
        return os.strerror(int(result["sys_errno"]))
    if status == _logits.EMPTY:
        return "no number in its first row"
    if status == _logits.NUMBER:
        return f"not a number at byte {at}"
    if status == _logits.NPY_HEADER:
        return "no .npy file of plain numbers in C order"
    if status == _logits.BYTES:
        return f"its {at} bytes are cut short"
    raise MemoryError


def read_logits(
    file: Path | str, kind: str | None = None, bin_dtype: DTypeLike = "float32"
) -> NDArray[np.float32]:
    """One result file's row of scores, (classes,). Raises ResultError naming the file."""
    file = Path(file)
    kind = kind or file.suffix[1:].lower()
    if kind not in KINDS:
        raise ResultError(f"{file}: not a .txt, .bin or .npy file")
    result, row = _logits.read_file(
        _logits.CWD, os.fsencode(file), KINDS[kind], bin_dtype=bin_dtype
    )
    failure = read_failure(result)
    if failure:
        raise ResultError(f"{file}: {failure}")
    return row
