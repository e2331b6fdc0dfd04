"""Recipes of torchvision's weights, such as ResNet50_Weights.IMAGENET1K_V2."""

from __future__ import annotations

import enum
import math
from typing import Any

from zoofast.base.extras import needs
from zoofast.base.torchvision_operators import define_missing_operators
from zoofast.errors import RecipeError
from zoofast.preprocess.importers.imported import IMAGENET_CLASSES, Imported
from zoofast.preprocess.importers.transforms import from_transforms
from zoofast.preprocess.recipe_file import nearest

METRICS = "ImageNet-1K"  # the key of torchvision's published accuracy


def weights_enums() -> dict[str, enum.EnumMeta]:
    """torchvision's classes of weights for classifiers, by name. Raises RecipeError."""
    with needs("torch", RecipeError):
        import torch  # noqa: F401

        define_missing_operators()
        from torchvision import models
    spaces = (vars(models), vars(models.quantization))
    return {
        name: value
        for space in spaces
        for name, value in space.items()
        if isinstance(value, enum.EnumMeta) and issubclass(value, models.WeightsEnum) and len(value)
    }


def weights_of(name: str) -> Any:
    """torchvision's weights CLASS.TAG, a member of their enum; DEFAULT is a tag too."""
    class_name, _, tag = name.partition(".")
    enums = weights_enums()
    if class_name not in enums:
        raise RecipeError(
            f"torchvision has no weights {class_name!r}{nearest(class_name, list(enums))}; the "
            "form is torchvision:ResNet50_Weights.IMAGENET1K_V2"
        )
    tags: dict[str, Any] = dict(enums[class_name].__members__)
    if tag not in tags:
        raise RecipeError(f"torchvision's {class_name} has no {tag!r}, but {', '.join(tags)}")
    return tags[tag]


def load(name: str) -> Imported:
    """The recipe of the weights CLASS.TAG."""
    member = weights_of(name)
    weights = member.value
    full_name = f"{type(member).__name__}.{member.name}"
    metrics = weights.meta.get("_metrics", {}).get(METRICS, {})
    return from_transforms(
        weights.transforms(),
        name=full_name,
        summary=f"torchvision's {full_name}",
        origin=f"torchvision's transform of {full_name}",
        classes=len(weights.meta.get("categories") or ()) or IMAGENET_CLASSES,
        top1=_known(metrics.get("acc@1")),
        top5=_known(metrics.get("acc@5")),
        configuration=full_name,
    )


def _known(accuracy: float | None) -> float | None:
    """None for NaN, which torchvision says of weights without a classifier."""
    return accuracy if accuracy is not None and math.isfinite(accuracy) else None
