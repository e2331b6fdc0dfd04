"""ModelZoo's guides by name: each guide's recipe, and its model's data.

guides.toml holds the data; its head explains the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from zoofast.base.parsing import parse_toml
from zoofast.preprocess.bins import PLAIN, Packing
from zoofast.preprocess.recipe import Floats3, Size

TASKS = ("classification", "detection", "face", "text")


@dataclass(frozen=True)
class Guide:
    """One guide. Sizes are (height, width) in pixels."""

    name: str  # as --recipe takes it
    path: str  # the guide's folder below ACL_PyTorch
    recipe: str | None  # the recipe of the same pixels; None where `missing` says why there is none
    missing: str
    input: str | None  # name of the ONNX's input
    output: str | None  # name of the ONNX's output, where not the recipe's
    size: Size | None  # of the ONNX's input; None where it takes no pictures
    classes: int | None
    answers: str  # what the output holds, where it does not hold a logit for each class
    label_offset: int
    top1: float | None  # percent
    top5: float | None
    rates: Mapping[str, tuple[int, float]]  # chip -> (batch size, images/s)
    aipp: tuple[Floats3, Floats3] | None  # (mean, std) for values 0-255, where not the recipe's
    source: str = ""  # what the guide reads in place of images
    packing: Packing = PLAIN  # what the guide puts into bins, and how it names them
    side_file: str = ""  # that the guide writes beside the bins
    side_line: str = ""  # for each bin; see bins.side_file
    note: str = ""  # what zoofast does otherwise than the guide
    task: str = TASKS[0]  # one of TASKS


@cache
def guides() -> dict[str, Guide]:
    """All guides by name, in alphabetical order."""
    text = resources.files("zoofast.preprocess").joinpath("guides.toml").read_text("utf-8")
    return {name: _guide(name, table) for name, table in parse_toml(text).items()}


def _guide(name: str, table: dict[str, Any]) -> Guide:
    size, aipp = table.get("size"), table.get("aipp")
    return Guide(
        name=name,
        path=table["path"],
        recipe=table.get("recipe"),
        missing=table.get("missing", ""),
        input=table.get("input"),
        output=table.get("output"),
        size=None if size is None else (size, size) if isinstance(size, int) else tuple(size),
        classes=table.get("classes"),
        answers=table.get("answers", ""),
        label_offset=table.get("label_offset", 0),
        top1=table.get("top1"),
        top5=table.get("top5"),
        rates={chip: (rate[0], float(rate[1])) for chip, rate in table.get("rates", {}).items()},
        aipp=None if aipp is None else (tuple(aipp["mean"]), tuple(aipp["std"])),
        source=table.get("source", ""),
        packing=Packing(
            table.get("images", 1),
            table.get("fill", "zero"),
            table.get("bins", PLAIN.names),
            table.get("mirror", False),
        ),
        side_file=table.get("side_file", ""),
        side_line=table.get("side_line", ""),
        note=table.get("note", ""),
        task=table.get("task", TASKS[0]),
    )
