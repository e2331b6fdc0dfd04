"""Reads recipe files: TOML, checked key by key, to a Recipe. docs/recipes.md explains each key."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import resources
from typing import Any

from zoofast import _core
from zoofast.base.files import read_file
from zoofast.base.parsing import parse_toml
from zoofast.errors import RecipeError
from zoofast.preprocess.guides import Guide, guides
from zoofast.preprocess.recipe import (
    BY_FACTOR,
    DIVISORS,
    DTYPES,
    FLOAT32_FILTER,
    IMAGE_DECODERS,
    LAYOUTS,
    NO_MEAN,
    NO_STD,
    PAD_STAGES,
    PRECISIONS,
    Floats3,
    Normalization,
    Recipe,
    Size,
)

MAX_RECIPE_BYTES = 1_000_000


def recipe_names() -> list[str]:
    """The names of the recipes that come with zoofast, sorted."""
    files = resources.files("zoofast.preprocess.recipes").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load_recipe(name: str | os.PathLike[str], test_size: bool = False) -> Recipe:
    """The recipe `name`: of zoofast, of a guide, in the file `name` when that ends in `.toml`, or
    of a model of timm, torchvision or elsewhere; see zoofast.preprocess.importers.

    test_size: timm's test_input_size and test_crop_pct in place of input_size and crop_pct.

    Raises RecipeError for an unknown name, a guide whose images no recipe describes, an unreadable
    file, and a key that is missing, unknown or out of range; the error names the key and the
    nearest valid one.
    """
    name = os.fspath(name)
    # The importers use this module.
    from zoofast.preprocess import importers

    if name.endswith(".toml") and not test_size:
        try:
            text = read_file(name, MAX_RECIPE_BYTES).decode("utf-8")
        except OSError as error:
            raise RecipeError(f"cannot read recipe {name}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise RecipeError(f"cannot read recipe {name}: not UTF-8 text") from error
        except ValueError as error:  # a path with a null byte
            raise RecipeError(f"cannot read recipe {name!r}: {error}") from error
        return parse_recipe(text, name)
    if importers.is_import(name):
        return importers.load(name, test_size).provable_recipe
    if test_size:
        raise RecipeError(f"recipe {name}: only models of timm have a test size")
    names = recipe_names()
    if name in names:
        return _packaged_recipe(name)
    if name in guides():
        return _guide_recipe(guides()[name])
    raise RecipeError(
        f"unknown recipe {name!r}{nearest(name, [*names, *guides()])}; `zoofast models` lists the "
        "guides' recipes; your own is the path of a .toml file; "
        f"of a model's source: {importers.FORMS}"
    )


def _packaged_recipe(name: str) -> Recipe:
    file = resources.files("zoofast.preprocess.recipes").joinpath(f"{name}.toml")
    return parse_recipe(file.read_text(encoding="utf-8"), f"{name}.toml")


def _guide_recipe(guide: Guide) -> Recipe:
    """The guide's recipe with the guide's name, and what the guide says about its model."""
    if guide.recipe is None:
        raise RecipeError(f"guide {guide.name}: zoofast cannot prepare its images: {guide.missing}")
    recipe = _packaged_recipe(guide.recipe)
    on_device = recipe.on_device
    if guide.aipp is not None:
        on_device = Normalization("0-255", *guide.aipp)
    return replace(
        recipe,
        name=guide.name,
        summary=f"{guide.path.rpartition('/')[2]}: {recipe.summary}",
        on_device=on_device,
        input_name=(guide.size and guide.input) or recipe.input_name,
        input_size=guide.size or recipe.input_size,
        output_name=guide.output or recipe.output_name,
        classes=guide.classes,
        label_offset=guide.label_offset,
        top1=guide.top1,
        top5=guide.top5,
    )


def parse_recipe(text: str, where: str) -> Recipe:
    """A recipe from TOML text; `where` names it in error messages."""
    try:
        values = parse_toml(text)
    except ValueError as error:
        raise RecipeError(f"{where}: not TOML: {error}") from error
    return recipe_from_values(values, where)


def recipe_from_values(values: dict[str, Any], where: str) -> Recipe:
    """A recipe from the tables of a recipe file; `where` names it in error messages."""
    return _RecipeReader(values, where).recipe()


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown word: which known word may be meant, if any is similar."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# Every key of the format, by table, and whether it may be left out.
_TABLES: dict[str, dict[str, bool]] = {
    "": {"name": False, "summary": True},
    "image": {"decoder": False},
    "resize": {"mode": False, "size": True, "filter": True, "rounding": True},
    "crop": {"size": False, "rounding": False},
    "pad": {"size": False, "position": False, "value": False, "stage": True},
    "tensor": {"dtype": False, "layout": False, "channels": True, "size": True},
    "normalize": {"scale": False, "mean": True, "std": True, "precision": True, "reciprocal": True},
    "aipp": {"scale": False, "mean": True, "std": True},
    "model": {
        "input": False,
        "output": False,
        "size": True,
        "classes": True,
        "label_offset": True,
        "top1": True,
        "top5": True,
    },
}
_OPTIONAL_TABLES = ("image", "crop", "pad", "normalize", "aipp")


class _RecipeReader:
    """The TOML values of one recipe file, and the Recipe that they make. Checks each value."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.where = where
        self.tables: dict[str, dict[str, Any]] = {"": {}}
        for key, value in values.items():
            if isinstance(value, dict):
                if key not in _TABLES or key == "":
                    raise self.error(f"unknown table [{key[:60]}]{nearest(key, list(_TABLES)[1:])}")
                self.tables[key] = value
            else:
                self.tables[""][key] = value
        for table, keys in _TABLES.items():
            if table not in self.tables:
                if table in _OPTIONAL_TABLES:
                    continue
                raise self.error(f"table [{table}] is missing")
            self.check_keys(table, keys)

    def check_keys(self, table: str, keys: dict[str, bool]) -> None:
        given = self.tables[table]
        for key in given:
            if key not in keys:
                raise self.error(
                    f"unknown key {_shown(_path(table, key))}{nearest(key, list(keys))}"
                )
        for key, optional in keys.items():
            if not optional and key not in given:
                raise self.error(f"key {_path(table, key)!r} is missing")

    def error(self, what: str) -> RecipeError:
        return RecipeError(f"{self.where}: {what}")

    def get(self, table: str, key: str, default: Any, check: Callable[[Any], Any]) -> Any:
        if key not in self.tables.get(table, {}):
            return default
        value = self.tables[table][key]
        try:
            return check(value)
        except ValueError as error:
            raise self.error(f"{_path(table, key)} = {_shown(value)}: {error}") from None

    def normalization(self, table: str) -> Normalization:
        mean, second_mean = self.get(table, "mean", (NO_MEAN, NO_MEAN), _once_or_twice(_floats3))
        std, second_std = self.get(table, "std", (NO_STD, NO_STD), _once_or_twice(_positive3))
        return Normalization(
            scale=self.get(table, "scale", "0-255", _scale),
            mean=mean,
            std=std,
            precision=self.get(table, "precision", "float32", _one_of(*PRECISIONS)),
            second_mean=second_mean,
            second_std=second_std,
            reciprocal=self.get(table, "reciprocal", False, _boolean),
        )

    def recipe(self) -> Recipe:
        mode, resize_size = self.resize()
        crop = self.get("crop", "size", None, _size)
        pad = self.get("pad", "size", None, _size)
        if pad is not None and crop is not None:
            raise self.error("[crop] and [pad] exclude each other")
        size = self.tensor_size(crop or pad or (resize_size if mode == "exact" else None))
        dtype = self.get("tensor", "dtype", None, _one_of(*DTYPES))
        normalization, on_device = self.normalizations(dtype)
        if normalization.reciprocal and normalization != Normalization(
            scale=normalization.scale,
            mean=normalization.mean,
            std=normalization.std,
            reciprocal=True,
        ):
            raise self.error("normalize.reciprocal needs precision 'float32', and one mean and std")
        input_size = self.get("model", "size", size, _size)
        if input_size[0] > size[0] or input_size[1] > size[1]:
            raise self.error(f"model.size {list(input_size)} exceeds the tensor's {list(size)}")
        return Recipe(
            name=self.get("", "name", None, _text),
            summary=self.get("", "summary", "", _text),
            resize=mode,
            resize_size=resize_size,
            filter=self.filter(dtype, normalization),
            crop=crop,
            crop_rounding=self.get("crop", "rounding", "half-even", _one_of(*_core.CROP_ROUNDINGS)),
            size=size,
            dtype=dtype,
            layout=self.get("tensor", "layout", None, _one_of(*LAYOUTS)),
            channels=self.get("tensor", "channels", "RGB", _one_of("RGB", "BGR")),
            normalization=normalization,
            on_device=on_device,
            input_name=self.get("model", "input", None, _text),
            output_name=self.get("model", "output", None, _text),
            input_size=input_size,
            classes=self.get("model", "classes", None, _integer(1)),
            label_offset=self.get("model", "label_offset", 0, _integer(0)),
            top1=self.get("model", "top1", None, _percent),
            top5=self.get("model", "top5", None, _percent),
            pad=pad,
            pad_position=self.get("pad", "position", "none", _one_of("centre", "corner")),
            pad_value=self.pad_value(dtype),
            pad_stage=self.get("pad", "stage", "pixels", _one_of(*PAD_STAGES)),
            decoder=self.get("image", "decoder", "pillow", _one_of(*IMAGE_DECODERS)),
            resize_rounding=self.get("resize", "rounding", "down", _one_of(*_core.SIDE_ROUNDINGS)),
        )

    def resize(self) -> tuple[str, Size]:
        """resize.mode, and resize.size as Recipe.resize_size."""
        mode: str = self.get("resize", "mode", None, _one_of(*_core.RESIZES))
        given = self.tables["resize"]
        for key, modes in (("size", ("none",)), ("rounding", ("none", "exact"))):
            if key in given and mode in modes:
                raise self.error(f"key 'resize.{key}' has no meaning when resize.mode is {mode!r}")
        if given.get("rounding") in ("half-even", "timm", BY_FACTOR) and mode != "fit":
            raise self.error(f"resize.rounding = {given['rounding']!r} needs resize.mode 'fit'")
        if given.get("rounding") == BY_FACTOR and given.get("filter") != "cv2-nearest":
            raise self.error(f"resize.rounding = {BY_FACTOR!r} needs resize.filter 'cv2-nearest'")
        if mode == "none":
            return mode, (0, 0)
        for key in ("size", "filter"):
            if key not in self.tables["resize"]:
                raise self.error(f"key 'resize.{key}' is missing (mode is {mode!r})")
        return mode, self.get("resize", "size", None, _size if mode in ("exact", "fit") else _side)

    def pad_value(self, dtype: str) -> Floats3:
        stage = self.get("pad", "stage", "pixels", _one_of(*PAD_STAGES))
        if stage == "tensor" and dtype == "uint8":
            raise self.error("pad.stage = 'tensor' fits float tensors only")
        check = _floats3 if stage == "tensor" else _pixel3
        value: Floats3 = self.get("pad", "value", NO_MEAN, check)
        return value

    def filter(self, dtype: str, normalization: Normalization) -> str:
        filter: str = self.get("resize", "filter", "bilinear", _one_of(*_core.FILTERS))
        if filter == FLOAT32_FILTER:
            if dtype == "float16":
                raise self.error(f"{FLOAT32_FILTER} needs tensor.dtype 'float32' or 'uint8'")
            if normalization != Normalization(
                "0-1" if normalization.scale == "0-1" else "0-255",
                normalization.mean,
                normalization.std,
            ):
                raise self.error(
                    f"{FLOAT32_FILTER} needs normalize.scale '0-1' or '0-255', "
                    "normalize.precision 'float32', and one mean and std"
                )
        return filter

    def tensor_size(self, made: Size | None) -> Size:
        """The tensor's size. made: the size that crop, pad or resize make, None where it varies."""
        given: Size | None = self.get("tensor", "size", None, _size)
        if made is not None and given is not None and made != given:
            raise self.error(f"tensor.size = {list(given)}, but crop or resize make {list(made)}")
        size = made or given
        if size is None:
            raise self.error(
                "key 'tensor.size' is missing; it is needed where there is neither a crop, a pad "
                "nor an exact size"
            )
        return size

    def normalizations(self, dtype: str) -> tuple[Normalization, Normalization | None]:
        """Recipe.normalization and Recipe.on_device, of [normalize] and [aipp]."""
        normalization = self.normalization("normalize")
        if dtype == "uint8" and not normalization.is_identity:
            raise self.error(
                "tensor.dtype = 'uint8' cannot hold a normalization; move [normalize] to [aipp]"
            )
        if dtype != "uint8" and "aipp" in self.tables:
            raise self.error(f"[aipp] needs tensor.dtype = 'uint8', not {dtype!r}")
        if not normalization.fits(dtype):
            raise self.error(f"[normalize] makes values that {dtype} cannot hold")
        on_device = self.normalization("aipp") if "aipp" in self.tables else None
        if on_device is not None and not on_device.fits("float32"):
            raise self.error("[aipp] makes values that float32 cannot hold")
        return normalization, on_device


