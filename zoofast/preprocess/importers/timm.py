"""Recipes of timm's models: from timm itself, or from a model card's config.json without timm.

The rules are those of timm.data: resolve_data_config fills in what a configuration leaves out, and
create_transform makes the steps of an evaluation. The arithmetic is that of ToTensor and Normalize;
timm's own prefetcher normalizes on the device and makes slightly other floats.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoofast.base.extras import needs
from zoofast.base.torchvision_operators import define_missing_operators
from zoofast.errors import RecipeError
from zoofast.preprocess.importers.imported import (
    IMAGENET_CLASSES,
    PILLOW_FILTERS,
    Imported,
    Transform,
    as_array,
    digest_of,
    folder_name,
    read_json,
    recipe_of,
)
from zoofast.preprocess.recipe_file import MAX_SIDE, nearest

PACKAGES = ("timm", "torch", "torchvision", "pillow")
# timm.data.constants: what a configuration means that leaves a key out
DEFAULTS: dict[str, Any] = {
    "input_size": [3, 224, 224],
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
# Arguments of timm.create_model that are none of the network's.
_OF_CREATE_MODEL = (
    "model_name",
    "checkpoint_path",
    "cache_dir",
    "scriptable",
    "exportable",
    "no_jit",
)


def load(name: str, test_size: bool) -> Imported:
    """The recipe of a pretrained model, NAME or NAME.TAG, or of a model card's file config.json."""
    if name.endswith(".json"):
        path = Path(name)
        config = _read_config(path)
        return from_config(config, name, test_size, _model_name(config) or folder_name(path))
    config = _registered(name)
    return from_config(config, _model_name(config) or name, test_size)


def _model_name(config: Mapping[str, Any]) -> str | None:
    """timm's name of the configuration's model, ARCHITECTURE.TAG; None where a file, which comes
    from outside, has no text that fits into the name of a file."""
    parts = (config.get("architecture"), config.get("tag"))
    name = ".".join(part for part in parts if isinstance(part, str) and part)
    return name if re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", name, re.ASCII) else None


def architecture(name: str) -> str:
    """What timm.create_model takes for `name`: a NAME or NAME.TAG, or a file config.json."""
    if not name.endswith(".json"):
        _registered(name)
        return name
    content = read_json(Path(name))
    _pretrained_cfg(content, Path(name))
    return str(content["architecture"])


def _registered(name: str) -> dict[str, Any]:
    """timm's pretrained_cfg of the model `name`."""
    with needs("timm", RecipeError):
        import torch  # noqa: F401

        define_missing_operators()
        import timm
    try:
        pretrained = timm.models.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        known = timm.list_pretrained() + timm.list_models()
        raise RecipeError(
            f"timm {timm.__version__} has no model {name!r}{nearest(name, known)}; "
            "timm.list_pretrained() lists its models"
        ) from None
    config: dict[str, Any] = pretrained.to_dict()
    return config


def _read_config(path: Path) -> dict[str, Any]:
    """The pretrained_cfg of a model card's config.json, with the model's architecture."""
    content = read_json(path)
    config = dict(_pretrained_cfg(content, path))
    # As in timm, the number of classes beside the pretrained_cfg is the one that counts.
    config.update((key, content[key]) for key in ("num_classes", "architecture") if key in content)
    arguments = model_arguments(content, path)
    is_any_size = (
        arguments.get("dynamic_img_size")
        or arguments.get("strict_img_size") is False
        or arguments.get("use_naflex")
    )
    if arguments.get("in_chans") not in (None, 3):
        raise RecipeError(f"{path}: model_args: in_chans is not 3: recipes make three channels")
    size = arguments.get("img_size")
    if size is not None and config.get("fixed_input_size") and not is_any_size:
        config["input_size"] = [3, *(size if isinstance(size, list) else [size, size])]
    return config


