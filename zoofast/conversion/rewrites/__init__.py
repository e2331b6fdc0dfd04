"""Graph rewrites by name. A module of this package with NAME, SUMMARY and apply is one rewrite.

NAME is what `zoofast optimize -k` takes (auto_optimizer's names where it has the rewrite too),
SUMMARY one line, and `apply(model) -> int` changes the model in place without changing what it
computes, and returns how many times it did so.
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
    """One rewrite; see the package's docstring for the fields."""

    name: str
    summary: str
    apply: Callable[[onnx.ModelProto], int]


def registry() -> dict[str, Rewrite]:
    """All rewrites by name."""
    modules = [
        importlib.import_module(f"{__name__}.{found.name}")
        for found in pkgutil.iter_modules(__path__)
    ]
    return {module.NAME: Rewrite(module.NAME, module.SUMMARY, module.apply) for module in modules}


def load(name: str) -> Rewrite:
    """The rewrite called `name`; ModelError lists the ones there are."""
    rewrites = registry()
    if name not in rewrites:
        raise ModelError(f"unknown rewrite {name!r}; there are {', '.join(rewrites)}")
    return rewrites[name]
