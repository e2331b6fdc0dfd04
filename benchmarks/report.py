"""How the benchmarks show and keep their results: rich tables, Markdown, JSON, marked blocks."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import ROOT, BenchmarkError
from rich.console import Console
from rich.table import Table as RichTable

from zoofast.base.cpus import cpu_name, usable_cpus

RESULTS = ROOT / "benchmarks" / "RESULTS.md"
README = ROOT / "README.md"


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the first column is left-aligned, the others right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def show(self, title: str) -> None:
        """Prints it."""
        table = RichTable(title=title, title_justify="left")
        for i, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*row)
        console = Console()
        Console(width=max(console.width, 120)).print(table)

    def markdown(self) -> str:
        heading, *lines = ["| " + " | ".join(line) + " |" for line in (self.headings, *self.rows)]
        rule = "|---|" + "---:|" * (len(self.headings) - 1)
        return "\n".join([heading, rule, *lines])


def machine() -> str:
    """The CPU and system, in a line."""
    return (
        f"{cpu_name()} ({platform.machine()}), {usable_cpus()} of {os.cpu_count()} CPUs usable, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def load_note() -> str:
    """How busy the machine is beside us, in words."""
    return f"load average before the run {os.getloadavg()[0]:.1f}"


def today() -> str:
    return datetime.date.today().isoformat()


def write_json(path: str, results: dict[str, Any]) -> None:
    try:
        Path(path).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"cannot write {path}: {error.strerror}") from error


def replace_block(path: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` in a file.

    Raises BenchmarkError when the file or the markers are not there.
    """
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    if not path.exists():
        raise BenchmarkError(f"{path} does not exist; create it with the lines {begin} and {end}")
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise BenchmarkError(f"{path} lacks the lines {begin} and {end}; add them where it belongs")
    path.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", encoding="utf-8")
