"""zoofast: evaluate image classifiers on NPUs without the host being the bottleneck.

The library behind the commands. `__all__` names what is public; docs/api.md has an example of each.

    from zoofast import Loader, load_recipe, open_source, prepare

    recipe = load_recipe("alexnet")
    tensor = prepare("cat.jpeg", recipe)                    # (3, 224, 224) float32
    with open_source("val") as source, Loader(source, recipe, batch_size=8) as loader:
        for batch in loader:
            run(batch.names, batch.array)                   # batch.failures has the others
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoofast.errors import (
    BackendError,
    CpuLevelError,
    ImageError,
    LabelError,
    ModelError,
    OutputError,
    RecipeError,
    ResultError,
    SourceError,
    ZoofastError,
)

if TYPE_CHECKING:
    from zoofast.evaluation.evaluate import evaluate
    from zoofast.evaluation.options import EvalOptions
    from zoofast.evaluation.result import Evaluation
    from zoofast.inference.spec import ModelSpec
    from zoofast.preprocess.cache import PixelCache
    from zoofast.preprocess.folder import PrepOptions, PrepReport, prepare_folder
    from zoofast.preprocess.loader import Failure, Loader, Prepared
    from zoofast.preprocess.prepare import prepare
    from zoofast.preprocess.recipe import Recipe
    from zoofast.preprocess.recipe_file import load_recipe
    from zoofast.preprocess.sources import Item, Source, open_source
    from zoofast.scoring.labels import Labels, load_labels
    from zoofast.scoring.results import ReadOptions
    from zoofast.scoring.score import Score, ScoreOptions, score_folder

    __version__: str

# Where each name is defined. It is imported when it is first used: NumPy and Pillow take longer
# than `zoofast --help` may.
_HOMES = {
    "EvalOptions": ("zoofast.evaluation.options", "EvalOptions"),
    "Evaluation": ("zoofast.evaluation.result", "Evaluation"),
    "Failure": ("zoofast.preprocess.loader", "Failure"),
    "Item": ("zoofast.preprocess.sources", "Item"),
    "Labels": ("zoofast.scoring.labels", "Labels"),
    "Loader": ("zoofast.preprocess.loader", "Loader"),
    "ModelSpec": ("zoofast.inference.spec", "ModelSpec"),
    "PixelCache": ("zoofast.preprocess.cache", "PixelCache"),
    "PrepOptions": ("zoofast.preprocess.folder", "PrepOptions"),
    "PrepReport": ("zoofast.preprocess.folder", "PrepReport"),
    "Prepared": ("zoofast.preprocess.loader", "Prepared"),
    "ReadOptions": ("zoofast.scoring.results", "ReadOptions"),
    "Recipe": ("zoofast.preprocess.recipe", "Recipe"),
    "Score": ("zoofast.scoring.score", "Score"),
    "ScoreOptions": ("zoofast.scoring.score", "ScoreOptions"),
    "Source": ("zoofast.preprocess.sources", "Source"),
    "evaluate": ("zoofast.evaluation.evaluate", "evaluate"),
    "load_labels": ("zoofast.scoring.labels", "load_labels"),
    "load_recipe": ("zoofast.preprocess.recipe_file", "load_recipe"),
    "open_source": ("zoofast.preprocess.sources", "open_source"),
    "prepare": ("zoofast.preprocess.prepare", "prepare"),
    "prepare_folder": ("zoofast.preprocess.folder", "prepare_folder"),
    "score_folder": ("zoofast.scoring.score", "score_folder"),
}

__all__ = [
    "BackendError",
    "CpuLevelError",
    "EvalOptions",
    "Evaluation",
    "Failure",
    "ImageError",
    "Item",
    "LabelError",
    "Labels",
    "Loader",
    "ModelError",
    "ModelSpec",
    "OutputError",
    "PixelCache",
    "PrepOptions",
    "PrepReport",
    "Prepared",
    "ReadOptions",
    "Recipe",
    "RecipeError",
    "ResultError",
    "Score",
    "ScoreOptions",
    "Source",
    "SourceError",
    "ZoofastError",
    "__version__",
    "evaluate",
    "load_labels",
    "load_recipe",
    "open_source",
    "prepare",
    "prepare_folder",
    "score_folder",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("zoofast")
    if name not in _HOMES:
        raise AttributeError(f"module 'zoofast' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
