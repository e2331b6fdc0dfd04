"""Compares an imported recipe with its library when it is used first, and keeps what was equal."""

from __future__ import annotations

import importlib.metadata
import json
import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from zoofast.base.files import write_atomic
from zoofast.base.provenance import sha256, versions
from zoofast.errors import RecipeError, ZoofastError
from zoofast.preprocess.importers.check import FIRST_IMAGES, Checked, check
from zoofast.preprocess.importers.imported import Imported, Transform
from zoofast.preprocess.sources import Item, Source

MAX_NAMED = 3  # images in the error message
# By this process: the texts that files remember, and the imports of the user's code.
_proven: set[str] = set()
_proven_code: weakref.WeakSet[Callable[[], Transform]] = weakref.WeakSet()


def check_first_use(
    imported: Imported, source: Source, items: Sequence[Item], cache: Path | None = None
) -> Checked | None:
    """Compares the recipe with the library's own transform on the first images of `source`.

    The comparison is made once for a recipe, the configuration that it was read from, and the
    versions that determine pixels: this process, and a file in the folder `cache` (default: see
    `cache_folder`), remember that all images were equal. Of the user's code, whose behaviour no
    text says, only the import itself is remembered. Returns None where the comparison was made
    before, or a package of the library is not installed.

    Raises RecipeError that names the images that differ.
    """
    installed = _versions(imported.packages)
    if installed is None:
        return None
    if imported.configuration is None:
        if imported.make_transform in _proven_code:
            return None
        checked = _compare(imported, source, items)
        if checked.images:
            _proven_code.add(imported.make_transform)
        return checked
    proven = {
        "recipe": imported.recipe.digest,
        "configuration": imported.configuration,
        "library": installed,
        "versions": versions(),
    }
    text = json.dumps(proven, sort_keys=True)
    if text in _proven:
        return None
    memory = (cache or cache_folder()) / f"{sha256(text.encode())[:32]}.json"
    with suppress(OSError, ValueError):
        if memory.read_text(encoding="utf-8") == text:
            _proven.add(text)
            return None
    checked = _compare(imported, source, items)
    if checked.images:
        _proven.add(text)
        # Without the file, the next run compares again: no reason to fail.
        with suppress(OSError, ZoofastError):
            _remember(memory, text)
    return checked


def _compare(imported: Imported, source: Source, items: Sequence[Item]) -> Checked:
    """Raises RecipeError that names the images that differ."""
    checked = check(imported.recipe, imported.transform(), source, items, FIRST_IMAGES)
    if checked.differing:
        named = "; ".join(f"{name}: {what}" for name, what in checked.differing[:MAX_NAMED])
        raise RecipeError(
            f"recipe {imported.recipe.name}: {len(checked.differing)} of {checked.images} images "
            f"differ from {imported.origin}: {named}"
        )
    return checked


def cache_folder() -> Path:
    """The folder of what was proven, in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path(
        os.environ.get("HOME", "/nonexistent"), ".cache"
    )
    return Path(base) / "zoofast" / "recipes"


def is_installed(packages: Sequence[str]) -> bool:
    """Whether all `packages` are installed; none is imported."""
    return _versions(packages) is not None


def _versions(packages: Sequence[str]) -> dict[str, str] | None:
    """The version of each package; None where one is not installed."""
    try:
        return {package: importlib.metadata.version(package) for package in packages}
    except importlib.metadata.PackageNotFoundError:
        return None


def _remember(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
