"""The journal of an evaluation: the answers so far, from which a stopped run is resumed.

Every line is JSON. The first line describes the run. Each further line holds the image names of one
batch and what scoring needs of their answers. A last line without a newline does not count: the
process was killed while it wrote that line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from zoofast.errors import OutputError
from zoofast.scoring.topk import TopK

FIELDS = {
    "classes": np.int32,
    "values": np.float32,
    "confidence": np.float32,
    "total": np.float32,
    "min_score": np.float32,
}


class Journal:
    """An open journal. resumed: the names and answers of the batches that it held when opened."""

    def __init__(self, path: str | os.PathLike[str], description: Mapping[str, Any], resume: bool):
        """Begins a journal at `path`, or with `resume` continues one that exists.

        description: what a run must have in common with the run that it resumes. Raises
        OutputError: not writable, damaged, of another run, or existing and without `resume`.
        """
        self.path = Path(path)
        self.resumed: list[tuple[list[str], TopK]] = []
        try:
            exists = self.path.exists() and self.path.stat().st_size > 0
            if exists and not resume:
                raise OutputError(
                    f"{path}: is the journal of an evaluation that did not end; continue it with "
                    "--resume, or begin anew with --overwrite"
                )
            has_description = exists and self._read(description)
            self._file: BinaryIO = self.path.open("ab", buffering=0)
            if not has_description:
                self._write(dict(description))
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}") from error

    def _read(self, description: Mapping[str, Any]) -> bool:
        """Reads the complete lines and cuts off the rest. False: there was no complete line."""
        complete = 0  # bytes
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    entry = json.loads(line)
                    if number == 1:
                        self._check(entry, description)
                    else:
                        self._add(entry)
                except (ValueError, KeyError, TypeError) as error:
                    raise OutputError(
                        f"{self.path}: line {number} is damaged ({error}); begin anew with "
                        "--overwrite"
                    ) from error
                complete += len(line)
        os.truncate(self.path, complete)
        return complete > 0

    def _check(self, entry: Any, description: Mapping[str, Any]) -> None:
        for key, value in description.items():
            if entry.get(key) != value:
                raise OutputError(
                    f"{self.path}: is of another {key} ({entry.get(key)}, now {value}); resume "
                    "with the same one, or begin anew with --overwrite"
                )

    def _add(self, entry: Any) -> None:
        names = entry["names"]
        columns: dict[str, Any] = {
            name: np.array(entry[name], kind) for name, kind in FIELDS.items()
        }
        top_k = TopK(**columns)
        if any(len(getattr(top_k, name)) != len(names) for name in FIELDS):
            raise ValueError("its lists differ in length")
        self.resumed.append((names, top_k))

    def append(self, names: list[str], top_k: TopK) -> None:
        """Records a batch. Raises OutputError."""
        entry: dict[str, Any] = {"names": names}
        entry.update({name: getattr(top_k, name).tolist() for name in FIELDS})
        try:
            self._write(entry)
        except OSError as error:
            raise OutputError(f"{self.path}: {error.strerror}") from error

    def _write(self, entry: dict[str, Any]) -> None:
        line = memoryview(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        while line:
            line = line[self._file.write(line) :]

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """Closes and deletes the journal of an evaluation that is complete."""
        self.close()
        self.path.unlink(missing_ok=True)
