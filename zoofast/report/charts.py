"""Charts as SVG text inside the page, drawn by Matplotlib.

Colours are CSS variables, so that the page's light, dark and print styles apply. Every chart is
drawn for wide and for narrow screens: text that shrinks with a chart is too small on a phone.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator, NullLocator

from zoofast.report.data import Bars, Lines, Stacks, Strips
from zoofast.timing.timeline import STAGES

Chart = Bars | Lines | Stacks | Strips
WIDE, NARROW = 7.2, 3.4  # inches; 1/100 inch is a CSS pixel of the page
# Matplotlib takes #0000nn for a colour; `_inline_svg` turns it into var(--c-nn), which page.css
# defines.
INK, MUTED, GRID, PAPER = "#000001", "#000002", "#000003", "#000004"
SERIES = [f"#0000{16 + i:02x}" for i in range(len(STAGES))]  # one for each stage
STAGE_COLOURS = dict(zip(STAGES, SERIES, strict=True)) | {"idle": GRID}
STYLE: dict[str, Any] = {
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a name with $ is not a formula
    "axes.facecolor": "none",
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
}


def draw(chart: Chart, key: str) -> tuple[str, str]:
    """The chart as SVG for wide and for narrow screens. key: differs for every chart of a page."""
    return _svg(chart, WIDE, f"{key}-wide"), _svg(chart, NARROW, f"{key}-narrow")


def colour(part: str, parts: Sequence[str]) -> str:
    """The colour of a stage; of another name, by its index in `parts`."""
    return STAGE_COLOURS.get(part) or SERIES[list(parts).index(part) % len(SERIES)]


def _svg(chart: Chart, width: float, salt: str) -> str:
    style: Any = {**STYLE, "svg.hashsalt": salt}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # The fonts of the page draw the text; Matplotlib's only measure it, and lack glyphs.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = DRAWING[type(chart)](chart, width)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _inline_svg(out.getvalue())


def _inline_svg(svg: str) -> str:
    """The svg element without prologue, metadata, style sheet and unused ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"[\"(]#([^\")]+)[\")]", svg))

    def clean(match: re.Match[str]) -> str:  # of a tag; the text between tags is not changed
        tag = re.sub(r"#0000([0-9a-f]{2})\b", r"var(--c-\1)", match[0])
        tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
        return re.sub(r' id="([^"]*)"', lambda id: id[0] if id[1] in used else "", tag)

    head, rest = re.sub(r"<[^<>]*>", clean, svg).split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None
    return (
        f'<svg {view_box[0]} xmlns:xlink="http://www.w3.org/1999/xlink" aria-hidden="true">{rest}'
    )


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02)
    figure = Figure(figsize=(width, height), layout=layout)
    return figure, figure.add_subplot()


def _chart_height(rows: int, extra: float) -> float:
    return extra + 0.27 * rows


def _bars(chart: Bars, width: float) -> Figure:
    figure, axes = _figure(width, _chart_height(len(chart.labels), 0.15))
    positions = range(len(chart.labels))
    axes.barh(positions, chart.values, height=0.62, color=SERIES[0])
    axes.set_yticks(positions, [short_label(label, width) for label in chart.labels])
    axes.invert_yaxis()
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    largest = max(chart.values, default=0) or 1
    for position, value in zip(positions, chart.values, strict=True):
        text = f"{value:,.{chart.digits}f}"
        axes.text(value + largest * 0.012, position, text, va="center", color=INK)
    axes.set_xlim(0, largest * (1.22 if width == WIDE else 1.5))
    return figure


