"""ReportData as one HTML file: no scripts, no network, by its own content security policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from zoofast.base.files import write_atomic
from zoofast.report import charts
from zoofast.report.data import Cell, ReportData, as_json


def shown(value: Cell, digits: int) -> str:
    """A cell as the page shows it."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:,.{digits}f}"


def _figure(value: Cell, digits: int, at: str) -> Markup:
    """A cell as HTML. A number carries its full value, and where it stands in the JSON."""
    if value is None or isinstance(value, str):
        return Markup.escape(shown(value, digits))
    full = json.dumps(as_json(value))
    return Markup('<data value="{}" data-at="{}">{}</data>').format(full, at, shown(value, digits))


def _chart(chart: charts.Chart, at: str) -> tuple[Markup, Markup]:
    # Matplotlib has escaped the text in its SVG
    wide, narrow = charts.draw(chart, at)
    return Markup(wide), Markup(narrow)


def _kind(block: Any) -> str:
    return type(block).__name__.lower()


def render(report: ReportData) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zoofast.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(figure=_figure, chart=_chart, kind=_kind)
    template = environment.get_template("page.html.jinja")
    return template.render(report=report, figures=as_json(report))


def write_report(path: Path | str, report: ReportData) -> None:
    """Writes the page whole or not at all. Raises OutputError."""
    # names that are no Unicode hold lone surrogates: shown as \\udcff
    write_atomic(path, render(report).encode("utf-8", "backslashreplace"))
