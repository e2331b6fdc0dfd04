"""Recipes: how a model wants its images, as data.

A recipe is a TOML file; the five guides' lie in `zoofast/preprocess/recipes/`, and a user's own
works the same way. The README there explains every key.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from zoofast import _core
from zoofast.base.parsing import parse_toml
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
            order=resize_order(),
            crop=self.crop or (0, 0),
            crop_truncates=self.crop_rounding == "truncate",
            out_size=self.size,
            nhwc=self.layout == "NHWC",
            channel_at=[self.channels.index(c) for c in "RGB"],
            table=self.normalization.table().astype(self.dtype),
        )


def resize_order() -> str:
    """Which pass the installed Pillow's resize makes first, as a key of _core.ORDERS.

    Pillow 12.2 and 13.0 each changed it. Most pictures are not affected; those that shrink more
    in height than in width, such as tall ones, differ in the last bit.
    """
    release = tuple(int(part) for part in PIL.__version__.split(".")[:2])
    return "across" if release < (12, 2) else "tall" if release < (13, 0) else "shrink"


def names() -> list[str]:
    """The recipes that come with the package, sorted."""
    files = resources.files("zoofast.preprocess.recipes").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load(name: str) -> Recipe:
    """A recipe by name, or from a file when `name` ends in `.toml`.

    Raises RecipeError: an unknown name, an unreadable file, or a key that is missing, unknown or
    out of range (it names the key and the nearest valid one).
    """
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"cannot read recipe {name}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise RecipeError(f"cannot read recipe {name}: not UTF-8 text") from error
        return parse(text, name)
    if name not in names():
        raise RecipeError(
            f"unknown recipe {name!r}{_nearest(name, names())}; known: {', '.join(names())}, "
            "or the path of a .toml file"
        )
    text = (
        resources.files("zoofast.preprocess.recipes")
        .joinpath(f"{name}.toml")
        .read_text(encoding="utf-8")
    )
    return parse(text, f"{name}.toml")


def parse(text: str, where: str) -> Recipe:
    """A recipe from TOML text; `where` names it in error messages."""
    try:
        values = parse_toml(text)
    except ValueError as error:
        raise RecipeError(f"{where}: not TOML: {error}") from error
    return _Reader(values, where).recipe()


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


# Every key of the format. The second part says whether it may be left out.
_TABLES: dict[str, dict[str, bool]] = {
    "": {"name": False, "summary": True},
    "resize": {"mode": False, "size": True, "filter": True},
    "crop": {"size": False, "rounding": False},
    "tensor": {"dtype": False, "layout": False, "channels": True, "size": True},
    "normalize": {"scale": False, "mean": True, "std": True},
    "aipp": {"scale": False, "mean": True, "std": True},
    "model": {
        "input": False,
        "output": False,
        "size": True,
        "classes": False,
        "label_offset": True,
        "top1": True,
        "top5": True,
    },
}
_OPTIONAL_TABLES = ("crop", "normalize", "aipp")


class _Reader:
    """Takes TOML values apart, checking each."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.where = where
        self.tables: dict[str, dict[str, Any]] = {"": {}}
        for key, value in values.items():
            if isinstance(value, dict):
                if key not in _TABLES or key == "":
                    raise self.error(f"unknown table [{key}]{_nearest(key, list(_TABLES)[1:])}")
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
                raise self.error(f"unknown key {_path(table, key)!r}{_nearest(key, list(keys))}")
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
            raise self.error(f"{_path(table, key)} = {value!r}: {error}") from None

    def normalization(self, table: str) -> Normalization:
        return Normalization(
            scale=self.get(table, "scale", "0-255", _one_of("0-1", "0-255")),
            mean=self.get(table, "mean", (0.0, 0.0, 0.0), _floats3),
            std=self.get(table, "std", (1.0, 1.0, 1.0), _positive3),
        )

    def recipe(self) -> Recipe:
        mode = self.get("resize", "mode", None, _one_of("short", "exact", "none"))
        resize_size: Size = (0, 0)
        if mode != "none":
            for key in ("size", "filter"):
                if key not in self.tables["resize"]:
                    raise self.error(f"key 'resize.{key}' is missing (mode is {mode!r})")
            resize_size = self.get("resize", "size", None, _side if mode == "short" else _size)
        elif "size" in self.tables["resize"]:
            raise self.error("key 'resize.size' means nothing when resize.mode is 'none'")
        crop = self.get("crop", "size", None, _size)
        size = crop or (resize_size if mode == "exact" else None)
        given = self.get("tensor", "size", None, _size)
        if size is None and given is None:
            raise self.error(
                "key 'tensor.size' is missing (without a crop or an exact size, the tensor's "
                "size must be said)"
            )
        if size is not None and given is not None and size != given:
            raise self.error(f"tensor.size = {list(given)}, but crop or resize make {list(size)}")
        size = size or given
        assert size is not None
        dtype = self.get("tensor", "dtype", None, _one_of(*DTYPES))
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
        channels = self.get("tensor", "channels", "RGB", _one_of("RGB", "BGR"))
        model_size = self.get("model", "size", size, _size)
        if model_size[0] > size[0] or model_size[1] > size[1]:
            raise self.error(f"model.size {list(model_size)} exceeds the tensor's {list(size)}")
        return Recipe(
            name=self.get("", "name", None, _text),
            summary=self.get("", "summary", "", _text),
            resize=mode,
            resize_size=resize_size,
            filter=self.get("resize", "filter", "bilinear", _one_of(*_core.FILTERS)),
            crop=crop,
            crop_rounding=self.get(
                "crop", "rounding", "half-even", _one_of("half-even", "truncate")
            ),
            size=size,
            dtype=dtype,
            layout=self.get("tensor", "layout", None, _one_of(*LAYOUTS)),
            channels=channels,
            normalization=normalization,
            on_device=on_device,
            input_name=self.get("model", "input", None, _text),
            output_name=self.get("model", "output", None, _text),
            input_size=model_size,
            classes=self.get("model", "classes", None, _count(1)),
            label_offset=self.get("model", "label_offset", 0, _count(0)),
            top1=self.get("model", "top1", None, _percent),
            top5=self.get("model", "top5", None, _percent),
        )


def _path(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key


def _one_of(*known: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in known:
            hint = _nearest(value, list(known)) if isinstance(value, str) else ""
            raise ValueError(f"one of {', '.join(known)}{hint}")
        return str(value)

    return check


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text that is not empty")
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(least: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not _is_int(value) or value < least:
            raise ValueError(f"a whole number from {least}")
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


def _positive3(value: Any) -> Floats3:
    values = _floats3(value)
    if min(values) <= 0:
        raise ValueError("three numbers above 0, for R, G and B")
    return values


def _percent(value: Any) -> float:
    number = _number(value)
    if not 0 <= number <= 100:
        raise ValueError("a percentage, 0 to 100")
    return number
