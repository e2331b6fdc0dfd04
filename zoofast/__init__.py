"""zoofast: evaluate image classifiers on NPUs without the host being the bottleneck.

The library behind the commands:

    from zoofast import load_recipe, open_source, prepare, Loader

    recipe = load_recipe("alexnet")
    tensor = prepare("cat.jpeg", recipe)                    # (3, 224, 224) float32
    with open_source("val") as source, Loader(source, recipe, batch_size=8) as loader:
        for batch in loader:
            run(batch.names, batch.array)                   # and look at batch.failures
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoofast.preprocess.folder import PrepOptions, PrepReport, prepare_folder
    from zoofast.preprocess.loader import Failure, Loader, Prepared
    from zoofast.preprocess.prepare import prepare
    from zoofast.preprocess.recipe import Recipe
    from zoofast.preprocess.recipe_file import load_recipe
    from zoofast.preprocess.sources import open_source

# Imported when first used: NumPy and Pillow take longer than `zoofast --help` may.
_HOMES = {
    "Failure": ("zoofast.preprocess.loader", "Failure"),
    "Loader": ("zoofast.preprocess.loader", "Loader"),
    "PrepOptions": ("zoofast.preprocess.folder", "PrepOptions"),
    "Prepared": ("zoofast.preprocess.loader", "Prepared"),
    "Recipe": ("zoofast.preprocess.recipe", "Recipe"),
    "PrepReport": ("zoofast.preprocess.folder", "PrepReport"),
    "load_recipe": ("zoofast.preprocess.recipe_file", "load_recipe"),
    "open_source": ("zoofast.preprocess.sources", "open_source"),
    "prepare": ("zoofast.preprocess.prepare", "prepare"),
    "prepare_folder": ("zoofast.preprocess.folder", "prepare_folder"),
}

__all__ = [
    "Failure",
    "Loader",
    "PrepOptions",
    "PrepReport",
    "Prepared",
    "Recipe",
    "load_recipe",
    "open_source",
    "prepare",
    "prepare_folder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoofast' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
