"""What an importer returns, and the parts of a recipe file that all importers fill in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoofast.base.files import read_file
from zoofast.base.parsing import parse_json
from zoofast.base.provenance import sha256
from zoofast.base.text import first_line
from zoofast.errors import RecipeError
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import recipe_from_values

PILLOW_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by their numbers
# What code that is not zoofast's may raise; sys.exit in it must not end a run as if all were done.
FOREIGN_ERRORS = (Exception, SystemExit)
MAX_CONFIG_BYTES = 10_000_000  # a config.json with the names of 21,000 classes has 1 MB

# One RGB image to the network's input: float32 or uint8 (3, H, W).
Transform = Callable[[Image.Image], NDArray[Any]]
IMAGENET_CLASSES = 1000  # where a source does not say how many classes its model has


@dataclass(frozen=True)
class Imported:
    """A recipe and where it comes from.

    origin: the source in words, for messages. packages: whose versions determine what the library's
    transform computes. make_transform: imports the library and returns its own transform; may raise
    anything. note: what a user should know of the import; may be empty. configuration: identifies
    all that the library makes its transform from; None where that is the user's code.
    """

    recipe: Recipe
    origin: str
    packages: tuple[str, ...]
    make_transform: Callable[[], Transform]
    note: str = ""
    configuration: str | None = None

    def transform(self) -> Transform:
        """The library's own transform; it raises what the library raises of an image.

        Raises RecipeError where the library is not installed, or refuses the configuration.
        """
        try:
            return self.make_transform()
        except RecipeError:
            raise
        except FOREIGN_ERRORS as error:
            raise RecipeError(
                f"recipe {self.recipe.name}: {self.origin} cannot be made: {reason(error)}"
            ) from error

    @property
    def provable_recipe(self) -> Recipe:
        """The recipe, which remembers what it is to be compared with when it is used first."""
        return replace(self.recipe, imported=self)


def recipe_of(
    name: str,
    summary: str,
    steps: dict[str, Any],
    classes: int = IMAGENET_CLASSES,
    where: str | None = None,
    **model: Any,
) -> Recipe:
    """The recipe with the tables `steps`: resize, crop, tensor, normalize, as in a recipe file.

    where: the file or model that messages name, by default `name`. model: further keys of the table
    [model]. Raises RecipeError that names the key.
    """
    tensor = {"dtype": "float32", "layout": "NCHW", **steps.pop("tensor", {})}
    known = {key: value for key, value in model.items() if value is not None}
    values = {
        "name": name,
        "summary": summary,
        **steps,
        "tensor": tensor,
        "model": {"input": "image", "output": "class", "classes": classes, **known},
    }
    return recipe_from_values(values, where or name)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, in UTF-8 without a byte order mark, as the libraries read it.

    Raises RecipeError that names the file.
    """
    try:
        content = parse_json(read_file(path, MAX_CONFIG_BYTES).decode("utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise RecipeError(f"{path}: not JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: not a JSON object")
    return content


def digest_of(config: Mapping[str, Any], where: str) -> str:
    """Identifies the values of a configuration; `where` names it in error messages."""
    try:
        return sha256(json.dumps(config, sort_keys=True, default=str).encode())
    except RecursionError:
        raise RecipeError(f"{where}: its values are nested too deeply") from None


def reason(error: BaseException) -> str:
    """What other code raised, in one line: the type and the message."""
    return f"{type(error).__name__}: {first_line(error)}"


def folder_name(path: Path) -> str:
    """The name of a model whose file says none: that of the file's folder."""
    return path.absolute().parent.name or path.stem


def as_array(output: Any) -> NDArray[Any]:
    """What a transform returned, a torch.Tensor or an array, as an array."""
    return np.asarray(output.numpy() if hasattr(output, "numpy") else output)
