"""A Recipe as the tables of a recipe file, and as TOML; the inverse of recipe_file."""

from __future__ import annotations

import json
from typing import Any

from zoofast.preprocess.recipe import NO_MEAN, NO_STD, Floats3, Normalization, Recipe, Size


def tables_of(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The recipe's keys by table, as docs/recipes.md explains them; "" is the top of the file.

    What has its default or no effect is left out.
    """
    tables: dict[str, dict[str, Any]] = {"": {"name": recipe.name}}
    if recipe.summary:
        tables[""]["summary"] = recipe.summary
    if recipe.decoder != "pillow":
        tables["image"] = {"decoder": recipe.decoder}
    tables["resize"] = {"mode": recipe.resize}
    if recipe.resize != "none":
        side = recipe.resize_size[0]
        size = _size(recipe.resize_size) if recipe.resize in ("exact", "fit") else side
        tables["resize"] |= {"size": size, "filter": recipe.filter}
        if recipe.resize_rounding != "down":
            tables["resize"]["rounding"] = recipe.resize_rounding
    if recipe.crop is not None:
        tables["crop"] = {"size": _size(recipe.crop), "rounding": recipe.crop_rounding}
    if recipe.pad is not None:
        tables["pad"] = {
            "size": _size(recipe.pad),
            "position": recipe.pad_position,
            "value": list(recipe.pad_value),
            "stage": recipe.pad_stage,
        }
    tables["tensor"] = {
        "dtype": recipe.dtype,
        "layout": recipe.layout,
        "channels": recipe.channels,
    }
    if recipe.crop is None and recipe.pad is None and recipe.resize != "exact":
        tables["tensor"]["size"] = _size(recipe.size)
    if not recipe.normalization.is_identity:
        tables["normalize"] = _normalization(recipe.normalization)
    if recipe.on_device is not None:
        tables["aipp"] = _normalization(recipe.on_device)
    tables["model"] = {"input": recipe.input_name, "output": recipe.output_name}
    if recipe.input_size != recipe.size:
        tables["model"]["size"] = _size(recipe.input_size)
    if recipe.classes is not None:
        tables["model"]["classes"] = recipe.classes
    if recipe.label_offset:
        tables["model"]["label_offset"] = recipe.label_offset
    for key, value in (("top1", recipe.top1), ("top5", recipe.top5)):
        if value is not None:
            tables["model"][key] = value
    return tables


def to_toml(recipe: Recipe) -> str:
    """The text of a recipe file that gives the same recipe."""
    blocks = []
    for table, values in tables_of(recipe).items():
        head = [f"[{table}]"] if table else []
        blocks.append("\n".join([*head, *(f"{k} = {_value(v)}" for k, v in values.items())]))
    return "\n\n".join(blocks) + "\n"


def _normalization(normalization: Normalization) -> dict[str, Any]:
    table: dict[str, Any] = {
        "scale": normalization.scale,
        "mean": _once_or_twice(normalization.mean, normalization.second_mean, NO_MEAN),
        "std": _once_or_twice(normalization.std, normalization.second_std, NO_STD),
    }
    if normalization.precision != "float32":
        table["precision"] = normalization.precision
    if normalization.reciprocal:
        table["reciprocal"] = True
    return table


def _once_or_twice(first: Floats3, second: Floats3, neutral: Floats3) -> list[Any]:
    return list(first) if second == neutral else [list(first), list(second)]


def _size(size: Size) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


def _value(value: Any) -> str:
    """A text, a number, or a list, in TOML."""
    if isinstance(value, str):
        # TOML's escapes are JSON's, but for the pairs of surrogates that JSON has for U+1F600.
        # A name's bytes that are no UTF-8 are lone surrogates, which TOML has not at all.
        text = value.encode("utf-8", "replace").decode()
        return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)  # of numbers and lists of numbers, as in TOML
