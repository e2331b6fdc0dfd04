"""What an evaluation has found out so far, batch by batch, so that a killed one can go on.

The first line is JSON about the run; every further line is one batch: sample names and what
scoring needs of their answers. A line counts when it is whole.
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
    """An open journal. kept: the batches that it held when it was opened, in its order.

    about: what a run must have in common with the one that it continues.
    """

    def __init__(self, path: str | os.PathLike[str], about: Mapping[str, Any], resume: bool):
        """Begins a journal at `path`, or with `resume` continues the one there, if there is one.

        Raises OutputError: not writable, damaged, of another run, or there and not to be resumed.
        """
        self.path = Path(path)
        self.kept: list[tuple[list[str], TopK]] = []
        try:
            there = self.path.exists() and self.path.stat().st_size > 0
            if there and not resume:
                raise OutputError(
                    f"{path}: is the journal of an evaluation that did not end; continue it with "
                    "--resume, or begin anew with --overwrite"
                )
            there = there and self._read(about)
            self._file: BinaryIO = self.path.open("ab", buffering=0)
            if not there:
                self._write(dict(about))
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}") from error

    def _read(self, about: Mapping[str, Any]) -> bool:
        """Takes what is whole and cuts off the rest; says whether anything is."""
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # the process was killed while it wrote this
                try:
                    entry = json.loads(line)
                    if number == 1:
                        self._check(entry, about)
                    else:
                        self._take(entry)
                except (ValueError, KeyError, TypeError) as error:
                    raise OutputError(
                        f"{self.path}: line {number} is damaged ({error}); begin anew with "
                        "--overwrite"
                    ) from error
                whole += len(line)
        os.truncate(self.path, whole)
        return whole > 0

    def _check(self, entry: Any, about: Mapping[str, Any]) -> None:
        for key, value in about.items():
            if entry.get(key) != value:
                raise OutputError(
                    f"{self.path}: is of another {key} ({entry.get(key)}, now {value}); resume "
                    "with the same one, or begin anew with --overwrite"
                )

    def _take(self, entry: Any) -> None:
        names = entry["names"]
        columns: dict[str, Any] = {
            name: np.array(entry[name], kind) for name, kind in FIELDS.items()
        }
        ranked = TopK(**columns)
        if any(len(getattr(ranked, name)) != len(names) for name in FIELDS):
            raise ValueError("its lists differ in length")
        self.kept.append((names, ranked))

    def append(self, names: list[str], ranked: TopK) -> None:
        """Records a batch. Raises OutputError."""
        entry: dict[str, Any] = {"names": names}
        entry.update({name: getattr(ranked, name).tolist() for name in FIELDS})
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
        """The evaluation is through: nothing is left to be resumed."""
        self.close()
        self.path.unlink(missing_ok=True)
