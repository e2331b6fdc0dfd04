"""An imported recipe compared with the library's own transform, on the user's images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from zoofast.base.files import MAX_FILE_BYTES
from zoofast.errors import ImageError
from zoofast.preprocess.importers.imported import FOREIGN_ERRORS, Transform, reason
from zoofast.preprocess.prepare import Refusal, decode_with_pillow, prepare
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import Item, Source

FIRST_IMAGES = 5  # that a recipe's first use compares


@dataclass(frozen=True)
class Checked:
    """On how many `images` a recipe and a transform made the same bytes.

    differing: the names of the other images, each with the difference in words.
    """

    images: int
    differing: list[tuple[str, str]]


def check(
    recipe: Recipe,
    transform: Transform,
    source: Source,
    items: Sequence[Item],
    count: int = FIRST_IMAGES,
) -> Checked:
    """Prepares the first `count` of the items that Pillow can decode, and compares the tensors.

    The transform takes Pillow's RGB image, and returns (3, H, W). An image that the transform alone
    refuses differs, whatever the transform raises. An image that both refuse does not count.
    """
    images = 0
    differing = []
    for item in items:
        if images == count:
            break
        try:
            data = source.read(item, MAX_FILE_BYTES)
        except OSError:
            continue  # the run itself counts and names it
        rgb = decode_with_pillow(data)
        if isinstance(rgb, Refusal):
            continue
        difference = _difference(recipe, transform, data, Image.fromarray(rgb))
        if difference is None:
            continue
        images += 1
        if difference:
            differing.append((item.name, difference))
    return Checked(images, differing)


def _difference(
    recipe: Recipe, transform: Transform, data: bytes, image: Image.Image
) -> str | None:
    """In what the recipe's tensor of the file `data` differs from the transform's.

    "" where the bytes are equal; None where both refuse the image.
    """
    refusal = ""
    try:
        expected = transform(image)
    except MemoryError:
        raise
    except FOREIGN_ERRORS as error:
        refusal = f"only zoofast makes a tensor; the transform raises {reason(error)}"
    try:
        made = prepare(data, recipe)
    except ImageError as error:
        return None if refusal else str(error)
    if refusal:
        return refusal
    if recipe.layout == "NHWC" and expected.ndim == 3:
        expected = expected.transpose(1, 2, 0)
    if (made.shape, made.dtype) != (expected.shape, expected.dtype):
        return f"{made.dtype} {made.shape} instead of {expected.dtype} {expected.shape}"
    bits = f"u{made.itemsize}"  # -0.0 is not 0.0
    different = int((made.view(bits) != np.ascontiguousarray(expected).view(bits)).sum())
    if not different:
        return ""
    largest = np.abs(made.astype(np.float64) - expected.astype(np.float64)).max()
    return f"{different} of {made.size} values differ, by at most {largest:.3g}"