def _shown(value: Any) -> str:
    """A value of the file as error messages show it, in at most 60 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a deep list
        return "…"
    return text if len(text) <= 60 else text[:59] + "…"


def _path(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key


def _one_of(*known: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in known:
            hint = nearest(value, list(known)) if isinstance(value, str) else ""
            raise ValueError(f"one of {', '.join(known)}{hint}")
        return str(value)

    return check


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text that is not empty")
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(minimum: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not _is_int(value) or value < minimum:
            raise ValueError(f"a whole number, {minimum} or more")
        return int(value)

    return check


MAX_SIDE = 16384


def _side(value: Any) -> Size:
    if not _is_int(value) or not 1 <= value <= MAX_SIDE:
        raise ValueError(f"a whole number of pixels, 1 to {MAX_SIDE}")
    return (value, value)


def _size(value: Any) -> Size:
    if isinstance(value, list) and len(value) == 2:
        return (_side(value[0])[0], _side(value[1])[0])
    if isinstance(value, list):
        raise ValueError("a side, or [height, width]")
    return _side(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("numbers")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("finite numbers")
    return number


def _floats3(value: Any) -> Floats3:
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError("three numbers, for R, G and B")
    return (_number(value[0]), _number(value[1]), _number(value[2]))


def _pixel3(value: Any) -> Floats3:
    values = _floats3(value)
    if any(x != int(x) or not 0 <= x <= 255 for x in values):
        raise ValueError("three whole numbers, 0 to 255, for R, G and B")
    return values


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _positive3(value: Any) -> Floats3:
    values = _floats3(value)
    if min(values) <= 0:
        raise ValueError("three numbers above 0, for R, G and B")
    return values


def _once_or_twice(
    check: Callable[[Any], Floats3],
) -> Callable[[Any], tuple[Floats3, Floats3]]:
    """Three numbers; or two such lists, which are used one after the other."""
    neutral = NO_MEAN if check is _floats3 else NO_STD

    def check_both(value: Any) -> tuple[Floats3, Floats3]:
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], list):
            return check(value[0]), check(value[1])
        return check(value), neutral

    return check_both


def _scale(value: Any) -> str | float:
    if isinstance(value, str):
        return _one_of(*DIVISORS)(value)
    number = _number(value)
    if not 0 < number <= 1:
        raise ValueError(f"one of {', '.join(DIVISORS)}, or a number above 0 and at most 1")
    return number


def _percent(value: Any) -> float:
    number = _number(value)
    if not 0 <= number <= 100:
        raise ValueError("a percentage, 0 to 100")
    return number