def _stacks(chart: Stacks, width: float) -> Figure:
    parts = _ordered(part for row in chart.rows.values() for part in row)
    legend_rows = _legend_rows([legend_label(part, width) for part in parts], width)
    figure, axes = _figure(width, _chart_height(len(chart.rows), 0.5 + 0.22 * legend_rows))
    positions = range(len(chart.rows))
    left = [0.0] * len(chart.rows)
    for part in parts:
        values = [float(row.get(part, 0)) for row in chart.rows.values()]
        label, shade = legend_label(part, width), colour(part, parts)
        axes.barh(positions, values, left=left, height=0.62, color=shade, label=label)
        left = [begin + value for begin, value in zip(left, values, strict=True)]
    axes.set_yticks(positions, [short_label(name, width) for name in chart.rows])
    axes.invert_yaxis()
    axes.set_xlim(0, max(left, default=1) or 1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
    axes.set_xlabel(short_label(chart.unit, width))
    _legend(figure, axes, width)
    return figure


def short_label(text: str, width: float) -> str:
    """A label cut so that the chart has space; a character that cannot be printed is a dot. The
    tables of the page have the whole text."""
    return _cut(text, 30 if width == WIDE else 14)


def legend_label(text: str, width: float) -> str:
    """As `short_label`, for the legend, which has more space."""
    return _cut(text, 40 if width == WIDE else 26)


def _cut(text: str, limit: int) -> str:
    printable = "".join(c if c.isprintable() else "·" for c in text)
    return printable if len(printable) <= limit else printable[: limit - 1] + "…"


def _ordered(parts: Iterable[str]) -> list[str]:
    """Each part once: stages in their order, then other parts in order of appearance."""
    each = dict.fromkeys(parts)
    return sorted(each, key=lambda part: STAGES.index(part) if part in STAGES else len(STAGES))


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """How many columns the legend has: as few as its number of rows allows, so that the rows are
    of about equal length. Each column is as wide as the longest label."""
    longest = max(map(len, labels), default=0)
    fitting = max(1, min(len(labels), int(width / (0.075 * longest + 0.35))))
    rows = -(-len(labels) // fitting)
    return -(-len(labels) // max(rows, 1)) or 1


def _legend_rows(labels: Sequence[str], width: float) -> int:
    return -(-len(labels) // _legend_columns(labels, width))


def _legend(figure: Figure, axes: Axes, width: float) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = _legend_columns(labels, width)
    # Matplotlib fills column by column, people read row by row.
    order = [i for column in range(columns) for i in range(column, len(labels), columns)]
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside upper left",
        ncols=columns,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.2,
        handletextpad=0.4,
        borderpad=0,
    )


def _lines(chart: Lines, width: float) -> Figure:
    names = [legend_label(series.name, width) for series in chart.series]
    figure, axes = _figure(width, 2.3 + 0.2 * _legend_rows(names, width))
    for i, series in enumerate(chart.series):
        shade = MUTED if series.dashed else SERIES[i % len(SERIES)]
        axes.plot(
            series.x,
            series.y,
            label=legend_label(series.name, width),
            color=shade,
            linewidth=1.3 if series.dashed else 1.8,
            linestyle=(0, (4, 3)) if series.dashed else "-",
            # one point makes no line, so it needs a marker
            marker="o" if len(series.x) == 1 or (chart.marks and not series.dashed) else None,
            markersize=4.5,
            clip_on=False,
        )
    axes.set_ylim(0, None)
    if chart.log_x:
        ticks = sorted({x for series in chart.series for x in series.x})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, max((x for series in chart.series for x in series.x), default=1) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(8 if width == WIDE else 5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:,.10g}")
    axes.grid(axis="y")
    axes.set_xlabel(short_label(chart.x_label, width))
    if len(chart.series) > 1:
        _legend(figure, axes, width)
    return figure


def _strips(chart: Strips, width: float) -> Figure:
    rows = list(dict.fromkeys(strip.row for strip in chart.strips))
    parts = _ordered(strip.part for strip in chart.strips)
    legend_rows = _legend_rows([legend_label(part, width) for part in parts], width)
    figure, axes = _figure(width, _chart_height(len(rows), 0.5 + 0.22 * legend_rows))
    position = {row: i for i, row in enumerate(rows)}
    for part in parts:
        boxes: list[Path] = []
        for strip in chart.strips:
            if strip.part == part:
                low, high = position[strip.row] - 0.36, position[strip.row] + 0.36
                x0, x1 = strip.begin, strip.end
                corners = [(x0, low), (x1, low), (x1, high), (x0, high), (x0, low)]
                boxes.append(Path(corners, closed=True))
        shade, label = colour(part, parts), legend_label(part, width)
        # One element for all boxes of a part takes a third of the bytes of one element per box.
        all_boxes = Path.make_compound_path(*boxes)
        axes.add_patch(PathPatch(all_boxes, facecolor=shade, linewidth=0, label=label))
    axes.set_yticks(range(len(rows)), [short_label(row, width) for row in rows])
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.7)  # the legend is above
    axes.set_xlim(0, max((strip.end for strip in chart.strips), default=1))
    axes.xaxis.set_major_locator(MaxNLocator(8 if width == WIDE else 5))
    axes.set_xlabel(short_label(chart.unit, width))
    _legend(figure, axes, width)
    return figure


DRAWING: dict[type, Callable[[Any, float], Figure]] = {
    Bars: _bars,
    Stacks: _stacks,
    Lines: _lines,
    Strips: _strips,
}
