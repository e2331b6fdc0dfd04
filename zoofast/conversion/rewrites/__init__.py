"""Graph rewrites by name. Each module of this package is one rewrite.

A module has NAME, which `zoofast optimize -k` takes (auto_optimizer's name where it has the same
rewrite), SUMMARY, one line of text, UNUSED, why a graph may have nothing to rewrite, and
`apply(model) -> int`. `apply` changes the model in place,
keeps the results equal, and returns the number of changes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoofast.errors import ModelError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Rewrite:
    """One rewrite; the package's docstring explains the fields."""

    name: str
    summary: str
    unused: str
    apply: Callable[[onnx.ModelProto], int]


def registry() -> dict[str, Rewrite]:
    """All rewrites by name."""
    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    ]
    return {
        module.NAME: Rewrite(module.NAME, module.SUMMARY, module.UNUSED, module.apply)
        for module in modules
    }


def load(name: str) -> Rewrite:
    """The rewrite `name`; ModelError lists the known names."""
    rewrites = registry()
    if name not in rewrites:
        raise ModelError(f"unknown rewrite {name!r}; known are {', '.join(rewrites)}")
    return rewrites[name]
