"""Runs a zoofast command from the command line of a guide's script; see tools/guides/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import NoReturn

from zoofast.cli import main


def run(
    command: str, *arguments: str, choices: Mapping[str, Mapping[str, str]] | None = None
) -> NoReturn:
    """Parses sys.argv as the guide's script does, runs the zoofast `command`, exits with its code.

    command: the words after `zoofast`, separated by blanks. `{argument}` in a word stands for
        the value of that argument, without the dashes of an option's name.
    arguments: the script's arguments in order: `name` is positional, `--name` a required option,
        and `--name=default` an optional one.
    choices: for an argument that takes only certain values, what each becomes in the command.
    """
    parser = argparse.ArgumentParser(description=f"Runs zoofast {command}")
    for argument in arguments:
        name, has_default, default = argument.partition("=")
        allowed = (choices or {}).get(name)
        if has_default:
            parser.add_argument(name, default=default, help="default: %(default)s")
        elif name.startswith("--"):
            parser.add_argument(name, required=True)
        else:
            parser.add_argument(name, choices=allowed)
    values = vars(parser.parse_args())
    for name, replacements in (choices or {}).items():
        values[name] = replacements[values[name]]
    sys.exit(main([word.format(**values) for word in command.split()]))
