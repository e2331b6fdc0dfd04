"""Recipes of torchvision's transforms: `transforms.Compose` of v1 or v2, and timm's additions.

A transform is read by its class and attributes, in the order of its steps. The steps that a recipe
can say exactly are those on a PIL image, then the change to a tensor, then the normalization.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import numpy as np

from zoofast.errors import RecipeError
from zoofast.preprocess.importers.imported import (
    IMAGENET_CLASSES,
    PILLOW_FILTERS,
    Imported,
    as_array,
    reason,
    recipe_of,
)

PACKAGES = ("torch", "torchvision", "pillow")
LIBRARIES = ("torchvision", "timm")  # whose classes are known by their names
DIVIDED, UNSCALED = "0-1", "0-255"
# v2 multiplies by 1/255 in float32. The product of a pixel and this float32 number is exact in
# float64, so that a recipe, which rounds it to float32, makes the same; x / 255 is not the same.
MULTIPLIED = float(np.float32(1 / 255))


def from_transforms(
    transform: Any,
    *,
    name: str = "transforms",
    summary: str = "",
    origin: str = "the transform",
    classes: int = IMAGENET_CLASSES,
    top1: float | None = None,
    top5: float | None = None,
    configuration: str | None = None,
) -> Imported:
    """The recipe of an evaluation's transform. Raises RecipeError that names a step."""
    steps = _Steps(name)
    try:
        for step in _flattened(transform):
            steps.add(step)
    except RecursionError:
        raise RecipeError(f"{name}: the transforms are nested too deeply") from None
    recipe = recipe_of(
        name, summary or "a transform", steps.tables(), classes, top1=top1, top5=top5
    )
    packages = (*PACKAGES, "timm") if steps.uses_timm else PACKAGES
    return Imported(
        recipe,
        origin,
        packages,
        lambda: lambda image: as_array(transform(image)),
        configuration=configuration,
    )


def _flattened(transform: Any) -> Iterator[Any]:
    """The steps of a transform, those of a Compose or torch.nn.Sequential one by one."""
    kind, library = type(transform).__name__, type(transform).__module__.partition(".")[0]
    is_compose = kind == "Compose" and library in LIBRARIES
    steps = getattr(transform, "transforms", None) if is_compose else None
    # A generator, which has no length, would be empty when the transform is called.
    if isinstance(steps, Iterable) and isinstance(steps, Sized):
        for step in steps:
            yield from _flattened(step)
    elif kind == "Sequential" and library == "torch":
        for step in transform:
            yield from _flattened(step)
    else:
        yield transform


