"""`zoofast doctor`: shows what this machine has, and what it lacks."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from zoofast.commands.shared.arguments import add_json_instead
from zoofast.commands.shared.console import STDOUT, Table, stacked, styled, working, write_json
from zoofast.doctor import examine

STYLES = {"ok": "green", "missing": "yellow", "broken": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--disk",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="measure the disk of this folder (default: .)",
    )
    add_json_instead(parser, "the findings")


def run(args: argparse.Namespace) -> int:
    """Exits with 1 when something is broken. Something missing is no error: not all need it."""
    with working("examining this machine"):
        findings = list(examine(args.disk))
    if args.json is not None:
        write_json(args.json, [asdict(finding) for finding in findings])
    if args.json is not STDOUT:
        table = Table("", "", "", words=3, frame=False)
        for finding in findings:
            cure = [styled(f"cure: {finding.cure}", "bold")] if finding.cure else []
            state = styled(finding.state, STYLES[finding.state])
            table.add(finding.name, state, stacked(finding.detail, *cure))
        table.print()
    return int(any(finding.state == "broken" for finding in findings))
