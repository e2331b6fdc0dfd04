"""Recipes of Hugging Face's image processors: a preprocessor_config.json, without transformers.

The arithmetic is that of the processors that use Pillow: in transformers 5 the classes whose names
end with Pil, before that the classes without Fast. The processors that use torchvision resize
tensors and make slightly other pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoofast.base.extras import needs
from zoofast.base.torchvision_operators import define_missing_operators
from zoofast.errors import RecipeError
from zoofast.preprocess.importers import timm
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

PACKAGES = ("transformers", "torch", "torchvision", "pillow", "numpy")
CONFIG, PROCESSOR_CONFIG, MODEL_CONFIG = (
    "preprocessor_config.json",
    "processor_config.json",
    "config.json",
)
BILINEAR, BICUBIC = 2, 3
HALF = [0.5, 0.5, 0.5]
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SHORT_224 = {"size": {"shortest_edge": 224}}
CROP_224 = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}


@dataclass(frozen=True)
class _Processor:
    """What a class of image processors does where its configuration leaves a key out.

    int_is_short: whether a size that is one number is that of the short side, or of both sides,
    where the configuration has no key default_to_square.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    int_is_short: bool = False


_COMMON: dict[str, Any] = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": BICUBIC,
    "do_center_crop": False,
    "crop_size": None,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": HALF,
    "image_std": HALF,
    "do_pad": False,
    "crop_pct": None,
    "rescale_offset": False,
    "include_top": False,
    "do_flip_channel_order": False,
}
# Keys that one class alone reads; the others ignore them in a file.
_OWN_KEYS = {
    "rescale_offset": "EfficientNetImageProcessor",
    "include_top": "EfficientNetImageProcessor",
    "do_flip_channel_order": "MobileViTImageProcessor",
}
_SHORT_256 = {"size": {"shortest_edge": 256}, "resample": BILINEAR}

PROCESSORS = {
    "ViTImageProcessor": _Processor({"resample": BILINEAR}),
    "DeiTImageProcessor": _Processor({"size": {"height": 256, "width": 256}, **CROP_224}),
    "BeitImageProcessor": _Processor({"crop_size": {"height": 224, "width": 224}}),
    "ConvNextImageProcessor": _Processor(
        {"size": {"shortest_edge": 384}, "crop_pct": 224 / 256}, True
    ),
    "CLIPImageProcessor": _Processor({**SHORT_224, **CROP_224, **CLIP}, True),
    "SiglipImageProcessor": _Processor({}, True),
    "BitImageProcessor": _Processor({**SHORT_224, **CROP_224, **CLIP}, True),
    "EfficientNetImageProcessor": _Processor(
        {
            "size": {"height": 346, "width": 346},
            "crop_size": {"height": 289, "width": 289},
            "include_top": True,
        }
    ),
    "MobileNetV1ImageProcessor": _Processor({**_SHORT_256, **CROP_224}, True),
    "MobileNetV2ImageProcessor": _Processor({**_SHORT_256, **CROP_224}, True),
    "MobileViTImageProcessor": _Processor(
        {
            **SHORT_224,
            "do_center_crop": True,
            "crop_size": {"height": 256, "width": 256},
            "do_flip_channel_order": True,
        },
        True,
    ),
    "LevitImageProcessor": _Processor({**SHORT_224, **CROP_224, **IMAGENET}, True),
    "PvtImageProcessor": _Processor(IMAGENET),
    "PoolFormerImageProcessor": _Processor(
        {**SHORT_224, **CROP_224, **IMAGENET, "crop_pct": 0.9}, True
    ),
}


def load(name: str) -> Imported:
    """The recipe of a folder with a model's files, or of a preprocessor_config.json."""
    path = Path(name)
    if not name.endswith(".json"):
        if not path.is_dir():
            raise RecipeError(
                f"recipe hf:{name}: there is no folder {name}; zoofast downloads nothing: name the "
                "folder of the downloaded repository"
            )
        return _load_folder(path)
    config = read_json(path)
    if path.name == PROCESSOR_CONFIG:
        config = _image_processor(config, path) or config
    return from_config(config, str(path), _classes(path.with_name(MODEL_CONFIG)))


