"""`zoofast doctor`: shows what this machine has, and what it lacks."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zoofast.commands.console import working
from zoofast.doctor import examine

STYLES = {"ok": "green", "missing": "yellow", "broken": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--disk",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="measure the disk of this folder [.]",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Exits with 1 when something is broken. Something missing is no error: not all need it."""
    with working("examining this machine"):
        findings = list(examine(args.disk))
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for finding in findings:
            detail = Text(finding.detail)
            if finding.cure:
                detail.append(f"\ncure: {finding.cure}", style="bold")
            state = Text(finding.state, style=STYLES[finding.state])
            table.add_row(Text(finding.name), state, detail)
        Console().print(table)
    return int(any(finding.state == "broken" for finding in findings))
