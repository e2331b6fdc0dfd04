"""Rows of a pack as inputs of a model: `zoofast prep --format pack` writes NAME.npy and
NAME.names.txt, see zoofast.base.rows.

The row of the image IMAGE is the input `NAME.npy/IMAGE`, as if the pack were a folder. Since a file
is no folder, no other input has such a path.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from zoofast.base.names import name_problem, stem
from zoofast.base.rows import names_path, read_named_rows
from zoofast.errors import SourceError


def is_pack(path: str) -> bool:
    return path.endswith(".npy") and os.path.isfile(path) and names_path(Path(path)).is_file()


def list_rows(pack: str) -> list[str]:
    """The inputs of a pack, in its order. Raises ResultError for a damaged pack, SourceError for
    names that two images share or that no image can have."""
    names, _ = read_named_rows(Path(pack))
    seen = set()
    for name in names:
        if name in seen:
            raise SourceError(f"{names_path(Path(pack))}: names {name} twice")
        if name_problem(name) is not None or stem(name) != name:
            raise SourceError(f"{names_path(Path(pack))}: {name[:60]!r} is no image's name")
        seen.add(name)
    return [f"{pack}/{name}" for name in names]


class PackReader:
    """Finds the rows of packs, each of which is opened once."""

    def __init__(self) -> None:
        self._packs: dict[str, tuple[dict[str, int], NDArray[Any]]] = {}

    def row(self, file: str) -> NDArray[Any] | None:
        """The row of the input `file`, mapped read-only; None if it is no row of a pack.

        Raises OSError for a pack that has changed since it was listed; ResultError as it is read.
        """
        pack, _, name = file.rpartition("/")
        if pack not in self._packs:
            if not is_pack(pack):
                return None
            names, rows = read_named_rows(Path(pack))
            self._packs[pack] = ({name: i for i, name in enumerate(names)}, rows)
        positions, rows = self._packs[pack]
        if name not in positions:
            raise OSError(f"{pack} has no row {name}: it was replaced")
        row: NDArray[Any] = rows[positions[name]]
        return row
