"""For Ray Data: `Prepare` makes tensors of a dataset's rows. Nothing here imports Ray.

import ray
from zoofast.ray import Prepare

rows = ray.data.read_binary_files("imagenet/val", include_paths=True)
tensors = rows.map_batches(Prepare("resnet34"))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.checks import check_one_of
from zoofast.errors import ImageError
from zoofast.preprocess.prepare import prepare, prepare_pixels
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe

COLUMNS = ("bytes", "image", "jpg", "jpeg", "png")  # of images, the first that a batch has
NAMES = ("path", "__key__", "name")  # of columns that name an image in messages
Batch = dict[str, NDArray[Any]]


class Prepare:
    """Turns the images of a batch of rows into tensors; for `Dataset.map_batches`.

    The column of images may hold files' bytes (read_binary_files, read_webdataset without a
    decoder), the structs of Hugging Face's Parquet files (read_parquet), or RGB pixels
    (height, width, 3) uint8 (read_images with mode="RGB"). The tensors equal those of
    `zoofast.prepare`.
    """

    def __init__(
        self,
        recipe: Recipe | str,
        column: str | None = None,
        output: str = "tensor",
        on_error: str = "stop",
    ) -> None:
        """recipe: also its name, as load_recipe takes it. column: of the images; None: the first of
        COLUMNS. output: the column of tensors, which takes the images' place.

        on_error: with "stop", an image without a tensor raises ImageError; with "mark", its tensor
        is zeros, and the column "failure" has the reason ("" for the others).

        Raises RecipeError where the recipe cannot be loaded; ValueError for another on_error, and
        for an output that is the column of the reasons.
        """
        check_one_of(("stop", "mark"), on_error=on_error)
        if on_error == "mark" and output == "failure":
            raise ValueError("output 'failure': this column has the reasons; name another one")
        self.recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
        self.column, self.output, self.on_error = column, output, on_error

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `output` in place of the column of images.

        batch: column -> array (n,). `output` is (n, *recipe.shape) of recipe.dtype. With on_error
        "mark" the column "failure" (n,), text, is added. Raises ImageError: there is no column of
        images, or another column has the name of one that is made; with "stop", also an image
        without a tensor. Raises CpuLevelError and MemoryError.
        """
        column = self._column_of(batch)
        rest = {name: values for name, values in batch.items() if name != column}
        made = [self.output, *(["failure"] if self.on_error == "mark" else [])]
        taken = [name for name in made if name in rest]
        if taken:
            raise ImageError(f"the rows have a column {taken[0]} already; rename or drop it first")
        images = batch[column]
        tensors = np.zeros((len(images), *self.recipe.shape), self.recipe.dtype)
        failures = [""] * len(images)
        for i, image in enumerate(images):
            try:
                tensors[i] = self._prepare(image)
            except ImageError as error:
                failures[i] = str(error).removeprefix("image: ")
                if self.on_error == "stop":
                    raise ImageError(f"{self._name(batch, i)}: {failures[i]}") from error
        marked = {"failure": np.array(failures, object)} if self.on_error == "mark" else {}
        return {**rest, self.output: tensors, **marked}

    def _column_of(self, batch: Mapping[str, object]) -> str:
        wanted = COLUMNS if self.column is None else (self.column,)
        column = next((name for name in wanted if name in batch), None)
        if column is None:
            raise ImageError(
                f"the rows have no column {' or '.join(wanted)}, but {', '.join(batch)}; name "
                "the column of the images: Prepare(recipe, column=…)"
            )
        return column

    def _prepare(self, image: Any) -> NDArray[Any]:
        if isinstance(image, Mapping):
            image = image.get("bytes")
        if isinstance(image, (bytes, bytearray, memoryview)):
            return prepare(bytes(image), self.recipe)
        if isinstance(image, np.ndarray):
            return prepare_pixels(image, self.recipe)
        raise ImageError(f"image: {type(image).__name__} is neither bytes nor an array of pixels")

    def _name(self, batch: Batch, i: int) -> str:
        column = next((name for name in NAMES if name in batch), None)
        return f"row {i} of a batch" if column is None else str(batch[column][i])
