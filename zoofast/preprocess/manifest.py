"""`zoofast-prep.json`, which says what a folder of tensors holds and how it was made.

A manifest is outside data: whatever it holds is checked before it is used. It names the only files
that `--overwrite` removes: those that `zoofast prep` writes for the images that it lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoofast.base.files import write_pieces
from zoofast.base.json_text import json_pieces, read_json
from zoofast.base.names import name_problem
from zoofast.base.sequences import Strings
from zoofast.errors import OutputError
from zoofast.preprocess.bins import PLAIN, Bin, Packing, bin_problem, mirrored_name
from zoofast.preprocess.sinks import FORMATS

MANIFEST = "zoofast-prep.json"
_TYPES: dict[type[Any], str] = {dict: "an object", list: "a list", str: "a text"}


@dataclass(frozen=True)
class Manifest:
    """What a later run needs to know of an earlier one."""

    state: str
    recipe_name: str
    recipe_digest: str
    format: str  # one of FORMATS
    resize_order: str
    names: Strings  # of the images that the folder is about
    failed: frozenset[str]  # names of images that could not be prepared
    bins: list[Bin] | None  # None where each image has a file that is named after it
    packing: Packing

    @property
    def rows(self) -> dict[str, list[str]] | None:
        """Bin -> the name of the image in each of its rows, "" where the row holds none.

        None where each image has a file that is named after it. Mirrored copies are no image's.
        """
        if self.bins is None:
            return None
        rows = {}
        for bin in self.bins:
            names = ["" if name in self.failed else name for name in bin.images]
            rows[bin.file] = names + [""] * (self.packing.images - len(names))
            if bin.mirrored:
                rows[bin.mirrored] = [""] * self.packing.images
        return rows


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Writes the manifest, whole or not at all. Raises OutputError."""
    write_pieces(folder / MANIFEST, json_pieces(content))


def mark_interrupted(folder: Path) -> None:
    """Says in the manifest of a folder that its tensors are not all there. Raises OutputError.

    It is called before tensors are removed: a kill may come before a new manifest is written.
    """
    content = read_content(folder)
    if content is not None:
        write_manifest(folder, content[1] | {"state": "interrupted"})


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none.

    Raises OutputError for a manifest that cannot be read or that zoofast does not write.
    """
    content = read_content(folder)
    return content and content[0]


def read_content(folder: Path) -> tuple[Manifest, dict[str, Any]] | None:
    """As read_manifest, with all that the manifest says."""
    path = folder / MANIFEST
    try:
        content = read_json(path)
        return _manifest(content), content
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise OutputError(
            f"{path}: not a manifest of this zoofast ({error}); remove the folder or choose another"
        ) from error


def _manifest(content: Any) -> Manifest:
    recipe, options = _get(content, "recipe", dict), _get(content, "options", dict)
    format = _get(options, "format", str)
    if format not in FORMATS:
        raise ValueError(f"'format' is none of {', '.join(FORMATS)}")
    names = _names(content)
    failures = [_get(failure, "name", str) for failure in _get(content, "failures", list)]
    packing, bins = _packing(content, names)
    return Manifest(
        _get(content, "state", str),
        _get(recipe, "name", str),
        _get(recipe, "digest", str),
        format,
        _get(content, "resize_order", str),
        names,
        frozenset(failures),
        bins,
        packing,
    )


def _names(content: Any) -> Strings:
    names = content.get("names")
    if not isinstance(names, Strings) and _get(content, "names", list) == []:
        return Strings()
    if not isinstance(names, Strings) or any(map(name_problem, names)):
        raise ValueError("'names' has one that no image can have")
    return names


def packing_as_dict(packing: Packing, bins: Sequence[Bin]) -> dict[str, Any]:
    """What the manifest says of bins; `read_manifest` takes it back."""
    return {**asdict(packing), "bins": {bin.file: list(bin.images) for bin in bins}}


def _packing(content: Any, names: Iterable[str]) -> tuple[Packing, list[Bin] | None]:
    if content.get("packing") is None:
        return PLAIN, None
    said = _get(content, "packing", dict)
    images, mirror = said.get("images"), said.get("mirror")
    if not isinstance(images, int) or not isinstance(mirror, bool):
        raise ValueError("'packing' has a key of another type")
    try:
        packing = Packing(images, _get(said, "fill", str), _get(said, "names", str), mirror)
    except OutputError as error:
        raise ValueError(str(error)) from error
    known, bins = {*names, ""}, []
    for file, of_bin in _get(said, "bins", dict).items():
        if bin_problem(file) or not isinstance(of_bin, list) or not 0 < len(of_bin) <= images:
            raise ValueError("'bins' has one that zoofast does not write")
        if not all(isinstance(name, str) and name in known for name in of_bin):
            raise ValueError("'bins' has an image that is not in 'names'")
        bins.append(Bin(file, tuple(of_bin), mirrored_name(file) if mirror else ""))
    return packing, bins


def _get(content: Any, key: str, kind: type[Any]) -> Any:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{key!r} is not {_TYPES[kind]}")
    return value
