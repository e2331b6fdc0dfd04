"""The journal of an evaluation: the answers so far, from which a stopped run is resumed.

Every line is a JSON object. The first line describes the run. Each further line holds the names of
images that were recorded together, maybe those of several batches of the model, and what scoring
needs of their answers; or it begins with END: the run has ended, and its outputs are written. A
last line without a newline does not count: the process was killed while it wrote that line. The
lines are in the order of the answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from zoofast.base.files import write_errors
from zoofast.base.lock import InUseError, output_lock
from zoofast.base.parsing import parse_json
from zoofast.errors import OutputError
from zoofast.scoring.topk import TopK

FIELDS = {
    "classes": np.int32,
    "values": np.float32,
    "confidence": np.float32,
    "total": np.float32,
    "min_score": np.float32,
}
DESCRIBED = {"model", "backend", "recipe"}  # what every journal's first line says, and more
START = b'{"model":'  # of a first line
END = {"ended": True}
SUFFIX = ".journal"  # behind the name of a result, unless the user names the journal
MAX_LINE_BYTES = 64 << 20  # a batch of 65,536 images has some 10 MB


# Takes the names and answers of a batch. A ValueError says that the line is damaged.
Take = Callable[[list[str], TopK], None]


def is_journal(path: Path) -> bool:
    """Whether `path` begins as a journal does; also where it is empty or missing. Raises OSError.

    Only the first line tells: the journal of a run that was killed may be damaged behind it.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(MAX_LINE_BYTES)
    except FileNotFoundError:
        return True
    if not line.endswith(b"\n"):  # cut off while it was written
        return line[: len(START)] == START[: len(line)]
    try:
        entry = parse_json(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and entry.keys() >= DESCRIBED


class JournalContent:
    """What the complete lines of a journal hold, besides the batches.

    description: the first line. batches: how many there are. end: the last line, if it says that
    the run has ended, else None. nbytes: of the complete lines.
    """

    def __init__(
        self, path: Path, take: Take | None, expected: Mapping[str, Any] | None = None
    ) -> None:
        """Reads the journal `path`, if there is one. take: called for each batch.

        expected: what the description must hold if there is a batch; None: anything. Raises
        OutputError for a journal that is damaged or of another run; OSError; what `take` raises.
        """
        self.path, self._take, self._expected = path, take, expected
        self.description: dict[str, Any] = {}
        self.batches = 0
        self.end: dict[str, Any] | None = None
        self.nbytes = 0
        self._k = 0  # classes of each image
        try:
            with path.open("rb") as file:
                number = 0
                while (line := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
                    number += 1
                    self._read_line(line, number)
                    self.nbytes += len(line)
                if len(line) == MAX_LINE_BYTES:
                    raise self._damaged(number + 1, "it is too long")
        except FileNotFoundError:
            pass

    def _read_line(self, line: bytes, number: int) -> None:
        try:
            batch = self._parse(line, number)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise self._damaged(number, str(error)) from error
        if batch is None:
            return
        if self._take is not None:
            try:
                self._take(*batch)
            except ValueError as error:
                raise self._damaged(number, str(error)) from error
        self.batches += 1

    def _parse(self, line: bytes, number: int) -> tuple[list[str], TopK] | None:
        """The batch of a line; None for a line that has none."""
        entry = parse_json(line)
        if not isinstance(entry, dict):
            raise ValueError("it is no object")
        if number == 1:
            # Of another run: an error only if there is a batch, which would be lost.
            self.description = entry
        elif entry.get("ended") is True:
            self.end = entry
        else:
            self._check_description()
            self.end = None
            return self._batch(entry)
        return None

    def _damaged(self, number: int, reason: str) -> OutputError:
        return OutputError(
            f"{self.path}: line {number} is damaged ({reason}); begin anew with --overwrite"
        )

    def _check_description(self) -> None:
        for key, value in (self._expected or {}).items():
            if self.description.get(key) != value:
                recorded = str(self.description.get(key))[:80]
                raise OutputError(
                    f"{self.path}: is of another {key} ({recorded}, now {value}); resume "
                    "with the same one, or begin anew with --overwrite"
                )

    def _batch(self, entry: dict[str, Any]) -> tuple[list[str], TopK]:
        names = entry["names"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its names are no list of texts")
        if len(set(names)) < len(names):
            raise ValueError("a name stands in it twice")
        columns: dict[str, Any] = {
            name: np.array(entry[name], kind) for name, kind in FIELDS.items()
        }
        k = columns["classes"].shape[-1] if columns["classes"].ndim == 2 else 0
        if k < 1 or (self.batches and k != self._k):
            raise ValueError("its classes are no table of the right width")
        for name, column in columns.items():
            width = (k,) if name in ("classes", "values") else ()
            if column.shape != (len(names), *width):
                raise ValueError(f"its names and its {name} differ in length")
        self._k = k
        return names, TopK(**columns)


def check_new(names: Sequence[str], are_known: Sequence[bool]) -> None:
    """For `take`. Raises ValueError if one of the names is known from an earlier batch."""
    if any(are_known):
        raise ValueError(f"{next(compress(names, are_known))} stands in it twice")


class Journal:
    """An open journal.

    The file is made with the first batch, or by `finish`: a run that is stopped before leaves no
    journal.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        description: Mapping[str, Any],
        take: Take | None,
        overwrite: bool = False,
    ) -> None:
        """Begins a journal at `path`, or continues one that exists: `take` gets its batches.

        Hold the lock of `path`. overwrite: `begin` removes the journal, which may be damaged.

        description: what a run must have in common with the run that it resumes. A journal without
        a batch is begun anew, and without `take` also the journal of a run that has ended. Raises
        OutputError: no journal, not writable, damaged, of another run, or, without `take`, of a
        run that has not ended; and what `take` raises.
        """
        self.path = Path(path)
        self._description = dict(description)
        self._file: BinaryIO | None = None
        self._complete_bytes = 0
        self._overwrite = overwrite
        with write_errors(self.path):
            if not is_journal(self.path):
                raise OutputError(
                    f"{path}: is no journal of zoofast eval, and stays as it is; name another file "
                    "with --journal"
                )
        if overwrite:
            return
        with write_errors(self.path):
            expected = None if take is None else self._description
            content = JournalContent(self.path, take, expected)
        if take is None and content.batches and content.end is None:
            raise OutputError(
                f"{path}: is the journal of an evaluation that did not end; continue it with "
                "--resume, or begin anew with --overwrite"
            )
        if take is None or not content.batches:
            return
        self._complete_bytes = content.nbytes
        if self.path.stat().st_size > self._complete_bytes:  # an incomplete line
            with write_errors(self.path):
                os.truncate(self.path, self._complete_bytes)

    def begin(self) -> None:
        """Call this when the model is loaded: a failed start must not lose an earlier journal.

        Raises OutputError.
        """
        if self._overwrite:
            with write_errors(self.path):
                self.path.unlink(missing_ok=True)

    def append(self, names: list[str], top_k: TopK) -> None:
        """Records a batch. Raises OutputError."""
        entry: dict[str, Any] = {"names": names}
        entry.update({name: getattr(top_k, name).tolist() for name in FIELDS})
        self._write(entry)

    def finish(self) -> None:
        """Call this when all images were tried: a journal without a batch says what was run, too.
        Raises OutputError."""
        with write_errors(self.path):
            self._opened()

    def _opened(self) -> BinaryIO:
        """The file, which begins with the description."""
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
            self._file.truncate(self._complete_bytes)
            if not self._complete_bytes:
                self._write(self._description)
        return self._file

    def _write(self, entry: dict[str, Any]) -> None:
        with write_errors(self.path):
            file = self._opened()
            line = memoryview(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            while line:
                line = line[file.write(line) :]

    def close(self) -> None:
        """Closes the file. Raises OutputError."""
        file, self._file = self._file, None
        if file is not None:
            with write_errors(self.path):
                file.close()


def end_journal(path: Path, keep: bool, record: Mapping[str, Any] | None = None) -> None:
    """Call this when all outputs of an evaluation are written: removes its journal.

    keep: the journal stays, marked as ended, so that --resume tries the failed images again, or
    so that the shards of an evaluation can be merged. record: what the mark says besides. A
    journal that another process has in use by now is that process's own. Raises OutputError.
    """
    with suppress(InUseError), output_lock(path), write_errors(path):
        if not keep:
            path.unlink(missing_ok=True)
        elif path.exists():
            with path.open("ab") as file:
                file.write(json.dumps({**END, **(record or {})}).encode() + b"\n")