def model_arguments(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a config.json's content says that timm.create_model is called with, besides the name."""
    arguments = content.get("model_args") or {}
    if "pretrained_cfg" not in content:
        return {}  # in older files, timm does not read them
    if not isinstance(arguments, dict):
        raise RecipeError(f"{path}: model_args is no table")
    for key in arguments:
        # A file from outside must not name what is loaded.
        if key.startswith("pretrained") or key in _OF_CREATE_MODEL:
            raise RecipeError(f"{path}: model_args: {key[:60]!r} is no argument of a network")
    return arguments


def _pretrained_cfg(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The pretrained_cfg in a config.json's content; in older files it is the content itself."""
    config = content.get("pretrained_cfg", content)
    if not isinstance(config, dict) or not isinstance(content.get("architecture"), str):
        raise RecipeError(
            f"{path}: not the config.json of a model of timm: it has no text 'architecture'"
        )
    return config


def from_config(
    config: dict[str, Any], where: str, test_size: bool, name: str | None = None
) -> Imported:
    """The recipe of a pretrained_cfg.

    where: the model or the file that messages name. name: the recipe's, by default `where`.
    Raises RecipeError that names a key or a step.
    """
    values = _Config(config, where)
    prefix = "test_" if test_size else ""
    height, width = values.size(prefix)
    crop_pct = values.number(prefix + "crop_pct", "crop_pct")
    mode = values.text("crop_mode")
    filter = values.text("interpolation")
    if filter not in PILLOW_FILTERS:
        raise values.error(f"interpolation = {filter!r}: one of {', '.join(PILLOW_FILTERS)}")
    mean, std = values.three("mean"), values.three("std")
    scaled = [math.floor(side / crop_pct) for side in (height, width)]
    if not all(1 <= side <= MAX_SIDE for side in scaled):
        raise values.error(f"crop_pct = {crop_pct} makes {scaled[0]}x{scaled[1]} pixels")
    resize: dict[str, Any] = {"filter": filter}
    if mode == "squash":
        resize |= {"mode": "exact", "size": scaled}
    elif mode == "center" and scaled[0] == scaled[1]:
        resize |= {"mode": "short", "size": scaled[0]}
    elif mode == "center":
        raise values.error(
            f"ResizeKeepRatio to {scaled[0]}x{scaled[1]}, which recipes cannot say: the input is "
            "not square"
        )
    elif mode == "border" and crop_pct >= 1:
        resize |= {"mode": "fit", "size": scaled, "rounding": "timm"}
    elif mode == "border":
        raise values.error("crop_mode 'border' pads and crops, for crop_pct is below 1")
    else:
        raise values.error(f"crop_mode = {mode!r}: one of center, squash, border")
    steps: dict[str, Any] = {
        "resize": resize,
        "normalize": {"scale": "0-1", "mean": mean, "std": std},
    }
    if mode == "border":
        steps["pad"] = {
            "size": [height, width],
            "position": "centre",
            "value": [round(255 * value) for value in mean],
        }
    else:
        steps["crop"] = {"size": [height, width], "rounding": "torchvision"}
    name = name or where
    recipe = recipe_of(name, f"timm's {name}", steps, values.classes(), where)
    return Imported(
        recipe,
        f"timm's transform of {where}",
        PACKAGES,
        lambda: own_transform(config, test_size),
        configuration=digest_of({**config, "use_test_size": test_size}, where),
    )


def own_transform(config: dict[str, Any], test_size: bool) -> Transform:
    """timm's own transform of a pretrained_cfg."""
    with needs("timm", RecipeError):
        import torch  # noqa: F401

        define_missing_operators()
        from timm.data import create_transform, resolve_data_config
    data = resolve_data_config(pretrained_cfg=config, use_test_size=test_size)
    transform = create_transform(**data, is_training=False)
    return lambda image: as_array(transform(image))


class _Config:
    """A pretrained_cfg from outside; every value that is read is checked."""

    def __init__(self, config: dict[str, Any], where: str) -> None:
        self.config = config
        self.where = where

    def error(self, what: str) -> RecipeError:
        return RecipeError(f"{self.where}: {what}")

    def get(self, *keys: str) -> Any:
        """The value of the first key that is set, as timm's resolve_data_config; or the default."""
        for key in keys:
            value = self.config.get(key)
            if value or (value is not None and key.endswith("input_size")):
                return value
        return DEFAULTS[keys[-1]]

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or len(value) > 40:
            raise self.error(f"{key} is not a short text")
        return value

    def number(self, *keys: str) -> float:
        value = self.get(*keys)
        if not isinstance(value, int | float) or not 0.01 <= value <= 100:
            raise self.error(f"{keys[0]} is not a number from 0.01 to 100")
        return float(value)

    def three(self, key: str) -> list[float]:
        value = self.get(key)
        numbers = list(value) if isinstance(value, list | tuple) else []
        if len(numbers) != 3 or not all(
            isinstance(number, int | float) and -1e6 <= number <= 1e6 for number in numbers
        ):
            raise self.error(f"{key} is not three numbers, for R, G and B")
        return numbers

    def size(self, prefix: str) -> tuple[int, int]:
        key = "input_size"
        value = self.get(prefix + key, key)
        sides = list(value) if isinstance(value, list | tuple) and len(value) == 3 else [0]
        if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
            raise self.error(f"{key} is not [3, height, width]")
        if sides[0] != 3:
            raise self.error(f"{key} has {sides[0]} channels; zoofast makes images of 3")
        return sides[1], sides[2]

    def classes(self) -> int:
        """The number of classes; of a model without a classifier, ImageNet's."""
        value = self.config.get("num_classes")
        return value if type(value) is int and value > 0 else IMAGENET_CLASSES
