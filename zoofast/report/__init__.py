"""Reports as one HTML file each, without scripts and without network.

A command gives its results as ReportData: blocks of numbers and text without layout.
`render` draws them. The page also holds them as JSON, in the element with id "figures".
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
from zoofast.report.page import render
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
]
