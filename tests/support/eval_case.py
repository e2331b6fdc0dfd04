"""An evaluation of 23 small images, and what NumPy says that it must answer."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import folders, models, oracle
from zoofast import load_recipe
from zoofast.evaluation.evaluate import evaluate
from zoofast.evaluation.options import EvalOptions
from zoofast.evaluation.result import Evaluation
from zoofast.inference.backends import open_backend
from zoofast.inference.spec import ModelSpec
from zoofast.preprocess.sources import Source
from zoofast.scoring.tally import TITLE

ZOOFAST = Path(sys.executable).with_name("zoofast")
SPEC = oracle.Spec(size=(5, 5), crop=(4, 4))
COUNT = 23


def label_of(name: str) -> int:
    return sum(name.encode()) % models.CLASSES


def write_labels(path: Path, names: list[str]) -> None:
    path.write_text("".join(f"{name}.JPEG {label_of(name)}\n" for name in names))


def scores_of(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    tensors = np.stack([folders.tensor(data, SPEC) for data in files.values()])
    rows = models.logits(tensors)
    return {Path(name).stem: row for name, row in zip(files, rows, strict=True)}


def result_of(files: dict[str, bytes]) -> str:
    """result.json, by NumPy alone."""
    places = []
    for name, row in scores_of(files).items():
        order = sorted(range(models.CLASSES), key=lambda i: (-row[i], i))
        places.append(order.index(label_of(name)))
    value = [
        {"key": "Number of images", "value": str(len(files))},
        {"key": "Number of classes", "value": str(models.CLASSES)},
    ]
    for k in range(5):
        percent = np.round(np.float64(np.mean([place <= k for place in places])) * 100, 2)
        value.append({"key": f"Top{k + 1} accuracy", "value": f"{float(percent)}%"})
    return json.dumps({"title": TITLE, "value": value})


def recorded(journal: Path) -> list[str]:
    """The names in a journal's whole lines, in its order; [] for a journal that is not there."""
    text = journal.read_text() if journal.exists() else ""
    lines = text.split("\n")[1:-1]  # neither the first, nor one that is not whole
    return [name for line in lines for name in json.loads(line)["names"]]


def words(run: Path, *more: str | Path, images: Path | None = None) -> list[str]:
    where = [run / "m.onnx", images or run / "images", run / "labels.txt"]
    return [str(word) for word in ("eval", *where, "--recipe", run / "recipe.toml", *more)]


def options(run: Path, **more: Any) -> EvalOptions:
    device = more.pop("devices", 1)
    batch = more.pop("batch", 4)
    specs = [ModelSpec(str(run / "m.onnx"), device=i, batch=batch) for i in range(device)]
    return EvalOptions(specs, **more)


def evaluated(run: Path, source: Source, chosen: EvalOptions, **more: Any) -> Evaluation:
    recipe = load_recipe(str(run / "recipe.toml"))
    return evaluate(source, source.items, recipe, None, chosen, **more)


class Wrapped:
    """A model that does `before` each execution; see zoofast.inference.backends.Model."""

    def __init__(
        self, before: Callable[[int], object], concurrency: int = 1, batch: int = 4
    ) -> None:
        self.concurrency = concurrency
        self._model = open_backend(f"{batch}x3x4x4:float32:6", "null")
        self.inputs, self.input = self._model.inputs, self._model.input
        self.outputs = self._model.outputs
        self._before, self._calls = before, itertools.count(1)

    def infer(self, *batch: Any, loop: int = 1) -> Any:
        self._before(next(self._calls))  # executors call at the same time
        return self._model.infer(*batch, loop=loop)

    def times(self) -> Any:
        return self._model.times()

    def __enter__(self) -> Wrapped:
        return self

    def __exit__(self, *error: Any) -> None:
        pass
