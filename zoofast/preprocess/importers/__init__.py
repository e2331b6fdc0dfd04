"""Recipes from where models come from: timm, torchvision, Hugging Face, any `transforms.Compose`.

`load` finds the importer by the form of the name. Each importer turns the source's own description
of the preprocessing into the tables of a recipe file, so that the reader of recipe files checks
every value. What a recipe cannot say exactly is a RecipeError that names the step.
"""

from __future__ import annotations

from pathlib import Path

from zoofast.errors import RecipeError
from zoofast.preprocess.importers.imported import Imported

PREFIXES = ("timm", "torchvision", "hf")
HF_FILES = ("preprocessor_config.json", "processor_config.json")
FORMS = (
    "timm:NAME[.TAG], torchvision:WEIGHTS.TAG, hf:FOLDER, a config.json of timm, a "
    "preprocessor_config.json, or package.module:function that returns a transform"
)


def is_import(name: str) -> bool:
    """Whether `name` has the form of an import: KIND:NAME, package.module:function, or .json."""
    return ":" in name or name.endswith(".json")


def load(name: str, test_size: bool = False) -> Imported:
    """The recipe that `name` describes, and the library's own transform to compare it with.

    test_size: timm's test_input_size and test_crop_pct in place of input_size and crop_pct.

    Raises RecipeError for an unknown name, a missing library, a malformed configuration, and a step
    that no recipe can say.
    """
    kind, colon, rest = name.partition(":")
    if name.endswith(".json") and kind not in PREFIXES:
        kind, rest = "hf" if Path(name).name in HF_FILES else "timm", name
    elif not colon or not rest:
        raise RecipeError(f"recipe {name!r}: not of the form {FORMS}")
    if kind == "timm":
        from zoofast.preprocess.importers import timm

        return timm.load(rest, test_size)
    if test_size:
        raise RecipeError(f"recipe {name}: only models of timm have a test size")
    if kind == "torchvision":
        from zoofast.preprocess.importers import torchvision

        return torchvision.load(rest)
    if kind == "hf":
        from zoofast.preprocess.importers import huggingface

        return huggingface.load(rest)
    from zoofast.preprocess.importers import function

    return function.load(name)
