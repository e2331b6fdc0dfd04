"""Result files as ais_bench leaves them: NAME_<output>.txt, .bin or .npy, one image each."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from zoofast import _logits
from zoofast.errors import ResultError
from zoofast.scoring.topk import TopK

KINDS = {"txt": _logits.TXT, "bin": _logits.BIN, "npy": _logits.NPY}
FIRST, GROWTH = 512, 8  # files that are begun with at once, and how much more each time after
CHUNK = 2048  # files between two looks at Ctrl-C and the progress bar

_RESULT = re.compile(r"(?P<name>[^.]+)_(?P<output>\d+)\.(?P<kind>txt|bin|npy)", re.IGNORECASE)
_DEVICE_FOLDER = re.compile(r"device\d+(_\d+)?")  # one per device in ais_bench's parallel runs


@dataclass(frozen=True)
class ResultFolder:
    """The result files of one output, sorted by sample name, and what else is there."""

    folder: Path
    output_index: int
    names: list[str]
    files: list[str]  # relative to folder
    duplicates: dict[str, list[str]]  # sample -> the files that claim it; in neither list above
    unrecognized_files: list[str]  # files that are no results
    other_outputs: dict[int, int]  # output index -> files of it, left alone
    summaries: list[str] = field(default_factory=list)  # ais_bench's own, left alone


def list_results(
    folder: Path | str,
    output_index: int | None = None,
    kind: str | None = None,
    *,
    paths: Sequence[str] | None = None,
) -> ResultFolder:
    """What a result folder holds; also its folders device0, device1 … of a parallel run.

    output_index: which of a model's outputs; default: the lowest that is there. kind: only txt,
    bin or npy, for a folder with several. paths: what is in the folder, where that is known.
    Raises ResultError when there is no result file.
    """
    folder = Path(folder)
    found: dict[int, dict[str, str]] = {}  # output -> sample -> file
    several: dict[int, dict[str, list[str]]] = {}  # of those with more than one
    summaries, unrecognized_files = [], []
    for path in _file_names(folder) if paths is None else paths:
        base = path[path.rfind("/") + 1 :]
        match = _RESULT.fullmatch(base)
        if match:
            name, output, suffix = match.groups()
            if kind is None or suffix.lower() == kind:
                index = int(output)
                first = found.setdefault(index, {}).setdefault(name, path)
                if first is not path:
                    several.setdefault(index, {}).setdefault(name, [first]).append(path)
        elif base.endswith("summary.json"):
            summaries.append(path)
        else:
            unrecognized_files.append(path)
    if not found:
        what = f".{kind}" if kind else ".txt, .bin or .npy"
        raise ResultError(f"{folder}: holds no result files (NAME_0{what})")
    if output_index is None:
        output_index = min(found)
    if output_index not in found:
        there = ", ".join(map(str, sorted(found)))
        raise ResultError(f"{folder}: has no results of output {output_index}, only of {there}")
    chosen = found.pop(output_index)
    twice = several.get(output_index, {})
    names = sorted(chosen.keys() - twice.keys() if twice else chosen)
    files = [chosen[name] for name in names]
    return ResultFolder(
        folder,
        output_index,
        names,
        files,
        {name: sorted(paths) for name, paths in sorted(twice.items())},
        sorted(unrecognized_files),
        {index: len(names) for index, names in sorted(found.items())},
        sorted(summaries),
    )


def _file_names(folder: Path, prefix: str = "") -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir():
                    yield prefix + entry.name
                elif not prefix and _DEVICE_FOLDER.fullmatch(entry.name):
                    yield from _file_names(folder / entry.name, entry.name + "/")
                else:
                    yield f"{prefix}{entry.name}/"
    except OSError as error:
        raise ResultError(f"{folder}: cannot be listed: {error.strerror}") from error


class Reader:
    """Lists a folder's results and ranks them, on C threads without the GIL. A context manager.

    All but one thread begin to read as soon as the names are known, before `listing` is sorted,
    and go on until `finish`. Parameters as of list_results; k: how many classes; threads >= 1.
    Raises ResultError as list_results does. Broken files do not raise: see `fault`.
    """

    def __init__(
        self,
        folder: Path | str,
        k: int,
        *,
        output_index: int | None = None,
        kind: str | None = None,
        threads: int = 1,
        bin_dtype: DTypeLike = "float32",
    ) -> None:
        folder = Path(folder)
        try:
            self._dir_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ResultError(f"{folder}: cannot be listed: {error.strerror}") from error
        self._begun: list[tuple[list[str], _logits.Reading]] = []
        self._how: dict[str, Any] = {
            "k": k,
            "bin_dtype": bin_dtype,
            "want_confidence": True,
            "threads": threads,
        }
        try:
            # a guess, and nearly always right: what else is needed is read after these
            ends = tuple(
                f"_{output_index or 0}.{known}" for known in KINDS if kind in (None, known)
            )
            names, paths, count = _file_names(folder), [], FIRST
            # the threads read what is listed already while the rest is being listed
            while part := list(itertools.islice(names, count)):
                self._begin([path for path in part if path.endswith(ends)])
                paths += part
                count *= GROWTH
            self.listing = list_results(folder, output_index, kind, paths=paths)
        except BaseException:
            self.close()
            raise

    def _begin(self, files: list[str]) -> None:
        names = list(map(os.fsencode, files))
        self._begun.append(
            (files, _logits.Reading(self._dir_fd, names, _kinds(files), **self._how))
        )

    def finish(
        self, advance: Callable[[int], None] = lambda count: None
    ) -> tuple[NDArray[np.void], TopK]:
        """Reads along until all of `listing` is ranked; advance(count) after every few files.

        Returns, in the order of `listing.files`, each file's _logits.RESULT_DTYPE, and the best
        classes of each file that has a row.
        """
        begun = [file for files, _ in self._begun for file in files]
        position = {file: i for i, file in enumerate(begun)}
        missing = [file for file in self.listing.files if file not in position]
        if missing:
            self._begin(missing)
            position |= {file: len(begun) + i for i, file in enumerate(missing)}
        order = np.array([position[file] for file in self.listing.files], np.intp)
        for files, reading in self._begun:
            taken = 0
            while taken < len(files):
                before, taken = taken, reading.help(CHUNK)
                advance(taken - before)
            reading.end()
        results, classes, values = (
            np.concatenate([getattr(reading, array) for _, reading in self._begun])[order]
            for array in ("results", "classes", "values")
        )
        return results, TopK(
            classes, values, results["confidence"], results["sum"], results["least"]
        )

    def close(self) -> None:
        """Stops reading. Idempotent."""
        for _, reading in self._begun:
            reading.end()
        if self._dir_fd >= 0:
            os.close(self._dir_fd)
        self._dir_fd = -1

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _kinds(files: Sequence[str]) -> NDArray[np.uint8]:
    known = {suffix: KINDS[suffix.lower()] for suffix in {file[-3:] for file in files}}
    return np.array([known[file[-3:]] for file in files], np.uint8)


def fault(result: np.void) -> str | None:
    """Why a file has no row, in words; None when it has one."""
    status, at = int(result["status"]), int(result["at"])
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
        raise ResultError(f"{file}: is no .txt, .bin or .npy")
    result, row = _logits.read_file(
        _logits.CWD, os.fsencode(file), KINDS[kind], bin_dtype=bin_dtype
    )
    wrong = fault(result)
    if wrong:
        raise ResultError(f"{file}: {wrong}")
    return row
