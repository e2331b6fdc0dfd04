"""The files of a result folder, as ais_bench names them: NAME_<output>.txt, .bin or .npy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoofast.errors import ResultError

_RESULT = re.compile(
    r"(?P<name>[^.]+)_(?P<output>[0-9]+)\.(?P<kind>txt|bin|npy)", re.IGNORECASE | re.ASCII
)
DEVICE_FOLDER = re.compile(r"device[0-9]+(_[0-9]+)?")  # one per device in ais_bench's parallel runs


@dataclass(frozen=True)
class ResultFolder:
    """The result files of one output, sorted by sample name, and the other files of a folder."""

    folder: Path
    output_index: int
    names: list[str]
    files: list[str]  # relative to folder
    duplicates: dict[str, list[str]]  # sample -> its several files; in neither list above
    unrecognized_files: list[str]  # files that are no results
    other_outputs: dict[int, int]  # output index -> number of samples


def list_results(
    folder: Path | str,
    output_index: int | None = None,
    kind: str | None = None,
    *,
    paths: Sequence[str] | None = None,
) -> ResultFolder:
    """Lists a result folder, and its folders device0, device1 … of a parallel run.

    output_index, kind: as in ReadOptions. paths: the folder's files, if they are known already.
    Raises ResultError when there is no result file.
    """
    folder = Path(folder)
    by_output: dict[int, dict[str, str]] = {}  # output -> sample -> file
    duplicates: dict[int, dict[str, list[str]]] = {}  # output -> sample -> its several files
    unrecognized = []
    for path in file_names(folder) if paths is None else paths:
        base = path[path.rfind("/") + 1 :]
        match = _RESULT.fullmatch(base)
        if match:
            name, output, suffix = match.groups()
            if kind is None or suffix.lower() == kind:
                index = int(output)
                first = by_output.setdefault(index, {}).setdefault(name, path)
                if first is not path:
                    duplicates.setdefault(index, {}).setdefault(name, [first]).append(path)
        elif not base.endswith("summary.json"):  # ais_bench's own file is none of a sample
            unrecognized.append(path)
    if not by_output:
        suffixes = f".{kind}" if kind else ".txt, .bin or .npy"
        raise ResultError(f"{folder}: holds no result files (NAME_0{suffixes})")
    if output_index is None:
        output_index = min(by_output)
    if output_index not in by_output:
        outputs = ", ".join(map(str, sorted(by_output)))
        raise ResultError(f"{folder}: has no results of output {output_index}, only of {outputs}")
    chosen = by_output.pop(output_index)
    several = duplicates.get(output_index, {})
    names = sorted(chosen.keys() - several.keys() if several else chosen)
    return ResultFolder(
        folder,
        output_index,
        names,
        [chosen[name] for name in names],
        {name: sorted(files) for name, files in sorted(several.items())},
        sorted(unrecognized),
        {index: len(files) for index, files in sorted(by_output.items())},
    )


def is_result(path: str) -> bool:
    """Whether a file is a result, by its name."""
    return _RESULT.fullmatch(path[path.rfind("/") + 1 :]) is not None


def file_names(folder: Path, prefix: str = "") -> Iterator[str]:
    """The files of a folder and of its device folders, relative to it. Folders end in a slash.

    Raises ResultError.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir():
                    yield prefix + entry.name
                elif not prefix and DEVICE_FOLDER.fullmatch(entry.name):
                    yield from file_names(folder / entry.name, entry.name + "/")
                else:
                    yield f"{prefix}{entry.name}/"
    except OSError as error:
        raise ResultError(f"{folder}: cannot be listed: {error.strerror}") from error
