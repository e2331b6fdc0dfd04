"""ReportData as one HTML file. Its content security policy forbids scripts and network."""

from __future__ import annotations

import json
from typing import Any

import jinja2
from markupsafe import Markup

from zoofast.report import charts
from zoofast.report.data import Cell, ReportData, as_json


def cell_text(value: Cell, digits: int) -> str:
    """A cell as the page shows it. digits: of a number, after the decimal point."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:,.{digits}f}"


def _figure(value: Cell, digits: int, path: str) -> Markup:
    """A cell as HTML. A number has its full value, and its path in the JSON, as attributes."""
    if value is None or isinstance(value, str):
        return Markup.escape(cell_text(value, digits))
    full = json.dumps(as_json(value))
    return Markup('<data value="{}" data-path="{}">{}</data>').format(
        full, path, cell_text(value, digits)
    )


def _chart(chart: charts.Chart, path: str) -> tuple[Markup, Markup]:
    # Matplotlib has escaped the text in its SVG.
    wide, narrow = charts.draw(chart, path)
    return Markup(wide), Markup(narrow)


def _kind(block: Any) -> str:
    return type(block).__name__.lower()


def render(report: ReportData) -> str:
    """The page as HTML, to be written as UTF-8."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zoofast.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(figure=_figure, chart=_chart, kind=_kind)
    template = environment.get_template("page.html.jinja")
    page = template.render(report=report, figures=as_json(report))
    # A file name that is not UTF-8 holds lone surrogates; the page shows them as \\udcff.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")
