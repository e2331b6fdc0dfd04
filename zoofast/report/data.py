"""The content of a report, without layout. Numbers are in their unit, and not rounded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime, timezone
from typing import Any

Number = int | float
Cell = int | float | str | None


@dataclass(frozen=True)
class Figure:
    """A headline figure. digits: of a number, after the decimal point; text is shown as it is."""

    label: str
    value: Cell
    unit: str = ""
    digits: int = 0
    note: str = ""


@dataclass(frozen=True)
class Figures:
    """A row of headline figures."""

    figures: Sequence[Figure]


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text."""

    paragraphs: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Names and values, such as the environment. code: values are shown as code, to be copied."""

    facts: Mapping[str, str]
    title: str = ""
    code: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table. unit: shown in the head. digits: of numbers, after the decimal point."""

    name: str
    unit: str = ""
    digits: int = 0


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """One bar per label, in this order from the top."""

    title: str
    labels: Sequence[str]
    values: Sequence[Number]
    unit: str = ""
    digits: int = 0
    note: str = ""


@dataclass(frozen=True)
class Stacks:
    """Stacked bars, one per row: row -> part -> value. Parts of one name have one colour on the
    whole page."""

    title: str
    rows: Mapping[str, Mapping[str, Number]]
    unit: str = ""
    digits: int = 0
    note: str = ""


@dataclass(frozen=True)
class Series:
    """A named line; x increases."""

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    dashed: bool = False


@dataclass(frozen=True)
class Lines:
    """Series over a common x. log_x: a logarithmic x axis with ticks at the x of the points. marks:
    draws the points, not only the line."""

    title: str
    series: Sequence[Series]
    x_label: str
    y_label: str
    log_x: bool = False
    marks: bool = True
    digits: int = 0
    note: str = ""


@dataclass(frozen=True)
class Strip:
    """An interval of a timeline: `part`, whose name gives the colour, from start to end."""

    row: str
    part: str
    begin: float
    end: float


@dataclass(frozen=True)
class Strips:
    """A timeline: rows of coloured intervals, such as threads and their stages."""

    title: str
    strips: Sequence[Strip]
    unit: str = "ms"
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An image with its label and its prediction. uri: a data: URI (see `thumbnail`), None where
    there is no image to show."""

    uri: str | None
    name: str
    truth: str
    predicted: str
    confidence: float | None = None  # of the prediction, percent


@dataclass(frozen=True)
class Pictures:
    """A gallery of wrongly classified images."""

    title: str
    pictures: Sequence[Picture]
    note: str = ""


@dataclass(frozen=True)
class Pair:
    """Images of class `truth` that were predicted as `predicted`: how many, and some of them."""

    truth: str
    predicted: str
    images: int
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Pairs:
    """Pairs of classes that the model confuses."""

    title: str
    pairs: Sequence[Pair]
    note: str = ""


Block = Figures | Text | Facts | Table | Bars | Stacks | Lines | Strips | Pictures | Pairs


@dataclass(frozen=True)
class Section:
    """A part of the page with a title."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class ReportData:
    """A page. summary: the result in sentences, the most important first. date: and time, UTC."""

    title: str
    subtitle: str
    figures: Sequence[Figure]
    summary: Sequence[str]
    sections: Sequence[Section] = field(default_factory=list)
    date: str = field(default_factory=lambda: f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC")


def as_json(value: Any) -> Any:
    """The report as dicts, lists and numbers. Each block has its "kind"; a picture has no uri.

    NaN and infinities, which JSON does not have, become null.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind = {} if isinstance(value, ReportData) else {"kind": type(value).__name__.lower()}
        values = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "uri"}
        return kind | {name: as_json(part) for name, part in values.items()}
    if isinstance(value, Mapping):
        return {str(name): as_json(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_json(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
