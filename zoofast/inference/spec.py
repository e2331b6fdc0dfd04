"""Which model runs on which device, and whether the model takes what a recipe makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from zoofast.base.checks import check_least
from zoofast.base.cpus import usable_cpus
from zoofast.errors import BackendError
from zoofast.inference.backends import (
    CAN_HANG,
    KEEP_GIL,
    Model,
    TensorInfo,
    backend_of,
    open_backend,
)
from zoofast.inference.dynamic import Dynamic
from zoofast.inference.remote import RemoteModel
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe, recipe_names

# The batch size for models that take any. The activations of a larger batch no longer fit into
# the CPU's caches.
DEFAULT_BATCH = 4
DEVICE_TIMEOUT = 600.0  # seconds for a batch
MAX_CONCURRENCY = 16  # each concurrent batch takes memory for its activations


@dataclass(frozen=True)
class ModelSpec:
    """A model on one device.

    model: a path, or the text that the backends null and sim take. backend: None chooses it by the
    path's suffix. device: its number. batch: images in a batch; None for the model's own size, or
    `default_batch` where the model takes any. provider: ONNX Runtime's execution provider, None for
    the CPU's. title: of the model, for people, instead of `model`. dynamic: the shapes of a dynamic
    .om. cpus: that a model on this host's CPU may use, None for all usable.

    Raises ValueError for a batch size or a number of CPUs below 1.
    """

    model: str
    backend: str | None = None
    device: int = 0
    batch: int | None = None
    default_batch: int = 1
    provider: str | None = None
    title: str = ""
    dynamic: Dynamic | None = None
    cpus: int | None = None

    def __post_init__(self) -> None:
        check_least(1, batch=self.batch, default_batch=self.default_batch, cpus=self.cpus)

    @property
    def own_process(self) -> bool:
        """Whether the model runs in a process of its own."""
        return backend_of(self.model, self.backend) in KEEP_GIL

    @property
    def can_hang(self) -> bool:
        """Whether the model's device may never answer."""
        return backend_of(self.model, self.backend) in CAN_HANG

    def open(self) -> Model | RemoteModel:
        """Loads the model. Raises BackendError."""
        options: dict[str, Any] = {
            "backend": self.backend,
            "device": self.device,
            "batch": self.batch,
            "default_batch": self.default_batch,
            "provider": self.provider,
            "dynamic": self.dynamic,
        }
        if self.own_process:
            return RemoteModel(self.model, **options)
        concurrency = min(self.cpus or usable_cpus(), MAX_CONCURRENCY)
        return open_backend(self.model, concurrency=concurrency, **options)


def check_recipe(info: TensorInfo, recipe: Recipe) -> None:
    """Raises BackendError unless the recipe's tensors have the shape and dtype of the input."""

    def fits(recipe: Recipe) -> bool:
        return (recipe.shape, np.dtype(recipe.dtype)) == (info.shape[1:], info.dtype)

    if not fits(recipe):
        made = TensorInfo(recipe.input_name, (info.shape[0], *recipe.shape), np.dtype(recipe.dtype))
        variants = (name for name in recipe_names() if name.startswith(f"{recipe.name}_"))
        other = next((name for name in variants if fits(load_recipe(name))), None)
        cure = "use the recipe, or the type and layout, that the model was made for"
        if other is not None:
            cure = f"recipe {other} makes that"
        raise BackendError(f"recipe {recipe.name} makes {made}, but the model takes {info}; {cure}")
