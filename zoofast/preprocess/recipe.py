"""Recipes: how a model wants its images, as data. zoofast.preprocess.recipe_file reads them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

import numpy as np
import PIL
from numpy.typing import NDArray

from zoofast import _core
from zoofast.base.provenance import sha256
from zoofast.errors import RecipeError

DTYPES = ("float32", "float16", "uint8")
LAYOUTS = ("NCHW", "NHWC")
Floats3 = tuple[float, float, float]
Size = tuple[int, int]


@dataclass(frozen=True)
class Normalization:
    """From 8-bit values to a network's input: (x / divisor - mean) / std, in float32.

    `scale` "0-1" divides by 255 first, "0-255" does not. Means and deviations are in R, G, B
    order, whatever the order of the tensor's channels.
    """

    scale: str = "0-255"
    mean: Floats3 = (0.0, 0.0, 0.0)
    std: Floats3 = (1.0, 1.0, 1.0)

    @property
    def is_identity(self) -> bool:
        return self == Normalization()

    def table(self) -> NDArray[np.float32]:
        """What each 8-bit value becomes: (3, 256) float32.

        One float32 operation after the other, in the order of torchvision's ToTensor and
        Normalize and of the guides' NumPy scripts, whose results are thereby equal bit for bit.
        """
        x = np.arange(256, dtype=np.float32)
        if self.scale == "0-1":
            x = x / np.float32(255)
        table = np.stack([x, x, x])
        if self.mean != (0.0, 0.0, 0.0) or self.std != (1.0, 1.0, 1.0):
            table = table - np.array(self.mean, np.float32)[:, None]
            table = table / np.array(self.std, np.float32)[:, None]
        return table

    def fits(self, dtype: str) -> bool:
        """Whether all values of the table are finite numbers of that dtype."""
        with np.errstate(all="ignore"):
            return bool(np.isfinite(self.table().astype(dtype)).all())


@dataclass(frozen=True)
class Recipe:
    """One model's preprocessing and what scoring needs to know of the model.

    Sizes are (height, width) in pixels.
    """

    name: str
    summary: str
    resize: str  # short, exact or none
    resize_size: Size  # short: twice the short side; none: (0, 0)
    filter: str
    crop: Size | None
    crop_rounding: str  # half-even or truncate, of (side - crop) / 2
    size: Size  # of the tensor
    dtype: str
    layout: str
    channels: str  # RGB or BGR
    normalization: Normalization  # made here
    on_device: Normalization | None  # made by AIPP from the uint8 tensor
    input_name: str
    output_name: str
    input_size: Size  # the network's; smaller than `size` where AIPP crops
    classes: int
    label_offset: int  # class index of label 0
    top1: float | None  # the guide's published accuracy, percent
    top5: float | None

    @property
    def accuracy(self) -> dict[str, float] | None:
        """The guide's published accuracy in percent, {"top1": …, "top5": …}, where known."""
        if self.top1 is None or self.top5 is None:
            return None
        return {"top1": self.top1, "top5": self.top5}

    @property
    def digest(self) -> str:
        """Identifies everything but the name and summary: 16 hexadecimal digits."""
        fields = asdict(self)
        del fields["name"], fields["summary"]
        text = json.dumps(fields, sort_keys=True)
        return sha256(text.encode())[:16]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The tensor's shape: (3, H, W) or (H, W, 3)."""
        return (3, *self.size) if self.layout == "NCHW" else (*self.size, 3)

    @property
    def nbytes(self) -> int:
        """Bytes of one tensor."""
        return 3 * self.size[0] * self.size[1] * np.dtype(self.dtype).itemsize

    def size_mismatch(self, height: int, width: int) -> str:
        """Says that an image has `height` x `width` pixels where the tensor needs others."""
        return (
            f"{height}x{width} after resizing; the recipe's tensor is {self.size[0]}x{self.size[1]}"
        )

    def with_output(self, dtype: str | None = None, layout: str | None = None) -> Recipe:
        """The same pixels as another dtype or layout (None keeps the recipe's).

        uint8 leaves the normalization to the device; floats from a uint8 recipe get the one
        that the device would have made.
        """
        recipe = self
        if dtype is not None and dtype != self.dtype:
            if dtype not in DTYPES:
                raise RecipeError(f"dtype {dtype!r}: one of {', '.join(DTYPES)}")
            if dtype == "uint8":
                device = None if self.normalization.is_identity else self.normalization
                recipe = replace(recipe, normalization=Normalization(), on_device=device)
            elif self.dtype == "uint8" and self.on_device is not None:
                recipe = replace(recipe, normalization=self.on_device, on_device=None)
            recipe = replace(recipe, dtype=dtype)
            if not recipe.normalization.fits(dtype):
                raise RecipeError(f"dtype {dtype!r} cannot hold what {self.name} normalizes to")
        if layout is not None and layout != self.layout:
            if layout not in LAYOUTS:
                raise RecipeError(f"layout {layout!r}: one of {', '.join(LAYOUTS)}")
            recipe = replace(recipe, layout=layout)
        return recipe

    def plan(self) -> _core.Plan:
        """The recipe as the C core takes it."""
        return _core.Plan(
            resize=self.resize,
            resize_size=self.resize_size,
            filter=self.filter,
            pass_order=resize_order(),
            crop=self.crop or (0, 0),
            crop_rounding=self.crop_rounding,
            out_size=self.size,
            nhwc=self.layout == "NHWC",
            channel_index=[self.channels.index(c) for c in "RGB"],
            table=self.normalization.table().astype(self.dtype),
        )


def resize_order() -> str:
    """Which pass the installed Pillow's resize makes first, as a key of _core.PASS_ORDERS.

    Pillow 12.2 and 13.0 each changed it. Most pictures are not affected; those that shrink more
    in height than in width, such as tall ones, differ in the last bit.
    """
    release = tuple(int(part) for part in PIL.__version__.split(".")[:2])
    if release < (12, 2):
        return "pillow-10.0"
    return "pillow-12.2" if release < (13, 0) else "pillow-13.0"
