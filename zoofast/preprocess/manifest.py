"""`zoofast-prep.json`, which says what a folder of tensors holds and how it was made.

A manifest is outside data: whatever it holds is checked before it is used. It names the only files
that `--overwrite` removes: those that `zoofast prep` writes for the images that it lists.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoofast.base.files import read_file, write_atomic
from zoofast.base.names import name_problem
from zoofast.base.parsing import parse_json
from zoofast.errors import OutputError
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
    names: list[str]  # of the images that the folder is about


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Writes the manifest, whole or not at all. Raises OutputError."""
    write_atomic(folder / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none.

    Raises OutputError for a manifest that cannot be read or that zoofast does not write.
    """
    path = folder / MANIFEST
    try:
        return _manifest(parse_json(read_file(path)))
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
    format, names = _get(options, "format", str), _get(content, "names", list)
    if format not in FORMATS:
        raise ValueError(f"'format' is none of {', '.join(FORMATS)}")
    for name in names:
        if not isinstance(name, str) or name_problem(name):
            raise ValueError("'names' has one that no image can have")
    return Manifest(
        _get(content, "state", str),
        _get(recipe, "name", str),
        _get(recipe, "digest", str),
        format,
        _get(content, "resize_order", str),
        names,
    )


def _get(content: Any, key: str, kind: type[Any]) -> Any:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{key!r} is not {_TYPES[kind]}")
    return value