def _load_folder(folder: Path) -> Imported:
    """The recipe of a folder with a model's files. Raises RecipeError where two files disagree."""
    own, shared, model = (folder / file for file in (CONFIG, PROCESSOR_CONFIG, MODEL_CONFIG))
    # processor_config.json need not say anything of images.
    has_shared = shared.is_file() and _image_processor(read_json(shared), shared) is not None
    if own.is_file() and has_shared:
        recipe, other = load(str(own)), load(str(shared))
        if recipe.recipe.digest != other.recipe.digest:
            raise RecipeError(
                f"{folder}: {CONFIG} and {PROCESSOR_CONFIG} differ; transformers 5 reads the "
                "second one, older versions the first one; name the file that counts"
            )
        return recipe
    for file in (own, shared):
        if file.is_file():
            return load(str(file))
    if model.is_file():
        return timm.load(str(model), False)
    raise RecipeError(f"{folder}: no {CONFIG} in it")


def _image_processor(config: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """The part of a processor_config.json on images; None where there is none."""
    part = config.get("image_processor")
    if part is not None and not isinstance(part, dict):
        raise RecipeError(f"{path}: image_processor is not a table")
    return part


def _classes(path: Path) -> int:
    """The number of classes of a model's config.json; ImageNet's where the file does not say it."""
    if not path.is_file():
        return IMAGENET_CLASSES
    config = read_json(path)
    labels = config.get("id2label")
    number = len(labels) if isinstance(labels, dict) else config.get("num_labels")
    return number if type(number) is int and number > 0 else IMAGENET_CLASSES


def from_config(config: dict[str, Any], where: str, classes: int = IMAGENET_CLASSES) -> Imported:
    """The recipe of a processor's configuration. Raises RecipeError that names a key or a step."""
    written = config.get("image_processor_type") or config.get("feature_extractor_type")
    if not isinstance(written, str):
        raise RecipeError(f"{where}: no text 'image_processor_type' in it")
    base = written.removesuffix("Fast").removesuffix("Pil")
    kind = base.replace("FeatureExtractor", "ImageProcessor")
    if kind not in PROCESSORS:
        raise RecipeError(
            f"{where}: image_processor_type {written[:60]!r}{nearest(kind, list(PROCESSORS))}: "
            f"zoofast knows {', '.join(PROCESSORS)}"
        )
    values = _Config(config, kind, where)
    steps = values.steps()
    name = folder_name(Path(where))
    recipe = recipe_of(
        name, f"{kind} of {name}", steps, classes, where, input="pixel_values", output="logits"
    )
    note = (
        f"{where} names {written}; zoofast computes what {kind} computes with Pillow, and the Fast "
        "class makes slightly other pixels"
        if written.endswith("Fast")
        else ""
    )
    origin = f"transformers' {kind} (with Pillow) of {where}"
    return Imported(
        recipe,
        origin,
        PACKAGES,
        lambda: own_transform(kind, config),
        note,
        digest_of(config, where),
    )


def own_transform(kind: str, config: dict[str, Any]) -> Transform:
    """What transformers' own processor computes with Pillow. `config`: as in the file."""
    with needs("hf", RecipeError):
        import torch  # noqa: F401

        define_missing_operators()
        import transformers
    # transformers 5 added the suffix Pil; before, the class without Fast used Pillow.
    cls = getattr(transformers, f"{kind}Pil", None) or getattr(transformers, kind)
    processor = cls.from_dict({k: v for k, v in config.items() if not k.endswith("_type")})
    return lambda image: as_array(processor(images=image, return_tensors="np")["pixel_values"][0])


class _Config:
    """A processor's configuration from outside; every value that is read is checked."""

    def __init__(self, config: dict[str, Any], kind: str, where: str) -> None:
        self.config = config
        self.kind = kind
        self.where = where
        self.processor = PROCESSORS[kind]

    def error(self, what: str) -> RecipeError:
        return RecipeError(f"{self.where}: {what}")

    def get(self, key: str) -> Any:
        """The value of a key, or what the processor's class sets where the file lacks it.

        A null in the file is no missing key: the class gets None.
        """
        is_read = key in self.config and _OWN_KEYS.get(key, self.kind) == self.kind
        if is_read:
            return self.config[key]
        own = {"default_to_square": not self.processor.int_is_short, **self.processor.defaults}
        return {**_COMMON, **own}[key]

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(f"{key} is neither true nor false")
        return bool(value)  # transformers takes None for false

    def number(self, key: str) -> float:
        value = self.get(key)
        if not isinstance(value, int | float) or not 1e-6 <= value <= 100:
            raise self.error(f"{key} is not a number from 1e-6 to 100")
        return float(value)

    def three(self, key: str) -> list[Any]:
        """Three numbers; one number stands for three. The reader of recipes checks them."""
        value = self.get(key)
        if value is None:
            raise self.error(f"{key} is null; it is needed")
        return list(value) if isinstance(value, list | tuple) else [value] * 3

    def size(self, key: str, int_is_short: bool = False) -> tuple[int, ...]:
        """(short side,) or (height, width)."""
        value = self.get(key)
        if type(value) is int:
            sides: tuple[Any, ...] = (value,) if int_is_short else (value, value)
        elif isinstance(value, list) and len(value) == 2:
            sides = tuple(value)
        elif isinstance(value, dict):
            if value.keys() == {"shortest_edge"}:
                sides = (value["shortest_edge"],)
            elif value.keys() == {"height", "width"}:
                sides = (value["height"], value["width"])
            else:
                raise self.error(
                    f"{key} has {', '.join(map(str, list(value)[:4])) or 'nothing'}; recipes have "
                    "'shortest_edge', or 'height' and 'width'"
                )
        else:
            raise self.error(f"{key} is not a size")
        if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
            raise self.error(f"{key} is not of 1 to {MAX_SIDE} pixels")
        return sides

    # ---- the steps ---------------------------------------------------------------------

    def steps(self) -> dict[str, Any]:
        """The tables of a recipe file."""
        if self.flag("do_pad"):
            raise self.error("do_pad: recipes pad only with a centre crop")
        resize, crop = self.resize_and_crop()
        tables: dict[str, Any] = {"resize": resize}
        if crop is not None:
            tables["crop"] = {"size": list(crop), "rounding": "down"}
        elif resize["mode"] != "exact":
            raise self.error("the tensors' sizes vary from image to image; there is no crop")
        normalize = self.normalize()
        tensor = {"channels": "BGR" if self.flag("do_flip_channel_order") else "RGB"}
        if normalize:
            tables["normalize"] = normalize
        else:
            tensor["dtype"] = "uint8"
        return {**tables, "tensor": tensor}

    def resize_and_crop(self) -> tuple[dict[str, Any], tuple[int, ...] | None]:
        """The table [resize], and the size of the crop."""
        crop: tuple[int, ...] | None = None
        if self.flag("do_center_crop"):
            crop = self.size("crop_size")
            if len(crop) == 1:
                raise self.error("crop_size has no height and width")
        if not self.flag("do_resize"):
            return {"mode": "none"}, crop
        size = self.size("size", not self.flag("default_to_square"))
        if self.kind == "ConvNextImageProcessor":
            size, own_crop = self.convnext(size)
            if own_crop is not None and crop is not None:
                raise self.error("do_center_crop: a recipe crops once, and the resize crops too")
            crop = own_crop or crop
        elif self.kind == "LevitImageProcessor" and len(size) == 1:
            size = (int((256 / 224) * size[0]),)
        elif self.kind == "PoolFormerImageProcessor" and self.get("crop_pct") is not None:
            scaled = tuple(math.floor(side / self.number("crop_pct")) for side in size)
            size = scaled[:1] if len(set(scaled)) == 1 else scaled
        number = self.get("resample")
        if type(number) is not int or not 0 <= number < len(PILLOW_FILTERS):
            last = len(PILLOW_FILTERS) - 1
            raise self.error(f"resample is not one of Pillow's filters, 0 to {last}")
        mode = "short" if len(size) == 1 else "exact"
        sides: int | list[int] = size[0] if len(size) == 1 else list(size)
        return {"mode": mode, "size": sides, "filter": PILLOW_FILTERS[number]}, crop

    def convnext(self, size: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """ConvNeXt's sizes: below 384 pixels a crop out of a larger image, else both sides."""
        if len(size) != 1:
            raise self.error(f"size: {self.kind} needs 'shortest_edge'")
        side = size[0]
        if side < 384:
            return (int(side / self.number("crop_pct")),), (side, side)
        return (side, side), None

    def normalize(self) -> dict[str, Any]:
        """The table [normalize]; empty where the pixels stay 8-bit."""
        means, stds = [], []
        table: dict[str, Any] = {}
        if self.flag("do_rescale"):
            factor = self.number("rescale_factor")
            # In float64 and rounded to float32, x * (1 / 255) equals x / 255 for all 256 values.
            table["scale"] = "0-1" if factor == 1 / 255 else factor
            if self.flag("rescale_offset"):
                means.append([1.0, 1.0, 1.0])
        # MobileViT's processor has the key, but does not normalize.
        if self.flag("do_normalize") and self.kind != "MobileViTImageProcessor":
            means.append(self.three("image_mean"))
            stds.append(self.three("image_std"))
        if self.flag("include_top"):
            stds.append(self.three("image_std"))
        for key, values in (("mean", means), ("std", stds)):
            if values:
                table[key] = values[0] if len(values) == 1 else values
        return {"scale": "0-255", **table} if table else {}
