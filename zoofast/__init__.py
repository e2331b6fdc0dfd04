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
    from zoofast.loader import Failure, Loader, Prepared, prepare
    from zoofast.prep import Options, Report, prepare_folder
    from zoofast.recipe import Recipe
    from zoofast.recipe import load as load_recipe
    from zoofast.sources import open_source

# Imported when first used: NumPy and Pillow take longer than `zoofast --help` may.
_HOMES = {
    "Failure": ("zoofast.loader", "Failure"),
    "Loader": ("zoofast.loader", "Loader"),
    "Options": ("zoofast.prep", "Options"),
    "Prepared": ("zoofast.loader", "Prepared"),
    "Recipe": ("zoofast.recipe", "Recipe"),
    "Report": ("zoofast.prep", "Report"),
    "load_recipe": ("zoofast.recipe", "load"),
    "open_source": ("zoofast.sources", "open_source"),
    "prepare": ("zoofast.loader", "prepare"),
    "prepare_folder": ("zoofast.prep", "prepare_folder"),
}

__all__ = [
    "Failure",
    "Loader",
    "Options",
    "Prepared",
    "Recipe",
    "Report",
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
