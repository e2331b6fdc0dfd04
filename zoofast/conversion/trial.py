"""Images to try a network on: some of a user's own, or drawn ones where there are none."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoofast.conversion.aipp import Aipp
from zoofast.errors import ImageError, SourceError
from zoofast.preprocess.loader import Loader, prepare
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import open_source

IMAGES = 8


def images(recipe: Recipe, where: str | None, count: int = IMAGES) -> NDArray[np.float32]:
    """The network's input for the first `count` images of a source: float32 N x 3 x H x W.

    `where` is a source as in `zoofast prep`; None draws pictures, always the same. They are
    prepared by the recipe, and then by AIPP where the recipe leaves that to the NPU. Raises
    SourceError for an empty source and ImageError for an image that cannot be prepared.
    """
    array = np.stack(
        [prepare(_picture(seed), recipe) for seed in range(count)]
        if where is None
        else _first(recipe, where, count)
    )
    if recipe.on_device is not None:
        return Aipp.of(recipe).apply(array)
    if recipe.layout == "NHWC":
        array = array.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(array, dtype=np.float32)


def _first(recipe: Recipe, where: str, count: int) -> list[NDArray[np.generic]]:
    with open_source(where) as source:
        if not source.items:
            raise SourceError(f"{where}: no images in it")
        with Loader(source, recipe, items=source.items[:count]) as loader:
            tensors = []
            for batch in loader:
                for failure in batch.failures:
                    raise ImageError(str(failure))
                tensors += list(batch.array.copy())
    return tensors


def _picture(seed: int) -> bytes:
    """A JPEG of soft coloured blobs; noise alone would average out to gray in any network."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((512, 384), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()
