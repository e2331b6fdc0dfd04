"""Recipes of a user's own transform: package.module:function.

The module is the user's own code, and is run.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from zoofast.base.extras import define_missing_operators
from zoofast.base.text import first_line
from zoofast.errors import RecipeError
from zoofast.preprocess.importers.imported import Imported
from zoofast.preprocess.importers.transforms import from_transforms


def load(name: str) -> Imported:
    """The recipe of the transform at `package.module:name`, or that the function there returns."""
    module_name, _, attribute = name.partition(":")
    # A console script's sys.path begins with the script's folder, not the working directory.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        if importlib.util.find_spec("torch") is not None:
            define_missing_operators()
        value: Any = getattr(importlib.import_module(module_name), attribute)
        transform = value() if inspect.isroutine(value) or inspect.isclass(value) else value
    except Exception as error:  # the user's own code may raise anything
        raise RecipeError(f"recipe {name}: {type(error).__name__}: {first_line(error)}") from error
    return from_transforms(transform, name=name, summary="", origin=f"the transform of {name}")