class _Steps:
    """The steps seen so far, as tables of a recipe file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.resize: dict[str, Any] | None = None
        self.crop: dict[str, Any] | None = None
        self.pad: dict[str, Any] | None = None
        self.is_tensor = False
        self.scale: str | float | None = None  # None while the values are 8-bit
        self.normalized: dict[str, Any] | None = None
        self.uses_timm = False

    def error(self, step: Any, why: str) -> RecipeError:
        return RecipeError(f"{self.name}: step {_shown(step)}: {why}")

    def add(self, step: Any) -> None:
        """Adds one step. Raises RecipeError where a recipe cannot say the step exactly."""
        kind, module = type(step).__name__, type(step).__module__
        library = module.partition(".")[0]
        if library not in LIBRARIES:
            raise self.error(step, "not a transform of torchvision; a recipe cannot say it")
        if "Random" in kind or kind in ("AutoAugment", "AugMix", "ColorJitter", "CutMix", "MixUp"):
            raise self.error(step, "draws at random; an evaluation's transform has no such step")
        self.uses_timm |= library == "timm"
        known: Callable[[Any], None] | None = getattr(self, f"_add_{kind}", None)
        if known is None:
            raise self.error(step, "recipes have nothing that does the same")
        try:
            known(step)
        # A user's class may lack an attribute, or set it to another type.
        except (AttributeError, TypeError, ValueError) as error:
            raise self.error(step, f"its attributes cannot be read: {reason(error)}") from error

    def _add_Compose(self, step: Any) -> None:
        raise self.error(step, "its transforms are not a list")

    # ---- on the image ---------------------------------------------------------------

    def _add_Resize(self, step: Any) -> None:
        size = step.size if isinstance(step.size, int) else list(step.size or [])
        self._resize(step, size, step.interpolation, step.max_size)

    def _filter(self, step: Any, interpolation: Any) -> str:
        """The filter's name. interpolation: an InterpolationMode, Pillow's number, in v2 a text."""
        if isinstance(interpolation, int) and 0 <= interpolation < len(PILLOW_FILTERS):
            return PILLOW_FILTERS[interpolation]
        is_v2 = ".v2." in type(step).__module__
        text = getattr(interpolation, "value", interpolation if is_v2 else None)
        if not isinstance(text, str):
            raise self.error(step, "the interpolation is no InterpolationMode")
        # Pillow has one "nearest", which torchvision takes for both of its names
        return text.removesuffix("-exact")

    def _resize(self, step: Any, size: Any, interpolation: Any, max_size: Any = None) -> None:
        if self.is_tensor:
            raise self.error(
                step,
                "resizes a tensor, which makes other pixels than resizing a PIL image; move the "
                "step before the change to a tensor",
            )
        if self.resize is not None or self.crop is not None:
            raise self.error(step, "a recipe resizes once, before the crop")
        if max_size is not None:
            raise self.error(step, "max_size: recipes have no limit of the long side")
        sides = _sides(size)
        self.resize = {
            "mode": "short" if len(sides) == 1 else "exact",
            "size": sides[0] if len(sides) == 1 else sides,
            "filter": self._filter(step, interpolation),
        }

    def _add_ResizeKeepRatio(self, step: Any) -> None:
        if step.longest != 1 or step.random_scale_prob or step.random_aspect_prob:
            raise self.error(step, "recipes have only longest = 1, without random sizes")
        if isinstance(step.interpolation, tuple):
            raise self.error(step, "draws the interpolation at random")
        if len(step.size) != 2:
            raise self.error(step, "its size is not one number, or height and width")
        self._resize(step, list(step.size), step.interpolation)
        self.resize = {**(self.resize or {}), "mode": "fit", "rounding": "timm"}

    def _add_CenterCropOrPad(self, step: Any) -> None:
        size = _sides(step.size)
        if self.is_tensor:
            raise self.error(step, "pads a tensor; move the step before the change to a tensor")
        if self.pad is not None or self.resize is None or self.resize["mode"] != "fit":
            raise self.error(step, "recipes pad once, after ResizeKeepRatio")
        if not all(isinstance(side, int) for side in (*self.resize["size"], *size)):
            raise self.error(step, "the sizes are not whole numbers of pixels")
        if any(map(int.__gt__, self.resize["size"], size)) or step.padding_mode != "constant":
            raise self.error(step, "recipes only pad here, with one colour")
        if not isinstance(step.fill, int | float | list | tuple):
            raise self.error(step, "fill is not a number, a list or a tuple")
        self.pad = {
            "size": size,
            "position": "centre",
            # torchvision cuts off what is behind the decimal point
            "value": [int(value) for value in self._three(step, "fill")],
        }

    def _add_CenterCrop(self, step: Any) -> None:
        self._crop(step, step.size)

    def _crop(self, step: Any, size: Any) -> None:
        if self.crop is not None:
            raise self.error(step, "a recipe crops once")
        if self.normalized is not None:
            raise self.error(step, "crops after the normalization; a recipe crops before it")
        sides = _sides(size)
        self.crop = {"size": [sides[0], sides[-1]], "rounding": "torchvision"}

    def _add_ImageClassification(self, step: Any) -> None:
        self._resize(step, list(step.resize_size), step.interpolation)
        self._crop(step, step.crop_size)
        self._to_tensor(step, DIVIDED)
        self._add_Normalize(step)

    # ---- to a tensor ----------------------------------------------------------------

    def _to_tensor(self, step: Any, scale: str | float | None) -> None:
        if self.is_tensor:
            raise self.error(step, "the image is a tensor already")
        self.is_tensor, self.scale = True, scale

    def _add_ToTensor(self, step: Any) -> None:
        # timm's class of this name does not divide by 255
        is_timm = type(step).__module__.startswith("timm")
        if is_timm:
            self._check_dtype(step, step.dtype)
        self._to_tensor(step, UNSCALED if is_timm else DIVIDED)

    def _add_MaybeToTensor(self, step: Any) -> None:
        self._to_tensor(step, DIVIDED)

    def _add_PILToTensor(self, step: Any) -> None:
        self._to_tensor(step, None)

    _add_MaybePILToTensor = _add_ToImage = _add_PILToTensor

    def _add_ConvertImageDtype(self, step: Any) -> None:
        self._to_float(step, step.dtype, ".v2." in type(step).__module__)

    def _add_ToDtype(self, step: Any) -> None:
        if step.scale:
            self._to_float(step, step.dtype, True)
            return
        self._check_float(step, step.dtype)
        if self.scale is None:
            self.scale = UNSCALED

    def _to_float(self, step: Any, dtype: Any, multiplies: bool) -> None:
        self._check_float(step, dtype)
        if self.scale is None:
            self.scale = MULTIPLIED if multiplies else DIVIDED

    def _check_float(self, step: Any, dtype: Any) -> None:
        if not self.is_tensor:
            raise self.error(step, "has no effect on a PIL image; put ToImage before it")
        self._check_dtype(step, dtype)

    def _check_dtype(self, step: Any, dtype: Any) -> None:
        if str(dtype) != "torch.float32":
            raise self.error(step, f"makes {dtype}; a recipe normalizes in float32")

    def _add_Normalize(self, step: Any) -> None:
        if not self.is_tensor or self.scale is None:
            raise self.error(step, "needs a float tensor")
        if self.normalized is not None:
            raise self.error(step, "a recipe normalizes once")
        self.normalized = {key: self._three(step, key) for key in ("mean", "std")}

    def _three(self, step: Any, key: str) -> list[float]:
        """The numbers for R, G and B of a step's attribute; torchvision takes one number for all.

        The attribute is a number, or a list, tuple, array or torch.Tensor of numbers.
        """
        given = getattr(step, key)
        values = given.tolist() if hasattr(given, "tolist") else given
        listed = list(values) if isinstance(values, list | tuple) else [values]
        plain = [value.item() if getattr(value, "ndim", None) == 0 else value for value in listed]
        if len(plain) not in (1, 3) or not all(
            isinstance(value, int | float) and abs(value) <= sys.float_info.max for value in plain
        ):
            raise self.error(step, f"{key} is neither a finite number nor three of them")
        return [float(value) for value in plain] * (3 // len(plain))

    # ---- without effect on an RGB image ------------------------------------------------

    def _add_Identity(self, step: Any) -> None:
        """Nothing to do."""

    _add_RGB = _add_ToPureTensor = _add_Identity

    # ---- the result -------------------------------------------------------------------

    def tables(self) -> dict[str, Any]:
        """The steps as tables of a recipe file."""
        if not self.is_tensor:
            raise RecipeError(f"{self.name}: makes no tensor; the last step must be ToTensor")
        tables: dict[str, Any] = {"resize": self.resize or {"mode": "none"}}
        if self.crop is not None:
            tables["crop"] = self.crop
        if self.pad is not None:
            tables["pad"] = self.pad
        if self.scale is None:
            tables["tensor"] = {"dtype": "uint8"}
        else:
            tables["normalize"] = {"scale": self.scale, **(self.normalized or {})}
        if not (self.crop or self.pad or tables["resize"]["mode"] == "exact"):
            raise RecipeError(
                f"{self.name}: the tensors' sizes vary from image to image; a CenterCrop is missing"
            )
        return tables


def _sides(size: Any) -> list[Any]:
    """A size's one or two sides; the reader of recipes checks them."""
    sides = [size] if isinstance(size, int) else list(size)
    return [int(side) if isinstance(side, np.integer) else side for side in sides]


def _shown(step: Any) -> str:
    """A step as messages name it: its class, or a function's name."""
    named = inspect.isroutine(step) or inspect.isclass(step)
    return str(getattr(step if named else type(step), "__name__", "without a name"))
