"""`zoofast cache`: what --cache DIR holds."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from zoofast.base.text import counted
from zoofast.commands.shared import arguments, console
from zoofast.errors import OutputError
from zoofast.preprocess.pixel_file import Listed, check_pixels, clear_pixels, list_pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        command = actions.add_parser(name, help=help, description=help)
        command.add_argument("folder", type=Path, metavar="DIR", help="the folder of --cache")
        return command

    listed = action("list", "list the geometries, and how many images each has")
    arguments.add_json_instead(listed, "the list")
    verify = action("verify", "read all pixels and check them; exit code 1 if anything is damaged")
    verify.add_argument(
        "--quiet", action="store_true", help="no progress; print only what is damaged"
    )
    clear = action("clear", "remove the pixels of all geometries, or of those that are named")
    clear.add_argument(
        "geometries", nargs="*", metavar="GEOMETRY", help="as `zoofast cache list` names it"
    )


def run(args: argparse.Namespace) -> int:
    actions = {"list": _list, "verify": _verify, "clear": _clear}
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    geometries = list_pixels(args.folder)
    if args.json is not None:
        console.write_json(args.json, [asdict(each) for each in geometries])
    if args.json is console.STDOUT:
        return 0
    if not geometries:
        console.warn(f"{args.folder}: no pixels are kept here")
        return 0
    headings = ("geometry", "what it is", "used last", "images", "MB")
    table = console.Table(*headings, title=str(args.folder), words=3)
    for each in geometries:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used))
        megabytes = f"{each.nbytes / 1e6:,.1f}"
        table.add(each.digest, _in_words(each), day, f"{each.images:,}", megabytes)
    table.print()
    return 0


def _in_words(listed: Listed) -> str:
    geometry = listed.geometry
    if geometry is None:
        return "unknown: the head of its index is damaged"
    height, width = geometry["size"]
    resize, side, filter, pillow = (
        geometry.get(key) for key in ("resize", "resize_size", "filter", "pillow")
    )
    side = "×".join(map(str, dict.fromkeys(side))) if isinstance(side, list) else side
    return f"{resize} {side}, {filter}, {height}×{width}; Pillow {pillow}"


def _verify(args: argparse.Namespace) -> int:
    geometries = list_pixels(args.folder)
    intact = damaged = 0
    has_problem = False
    with console.progress("verify", sum(each.images for each in geometries), args.quiet) as meter:
        for each in geometries:
            checked = check_pixels(args.folder, each.digest, meter.advance)
            intact, damaged = intact + checked.intact, damaged + checked.damaged
            if checked.problem is not None:
                has_problem = True
                console.warn(f"{each.digest}: {checked.problem}")
            if checked.damaged:
                console.warn(f"{each.digest}: {counted(checked.damaged, 'image')} damaged")
    if damaged or has_problem:
        console.warn("damaged pixels reach no tensor; the next run with --cache stores them anew")
    if not args.quiet:
        console.say(f"{counted(intact, 'image')} intact, {damaged:,} damaged")
    return 1 if damaged or has_problem else 0


def _clear(args: argparse.Namespace) -> int:
    geometries = {each.digest: each for each in list_pixels(args.folder)}
    for digest in args.geometries:
        if digest not in geometries:
            raise OutputError(f"{args.folder}: has no geometry {digest}; see zoofast cache list")
    removed = list(dict.fromkeys(args.geometries)) or list(geometries)
    for digest in removed:
        clear_pixels(args.folder, digest)
    nbytes = sum(geometries[digest].nbytes for digest in removed)
    images = sum(geometries[digest].images for digest in removed)
    console.say(f"removed the pixels of {counted(images, 'image')}, {nbytes / 1e6:,.1f} MB")
    return 0
