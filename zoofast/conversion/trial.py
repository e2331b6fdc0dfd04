"""Images to compute a network's logits on: the user's, or synthetic ones."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoofast.conversion.aipp import Aipp
from zoofast.errors import ImageError, SourceError
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.prepare import prepare
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import open_source

IMAGES = 8  # by default


def images(recipe: Recipe, source: str | None, count: int = IMAGES) -> NDArray[np.float32]:
    """The network's input for the first `count` images of a source: float32 (N, 3, H, W).

    source: as in `zoofast prep`; None makes synthetic images, the same at every call.

    The recipe prepares the images; AIPP's arithmetic follows where the recipe leaves it to the
    NPU. Raises SourceError for an empty source, ImageError for an image that cannot be prepared.
    """
    if source is None:
        tensors = [prepare(_synthetic_jpeg(seed), recipe) for seed in range(count)]
    else:
        tensors = _prepare_first(recipe, source, count)
    array = np.stack(tensors)
    if recipe.on_device is not None:
        return Aipp.from_recipe(recipe).apply(array)
    if recipe.layout == "NHWC":
        array = array.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(array, dtype=np.float32)


def _prepare_first(recipe: Recipe, path: str, count: int) -> list[NDArray[np.generic]]:
    with open_source(path) as source:
        if not source.items:
            raise SourceError(f"{path}: no images in it")
        with Loader(source, recipe, items=source.items[:count]) as loader:
            tensors = []
            for batch in loader:
                for failure in batch.failures:
                    raise ImageError(str(failure))
                tensors += list(batch.array.copy())
    return tensors


def _synthetic_jpeg(seed: int) -> bytes:
    """A JPEG of blurred colour patches. Noise would not do: resized, it becomes gray."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(patches).resize((512, 384), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()
