"""What a report says: plain values, no layout. Figures are numbers in their unit, unrounded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

Number = int | float
Cell = int | float | str | None


@dataclass(frozen=True)
class Figure:
    """A headline figure. digits: shown after the point; text values stand as they are."""

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
    """Names and values, such as the environment. `code`: values are to be copied literally."""

    facts: Mapping[str, str]
    title: str = ""
    code: bool = False


@dataclass(frozen=True)
class Column:
    """A table's column. digits: of its numbers, which are then aligned; unit stands in its head."""

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
    """One bar per label, in their order, from the top."""

    title: str
    labels: Sequence[str]
    values: Sequence[Number]
    unit: str = ""
    digits: int = 0
    note: str = ""


@dataclass(frozen=True)
class Stacks:
    """One bar per row, of parts that add up: row -> part -> value. Parts of one name share a
    colour, the same one on the whole page."""

    title: str
    rows: Mapping[str, Mapping[str, Number]]
    unit: str = ""
    digits: int = 0
    note: str = ""


@dataclass(frozen=True)
class Series:
    """A named line; x rises."""

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    dashed: bool = False


@dataclass(frozen=True)
class Lines:
    """Series over a common x. log_x: ticks at the series' own x values, evenly spread by ratio.
    marks: points are drawn; else only the line."""

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
    """A piece of a strip chart: `part` (its name gives the colour) from begin to end."""

    row: str
    part: str
    begin: float
    end: float


@dataclass(frozen=True)
class Strips:
    """Rows of coloured pieces over time, such as threads and their stages."""

    title: str
    strips: Sequence[Strip]
    unit: str = "ms"
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An image with what is said of it. uri: a data: URI (see `thumbnail`), None if there is no
    picture to show."""

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
    """Pairs of classes that are confused."""

    title: str
    pairs: Sequence[Pair]
    note: str = ""


Block = Figures | Text | Facts | Table | Bars | Stacks | Lines | Strips | Pictures | Pairs


@dataclass(frozen=True)
class Section:
    """A headed part of the page."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class ReportData:
    """A whole page. summary: the answer, in sentences, the most important first."""

    title: str
    subtitle: str
    figures: Sequence[Figure]
    summary: Sequence[str]
    sections: Sequence[Section] = field(default_factory=list)


def as_json(value: Any) -> Any:
    """The report as dicts, lists and numbers, each block with its "kind"; pictures by name only.

    Numbers that JSON lacks (NaN, infinities) become null.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind = {} if isinstance(value, ReportData) else {"kind": type(value).__name__.lower()}
        shown = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "uri"}
        return kind | {name: as_json(part) for name, part in shown.items()}
    if isinstance(value, Mapping):
        return {str(name): as_json(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_json(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
