"""Recipes of a user's own transform: package.module:function.

The module is the user's own code, and is run.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from zoofast.base.torchvision_operators import define_missing_operators
from zoofast.errors import RecipeError
from zoofast.preprocess.importers.imported import (
    FOREIGN_ERRORS,
    Imported,
    Transform,
    as_array,
    reason,
)
from zoofast.preprocess.importers.transforms import from_transforms


def load(name: str) -> Imported:
    """The recipe of the transform at `package.module:name`, or that the function there returns."""
    value = _value_at(name)
    try:
        transform = value() if inspect.isroutine(value) or inspect.isclass(value) else value
    except FOREIGN_ERRORS as error:
        raise _error(name, error) from error
    return from_transforms(transform, name=name, origin=f"the transform of {name}")


def transform_at(name: str) -> Transform:
    """The transform at `package.module:name`: takes a PIL image and returns (3, H, W).

    A function that takes no arguments returns the transform. Raises RecipeError; the transform
    raises what the user's code raises.
    """
    value = _value_at(name)
    try:
        if inspect.isclass(value) or (inspect.isroutine(value) and not _parameters(value)):
            value = value()
    except FOREIGN_ERRORS as error:
        raise _error(name, error) from error
    if not callable(value):
        raise RecipeError(f"{name}: a {type(value).__name__} is not a transform")
    return lambda image: as_array(value(image))


def _value_at(name: str) -> Any:
    """What the module has under the name: the user's own code, which is run."""
    module_name, _, attribute = name.partition(":")
    # A console script's sys.path begins with the script's folder, not the working directory.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        if importlib.util.find_spec("torch") is not None:
            define_missing_operators()
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _error(name, error) from error  # the module is there, and imports another one
        raise RecipeError(
            f"{name}: no module {error.name} in this folder, $PYTHONPATH or the installed packages"
        ) from error
    except FOREIGN_ERRORS as error:
        raise _error(name, error) from error


def _parameters(value: Any) -> int:
    """How many arguments a function needs."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(value).parameters.values()
    return sum(p.default is p.empty and p.kind not in variable for p in parameters)


def _error(name: str, error: BaseException) -> RecipeError:
    return RecipeError(f"{name}: {reason(error)}")
