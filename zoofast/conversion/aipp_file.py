"""Compares the AIPP file that ATC reads with the recipe: both have to make the same input."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from zoofast.base.files import read_file
from zoofast.conversion.aipp import Aipp
from zoofast.errors import ModelError
from zoofast.preprocess.recipe import Recipe, Size

MAX_BYTES = 1_000_000  # of a file; usual ones have less than 10 KB
TOLERANCE = 2.0**-10  # the step of float16, in which AIPP computes, as a share of a number
SWITCHES = ("rbuv_swap_switch", "csc_switch", "padding")  # a recipe's tensor needs none of them
TRUE, FALSE = ("true", "True", "t", "1"), ("false", "False", "f", "0")  # in protobuf's text format
RGB_FORMAT = {"3": "RGB888_U8"}  # ATC also takes the number of the input format

_MESSAGE = re.compile(r"\s*aipp_op\s*:?\s*\{([^{}]*)\}\s*")
_FIELD = re.compile(r'\s*(\w+)\s*:\s*("[^"]*"|[^\s,;:]+)\s*[,;]?\s*', re.ASCII)


def check(path: Path, recipe: Recipe) -> None:
    """Checks that AIPP, configured by the file, makes the network's input as the recipe does.

    The recipe's tensor may be the one of 8-bit pixels that `zoofast aipp` announces. A file of
    dynamic AIPP fits every recipe: the values are set when the model runs.

    Raises ModelError for a file that cannot be read or that makes another input; RecipeError for
    a recipe whose input AIPP cannot make.
    """
    aipp = Aipp.from_recipe(recipe.with_output("uint8", "NHWC"))
    expected = _settings(_parse(aipp.text()), aipp.size)
    try:
        fields = _parse(read_file(path, MAX_BYTES).decode())
        if fields.get("aipp_mode") == "dynamic":
            return
        given = _settings(fields, aipp.size)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not an AIPP file: it is not UTF-8") from error
    except ValueError as error:
        raise ModelError(f"{path}: not an AIPP file: {error}") from error
    differences = [
        f"{name} is {_shown(given[name])}, not {_shown(expected[name])}"
        for name in expected
        if not _is_same(given[name], expected[name])
    ]
    if differences:
        raise ModelError(
            f"{path}: makes another input than the recipe {recipe.name}: {'; '.join(differences)}; "
            f"`zoofast aipp {recipe.name}` writes the file of the recipe"
        )


def _parse(text: str) -> dict[str, str]:
    """The fields of a file by key, as texts. Raises ValueError."""
    message = _MESSAGE.fullmatch(re.sub(r"#[^\n]*", "", text))
    if message is None:
        raise ValueError("it is not one aipp_op { … } for the one input of a classifier")
    body, position = message[1].strip(), 0
    fields: dict[str, str] = {}
    while position < len(body):
        field = _FIELD.match(body, position)
        if field is None:
            line = body[position:].splitlines()[0].strip()
            raise ValueError(f"{line[:80]!r} is not of the form key : value")
        if field[1] in fields:
            raise ValueError(f"{field[1]} is given twice")
        fields[field[1]] = field[2]
        position = field.end()
    return fields


def _settings(fields: Mapping[str, str], model: Size) -> dict[str, str | int | float]:
    """All that decides on the network's input, by names for messages; with ATC's defaults.

    model: (height, width) of the network's input in pixels. Raises ValueError.
    """

    def switch(key: str) -> bool:
        value = fields.get(key, FALSE[0])
        if value not in TRUE + FALSE:
            raise ValueError(f"{key} is {value!r}, not true or false")
        return value in TRUE

    def whole(key: str) -> int:
        try:
            return int(fields.get(key, 0))
        except ValueError:
            raise ValueError(f"{key} is {fields[key]!r}, not a whole number") from None

    def real(key: str, default: float) -> float:
        try:
            return float(fields.get(key, default))
        except ValueError:
            raise ValueError(f"{key} is {fields[key]!r}, not a number") from None

    format_name = fields.get("input_format", "missing")
    settings: dict[str, str | int | float] = {
        "input_format": RGB_FORMAT.get(format_name, format_name),
        "related_input_rank": whole("related_input_rank"),
    }
    for key in SWITCHES:
        settings[key] = str(switch(key)).lower()
    is_cropped = switch("crop")
    for side, pixels in zip("hw", model, strict=True):
        source = whole(f"src_image_size_{side}") or pixels
        settings[f"src_image_size_{side}"] = source
        settings[f"load_start_pos_{side}"] = whole(f"load_start_pos_{side}") if is_cropped else 0
        settings[f"crop_size_{side}"] = whole(f"crop_size_{side}") if is_cropped else source
    for c in range(3):
        mean = whole(f"mean_chn_{c}") + real(f"min_chn_{c}", 0.0)
        settings[f"mean_chn_{c} + min_chn_{c}"] = mean
        settings[f"var_reci_chn_{c}"] = real(f"var_reci_chn_{c}", 1.0)
    return settings


def _is_same(given: str | int | float, expected: str | int | float) -> bool:
    if isinstance(given, float) and isinstance(expected, float):
        return math.isclose(given, expected, rel_tol=TOLERANCE)
    return given == expected


def _shown(value: str | int | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
