"""Reports that people look at: one HTML file, without scripts and without network.

A command describes what it found as ReportData, blocks of typed figures; `write_report` draws
it. Whatever the page shows is also in it as JSON, under the element id "figures".
"""

from __future__ import annotations

from zoofast.report.data import (
    Bars,
    Block,
    Column,
    Facts,
    Figure,
    Figures,
    Lines,
    Pair,
    Pairs,
    Picture,
    Pictures,
    ReportData,
    Section,
    Series,
    Stacks,
    Strip,
    Strips,
    Table,
    Text,
    as_json,
)
from zoofast.report.page import render, write_report
from zoofast.report.pictures import thumbnail

__all__ = [
    "Bars",
    "Block",
    "Column",
    "Facts",
    "Figure",
    "Figures",
    "Lines",
    "Pair",
    "Pairs",
    "Picture",
    "Pictures",
    "ReportData",
    "Section",
    "Series",
    "Stacks",
    "Strip",
    "Strips",
    "Table",
    "Text",
    "as_json",
    "render",
    "thumbnail",
    "write_report",
]
