"""Logits by sample name: of a folder of result files, or of a file of `zoofast eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zoofast import _logits
from zoofast.base.rows import names_path, read_named_rows
from zoofast.errors import ResultError
from zoofast.scoring.bins import list_bins, name_images, read_bin
from zoofast.scoring.formats import find_record, result_format
from zoofast.scoring.listing import list_results
from zoofast.scoring.results import DEFAULT_READING, ReadOptions, read_failure, read_logits


class LogitSource(Protocol):
    """Logits by sample name."""

    @property
    def source(self) -> str:
        """The file or folder."""

    @property
    def names(self) -> Sequence[str]:
        """The samples that have one result."""

    @property
    def duplicates(self) -> Mapping[str, list[str]]:
        """Sample -> its several result files."""

    def row(self, name: str) -> NDArray[np.float32]:
        """(classes,). Raises ResultError naming the file."""


class FolderLogits:
    """Result files, as `zoofast score` reads them. labelled: the names that have a label, as in
    name_images."""

    def __init__(
        self,
        folder: Path,
        reading: ReadOptions = DEFAULT_READING,
        labelled: Mapping[str, int] | None = None,
    ) -> None:
        record = find_record(folder)
        # (images, classes) of a file of several images; None: each file has one.
        self._shape: tuple[int, int] | None = None
        if record is not None and record.images and record.images_per_file > 1:
            _, listing, self._bin_dtype, classes = list_bins(folder, record, reading)
            self._shape = record.images_per_file, classes
            self._values: int | None = record.images_per_file * classes  # of a file
        else:
            listing = list_results(folder, reading.output_index, reading.kind)
            self._bin_dtype, self._values = result_format(listing, reading.bin_dtype, record)
            if record is not None and record.images:
                listing = name_images(listing, record, labelled or {})
        self.source, self.duplicates = str(folder), listing.duplicates
        images = self._shape[0] if self._shape else 1
        self._rows = {  # sample -> its file, and its row of that
            name: (folder / file, i % images)
            for i, (name, file) in enumerate(zip(listing.names, listing.files, strict=True))
            if name  # no filling, no mirrored copy
        }
        self.names = list(self._rows)
        self._last: tuple[Path, NDArray[np.float32]] | None = None  # file of several images

    def row(self, name: str) -> NDArray[np.float32]:
        file, i = self._rows[name]
        row: NDArray[np.float32]
        if self._shape is None:
            row = read_logits(file, bin_dtype=self._bin_dtype)
            if self._values not in (None, len(row)):
                raise self._wrong_length(file, len(row))
            return row
        if self._last is None or self._last[0] != file:
            self._last = file, self._read_several(file, self._shape)
        row = self._last[1][i]
        return row

    def _read_several(self, file: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
        results = np.zeros(1, _logits.RESULT_DTYPE)
        rows = read_bin(file, self._bin_dtype, shape, results)
        if failure := read_failure(results[0]):
            raise ResultError(f"{file}: {failure}")
        if rows is None:
            raise self._wrong_length(file, int(results["count"][0]))
        return rows

    def _wrong_length(self, file: Path, values: int) -> ResultError:
        return ResultError(f"{file}: has {values} values, by infer's record {self._values}")


class SavedLogits:
    """A file of `zoofast eval --save-logits`."""

    duplicates: Mapping[str, list[str]] = {}

    def __init__(self, path: Path) -> None:
        self.source = str(path)
        self.names, self._rows = read_named_rows(path)
        if self._rows.ndim != 2 or self._rows.dtype.kind != "f" or not self._rows.shape[1]:
            raise ResultError(
                f"{path}: holds {self._rows.dtype}{list(self._rows.shape)}; logits are floats of "
                "shape [images, classes]"
            )
        if len(set(self.names)) != len(self.names):
            raise ResultError(f"{names_path(path)}: names a sample twice")
        self._index = {name: i for i, name in enumerate(self.names)}

    def row(self, name: str) -> NDArray[np.float32]:
        return np.asarray(self._rows[self._index[name]], np.float32)
