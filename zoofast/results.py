"""Result files as ais_bench leaves them: NAME_<output>.txt, .bin or .npy, one image each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from zoofast import _logits
from zoofast.errors import ResultError

KINDS = {"txt": _logits.TXT, "bin": _logits.BIN, "npy": _logits.NPY}
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
    kinds: NDArray[np.uint8]
    duplicates: dict[str, list[str]]  # sample -> the files that claim it; in neither list above
    strangers: list[str]  # files that are no results
    other_outputs: dict[int, int]  # output index -> files of it, left alone
    summaries: list[str] = field(default_factory=list)  # ais_bench's own, left alone


def list_results(
    folder: Path | str, output_index: int | None = None, kind: str | None = None
) -> ResultFolder:
    """What a result folder holds; also its folders device0, device1 … of a parallel run.

    output_index: which of a model's outputs; default: the lowest that is there. kind: only txt,
    bin or npy, for a folder with several. Raises ResultError when there is no result file.
    """
    folder = Path(folder)
    found: dict[int, dict[str, str]] = {}  # output -> sample -> file
    several: dict[int, dict[str, list[str]]] = {}  # of those with more than one
    summaries, strangers = [], []
    for path in _file_names(folder):
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
            strangers.append(path)
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
    kind_of = {suffix: KINDS[suffix.lower()] for suffix in {file[-3:] for file in files}}
    return ResultFolder(
        folder,
        output_index,
        names,
        files,
        np.array([kind_of[file[-3:]] for file in files], np.uint8),
        {name: sorted(paths) for name, paths in sorted(twice.items())},
        sorted(strangers),
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


@dataclass(frozen=True)
class Ranking:
    """The best classes of each file of a ResultFolder, in its order."""

    results: NDArray[np.void]  # _logits.RESULT_DTYPE
    classes: NDArray[np.int32]  # (files, k), -1 past a row's end
    values: NDArray[np.float32]  # (files, k)


def rank_results(
    results: ResultFolder,
    k: int,
    *,
    threads: int = 1,
    bin_dtype: DTypeLike = "float32",
    confidence: bool = False,
) -> Iterator[tuple[slice, Ranking]]:
    """Reads the files, CHUNK at a time, on C threads without the GIL; yields which, and ranks.

    Broken files do not raise: see `fault`. Raises ResultError when the folder is gone.
    """
    try:
        dir_fd = os.open(results.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ResultError(f"{results.folder}: cannot be opened: {error.strerror}") from error
    try:
        for begin in range(0, len(results.files), CHUNK):
            part = slice(begin, min(begin + CHUNK, len(results.files)))
            yield (
                part,
                Ranking(
                    *_logits.read_files(
                        dir_fd,
                        [os.fsencode(file) for file in results.files[part]],
                        results.kinds[part],
                        k,
                        bin_dtype=bin_dtype,
                        want_confidence=confidence,
                        threads=threads,
                    )
                ),
            )
    finally:
        os.close(dir_fd)


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
