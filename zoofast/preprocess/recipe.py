"""The type Recipe: which tensor a model needs from an image, and what scoring needs to know."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
from numpy.typing import NDArray

from zoofast import _core
from zoofast.base.provenance import sha256
from zoofast.errors import RecipeError

if TYPE_CHECKING:
    from zoofast.preprocess.importers.imported import Imported

DTYPES = ("float32", "float16", "uint8")
LAYOUTS = ("NCHW", "NHWC")
PAD_STAGES = ("pixels", "tensor")
IMAGE_DECODERS = ("pillow", "cv2")
FLOAT32_FILTER = "cv2-linear-float32"  # resizes floats, so that a table cannot normalize
BY_FACTOR = "cv2-factor"  # of Recipe.resize_rounding: both sides shrink by the same number
PRECISIONS = ("float32", "float64", "float16")
Floats3 = tuple[float, float, float]
NO_MEAN, NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
DIVISORS = {"0-1": 255.0, "0-255": 1.0}  # of Normalization.scale
Size = tuple[int, int]


@dataclass(frozen=True)
class Normalization:
    """From 8-bit values x to a network's input: (x / divisor - mean) / std.

    The divisor is 255 for `scale` "0-1", and 1 for "0-255". A number `scale` is multiplied instead,
    in float64. `mean` and `std` (standard deviations) are in the order R, G, B, also where the
    tensor's channels are B, G, R. `precision` is the type that each operation's operands and result
    have. `second_mean` is subtracted after `mean`, and `second_std` divides after `std`: each
    operation rounds, so that their order counts.
    """

    scale: str | float = "0-255"
    mean: Floats3 = NO_MEAN
    std: Floats3 = NO_STD
    precision: str = "float32"
    second_mean: Floats3 = NO_MEAN
    second_std: Floats3 = NO_STD
    reciprocal: bool = False  # multiply by 1 / std in float64, as mmcv's imnormalize

    @property
    def is_identity(self) -> bool:
        return self == Normalization()

    @property
    def means_0_255(self) -> Floats3:
        """What is subtracted from values 0 to 255, in one number a channel and without rounding."""
        a, b, c = (
            (m + n) * self._divisor for m, n in zip(self.mean, self.second_mean, strict=True)
        )
        return a, b, c

    @property
    def stds_0_255(self) -> Floats3:
        """What values 0 to 255 are divided by then, in one number a channel."""
        a, b, c = (m * n * self._divisor for m, n in zip(self.std, self.second_std, strict=True))
        return a, b, c

    @property
    def _divisor(self) -> float:
        return 1 / self.scale if isinstance(self.scale, float) else DIVISORS[self.scale]

    @property
    def reciprocals(self) -> NDArray[np.float64]:
        """(3,): 1 / std, as mmcv computes it of a float32 std."""
        return 1 / np.array(self.std, np.float32).astype(np.float64)

    def table(self) -> NDArray[np.float32]:
        """The normalized value of each 8-bit value of each channel: (3, 256) float32.

        The operations are those of torchvision's ToTensor and Normalize and of the guides' NumPy
        scripts, in their order. So the results are equal to theirs bit for bit.
        """
        number = np.dtype(self.precision).type
        with np.errstate(all="ignore"):  # what float16 cannot hold; see `fits`
            if isinstance(self.scale, float):
                x = (np.arange(256) * self.scale).astype(self.precision)
            else:
                x = np.arange(256).astype(self.precision) / number(DIVISORS[self.scale])
            table = np.stack([x, x, x])
            for mean in (self.mean, self.second_mean):
                table = table - np.array(mean, self.precision)[:, None]
            if self.reciprocal:
                table = table * self.reciprocals[:, None]  # in float64
            else:
                for std in (self.std, self.second_std):
                    table = table / np.array(std, self.precision)[:, None]
            return table.astype(np.float32)

    def fits(self, dtype: str) -> bool:
        """Whether `dtype` can hold all values of the table as finite numbers."""
        with np.errstate(all="ignore"):
            return bool(np.isfinite(self.table().astype(dtype)).all())


@dataclass(frozen=True)
class DeviceInput:
    """What the NPU's AIPP makes of a uint8 NHWC tensor: the crop, then (value - mean) * factor.

    `mean` (in units of 0 to 255) and `factor` (1 / standard deviation) have one number for each
    channel, in the tensor's order of channels.
    """

    crop_start: Size  # (top, left) of the network's input in the tensor, in pixels
    mean: Floats3
    factor: Floats3


@dataclass(frozen=True)
class Recipe:
    """One model's preprocessing, and what scoring needs to know of the model.

    docs/recipes.md explains the fields. Sizes are (height, width) in pixels.
    """

    name: str
    summary: str
    resize: str  # a key of _core.RESIZES
    resize_size: Size  # "short", "height": the given side, twice; "none": (0, 0)
    filter: str
    crop: Size | None
    crop_rounding: str  # a key of _core.CROP_ROUNDINGS
    size: Size  # of the tensor
    dtype: str
    layout: str
    channels: str  # "RGB" or "BGR"
    normalization: Normalization  # that zoofast computes
    on_device: Normalization | None  # that the NPU's AIPP computes from the uint8 tensor
    input_name: str
    output_name: str
    input_size: Size  # the network's; smaller than `size` where AIPP crops
    classes: int | None  # None for a model whose output is not classes
    label_offset: int  # the model's class index of label 0
    top1: float | None  # accuracy in percent, as the guide publishes it
    top5: float | None
    resize_rounding: str = "down"  # a key of _core.SIDE_ROUNDINGS
    pad: Size | None = None
    pad_position: str = "none"  # a key of _core.PADDINGS
    pad_value: Floats3 = NO_MEAN  # of R, G, B
    pad_stage: str = "pixels"  # of PAD_STAGES: whether pad_value is normalized too
    decoder: str = "pillow"  # of IMAGE_DECODERS: whose pixels and orientation the image has
    # Where the recipe was read from another library: what importers.first_use compares it with
    # before the first image is prepared. No part of the recipe's value; a pickle does not hold it.
    imported: Imported | None = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "imported": None}

    @classmethod
    def from_transforms(
        cls, transform: Any, *, name: str = "transforms", classes: int = 1000
    ) -> Recipe:
        """The recipe of a torchvision transform, v1 or v2: a Compose, or one of its steps.

        The transform takes a PIL image and returns a tensor (3, H, W). Raises RecipeError that
        names a step which no recipe can say exactly, such as a random step, or one that resizes a
        tensor.
        """
        # Imported here: the importers build on this module.
        from zoofast.preprocess.importers.transforms import from_transforms

        return from_transforms(transform, name=name, classes=classes).provable_recipe

    @property
    def accuracy(self) -> dict[str, float] | None:
        """The guide's published accuracy in percent, {"top1": …, "top5": …}; None where unknown."""
        if self.top1 is None or self.top5 is None:
            return None
        return {"top1": self.top1, "top5": self.top5}

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that identify all fields but the name and the summary.

        Fields that came later count only where they differ from their default. So the digests of
        older recipes stay.
        """
        fields = asdict(replace(self, imported=None))
        del fields["name"], fields["summary"], fields["imported"]
        for table, key, default in _LATER:
            values = fields if table is None else fields[table]
            if values is not None and values[key] == default:
                del values[key]
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

    @property
    def device_input(self) -> DeviceInput | None:
        """What AIPP computes from the tensor; None for a tensor that AIPP does not take.

        AIPP takes a uint8 NHWC tensor of a recipe that says how the device normalizes.
        """
        if self.dtype != "uint8" or self.layout != "NHWC" or self.on_device is None:
            return None
        a, b, c = ("RGB".index(channel) for channel in self.channels)
        mean, std = self.on_device.means_0_255, self.on_device.stds_0_255
        (height, width), (h, w) = self.size, self.input_size
        return DeviceInput(
            crop_start=((height - h) // 2, (width - w) // 2),
            mean=(mean[a], mean[b], mean[c]),
            factor=(1.0 / std[a], 1.0 / std[b], 1.0 / std[c]),
        )

    def size_mismatch(self, height: int, width: int) -> str:
        """Says that an image has `height` x `width` pixels where the tensor needs others."""
        return (
            f"{height}x{width} after resizing; the recipe's tensor is {self.size[0]}x{self.size[1]}"
        )

    def with_output(self, dtype: str | None = None, layout: str | None = None) -> Recipe:
        """The recipe with another dtype or layout of the same pixels. None: the recipe's own.

        With uint8 the normalization moves from zoofast to the device; with floats instead of uint8
        it moves from the device to zoofast. Raises RecipeError.
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
            if self.pad_stage == "tensor" and "uint8" in (dtype, self.dtype):
                raise RecipeError(f"dtype {dtype!r}: pad.stage = 'tensor' fits float tensors only")
            if not recipe.normalization.fits(dtype):
                raise RecipeError(f"dtype {dtype!r} cannot hold what {self.name} normalizes to")
            if self.filter == FLOAT32_FILTER and dtype == "float16":
                raise RecipeError(
                    f"dtype 'float16': the filter {self.filter} makes float32 or uint8"
                )
        if layout is not None and layout != self.layout:
            if layout not in LAYOUTS:
                raise RecipeError(f"layout {layout!r}: one of {', '.join(LAYOUTS)}")
            recipe = replace(recipe, layout=layout)
        return recipe

    def _fill(self) -> NDArray[Any]:
        """The tensor's elements (3,) of R, G and B outside a padded image, in its dtype."""
        if self.pad_stage == "tensor":
            return np.array(self.pad_value, self.dtype)
        table = self.normalization.table().astype(self.dtype)
        return np.array([table[c, int(value)] for c, value in enumerate(self.pad_value)])

    def plan(self) -> _core.Plan:
        """The recipe in the form that the C core takes."""
        return _core.Plan(
            resize=self.resize,
            resize_size=self.resize_size,
            resize_rounding=self.resize_rounding,
            filter=self.filter,
            pass_order=resize_order(),
            crop=self.crop or (0, 0),
            crop_rounding=self.crop_rounding,
            out_size=self.size,
            nhwc=self.layout == "NHWC",
            channel_index=[self.channels.index(c) for c in "RGB"],
            table=self.normalization.table().astype(self.dtype),
            padding=self.pad_position,
            fill=self._fill(),
            is_turned=self.decoder == "cv2",
            divisor=255 if self.normalization.scale == "0-1" else 1,
            mean=self.normalization.mean,
            std=self.normalization.std,
        )


# Fields that recipes did not always have: (field of Recipe that holds it, its key, its default).
_LATER: tuple[tuple[str | None, str, object], ...] = (
    (None, "resize_rounding", "down"),
    (None, "decoder", "pillow"),
    (None, "pad", None),
    (None, "pad_position", "none"),
    (None, "pad_value", NO_MEAN),
    (None, "pad_stage", "pixels"),
    *(
        (table, key, default)
        for table in ("normalization", "on_device")
        for key, default in (
            ("precision", "float32"),
            ("second_mean", NO_MEAN),
            ("second_std", NO_STD),
            ("reciprocal", False),
        )
    ),
)


def resize_order() -> str:
    """The pass, horizontal or vertical, that the installed Pillow resizes with first.

    A key of _core.PASS_ORDERS. Pillow 12.2 and 13.0 changed the order. Most images are not
    affected; an image that shrinks more in height than in width differs in the last bit.
    """
    release = tuple(int(part) for part in PIL.__version__.split(".")[:2])
    if release < (12, 2):
        return "pillow-10.0"
    return "pillow-12.2" if release < (13, 0) else "pillow-13.0"
