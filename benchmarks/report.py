"""How the benchmarks show and keep their results: tables, Markdown, JSON, marked blocks."""

from __future__ import annotations

import argparse
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
from zoofast.base.files import write_atomic

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
    """How busy the machine is with other work."""
    return f"load average before the run {os.getloadavg()[0]:.1f}"


def conditions(load: str) -> str:
    """The machine, its load and the date. load: from `load_note`, before the run."""
    return f"{machine()}; {load}; {today()}"


def today() -> str:
    return datetime.date.today().isoformat()


def publish(
    args: argparse.Namespace,
    name: str,
    tables: dict[str, Table],
    about: str,
    figures: dict[str, Any],
    notes: Sequence[str] = (),
) -> None:
    """Prints the tables, by title, and what they are about; writes --json and, with --write, the
    block `name` of RESULTS.md. notes: sentences below the tables."""
    for title, table in tables.items():
        table.show(title)
    for text in (*notes, about):
        print(text)
    if args.json:
        content = {"benchmark": name, "about": about, **figures}
        write_atomic(args.json, (json.dumps(content, indent=1) + "\n").encode())
    if args.write:
        blocks = [f"{about}.", *(table.markdown() for table in tables.values()), *notes]
        replace_block(RESULTS, name, "\n\n".join(blocks))


def replace_block(path: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` in a file.

    Raises BenchmarkError when the file or a marker is missing.
    """
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    if not path.exists():
        raise BenchmarkError(f"{path} does not exist; create it with the lines {begin} and {end}")
    before, begin_found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, end_found, after = rest.partition(end)
    if not begin_found or not end_found:
        raise BenchmarkError(f"{path} lacks the lines {begin} and {end}; add them")
    write_atomic(path, f"{before}{begin}\n{text.strip()}\n{end}{after}".encode())
