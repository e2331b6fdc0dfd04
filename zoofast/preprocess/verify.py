"""Tensors on disk, compared with what Pillow and NumPy make of the same images."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoofast.base.files import MAX_FILE_BYTES
from zoofast.base.rows import read_named_rows
from zoofast.errors import ImageError
from zoofast.preprocess import reference
from zoofast.preprocess.bins import Bin
from zoofast.preprocess.prepare import Refusal, decode_with_pillow
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sinks import PACK
from zoofast.preprocess.sources import Item, Source


@dataclass(frozen=True)
class Verified:
    """How many of `images` tensors on disk equal Pillow's in every byte.

    `differing` has the names of the others; also of tensors that cannot be read back or have
    another size, which `largest_difference` leaves out.
    """

    images: int
    equal: int
    largest_difference: float
    differing: list[str]


def verify(
    source: Source,
    items: Sequence[Item],
    folder: Path,
    recipe: Recipe,
    format: str,
    count: int,
    max_file_bytes: int = MAX_FILE_BYTES,
    bins: Sequence[Bin] | None = None,
) -> Verified:
    """Prepares `count` random items with Pillow and NumPy; compares the tensors in `folder`.

    bins: None where each image has a file that is named after it.
    """
    chosen = random.Random(0).sample(items, min(count, len(items)))
    largest = 0.0
    differing: list[str] = []
    if not chosen:
        return Verified(0, 0, largest, differing)  # older NumPy cannot map a pack without rows
    read = _reader(folder, recipe, format, bins)
    for item in chosen:
        try:
            data = source.read(item, max_file_bytes)
        except OSError as error:
            raise ImageError(f"{item.path}: cannot be verified: {error.strerror}") from error
        rgb = decode_with_pillow(data, recipe.decoder)
        if isinstance(rgb, Refusal):
            differing.append(item.name)
            continue
        expected = reference.prepare_image(Image.fromarray(rgb), recipe)
        try:
            made = read(item.name)
        except (OSError, ValueError, KeyError):  # gone, or no longer such a file
            differing.append(item.name)
            continue
        if (made.shape, made.dtype) != (expected.shape, expected.dtype):
            differing.append(item.name)
        elif made.tobytes() != expected.tobytes():
            differing.append(item.name)
            difference = np.abs(made.astype(np.float64) - expected.astype(np.float64)).max()
            largest = max(largest, float(difference))
    return Verified(len(chosen), len(chosen) - len(differing), largest, differing)


def _reader(
    folder: Path, recipe: Recipe, format: str, bins: Sequence[Bin] | None
) -> Callable[[str], NDArray[Any]]:
    """A function from a name to its tensor in the folder."""
    if format == "pack":
        names, pack = read_named_rows(folder / PACK)
        row_of = {name: i for i, name in enumerate(names)}
        return lambda name: np.asarray(pack[row_of[name]])
    if format == "npy":
        return lambda name: np.asarray(np.load(folder / f"{name}.npy"))
    if bins is None:
        return lambda name: np.fromfile(folder / f"{name}.bin", recipe.dtype).reshape(recipe.shape)
    place = {name: (bin.file, row) for bin in bins for row, name in enumerate(bin.images)}

    def read_row(name: str) -> NDArray[Any]:
        file, row = place[name]
        return np.asarray(np.fromfile(folder / file, recipe.dtype).reshape(-1, *recipe.shape)[row])

    return read_row
