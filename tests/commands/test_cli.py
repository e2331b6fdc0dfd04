"""What holds for all commands: how their arguments are checked, and how they end."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version

import pytest

from tests.support import in_process, paths
from zoofast import _core
from zoofast.cli import COMMANDS, main
from zoofast.commands.shared import arguments
from zoofast.commands.shared.inference import UNUSED

BAD_NUMBERS = ["-1", "0", "9" * 30, "9" * 5000, "x", "", "1e400", "nan", "-0x1", "²", "1.5.1", "1,"]
# types that are not numbers
PATHS = {
    "file_to_write",
    "regular_file",
    "logits_file",
    "result_file",
    "_json_file",
    "_option",
    "Path",
}


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"zoofast.commands.{command}").add_arguments(parser)
    return parser


def options() -> Iterator[tuple[str, str]]:
    """(command, option) of every option whose text is converted."""
    for command in COMMANDS:
        for action in parser_of(command)._actions:
            if action.type is not None and getattr(action.type, "__name__", "") not in PATHS:
                yield command, action.option_strings[-1]


OPTIONS = list(options())


def test_every_command_has_numbers_among_its_arguments_that_are_checked() -> None:
    assert len(OPTIONS) > 40
    for command in COMMANDS:
        for action in parser_of(command)._actions:
            where = f"{command} {action.dest}: take a type of zoofast.commands.shared.arguments"
            assert action.type not in (int, float), where


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a command and of its own subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from actions_of(below)
        else:
            yield action


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_says_what_each_argument_is(command: str) -> None:
    for action in actions_of(parser_of(command)):
        if action.help is argparse.SUPPRESS:
            continue
        name = action.option_strings[-1] if action.option_strings else action.dest
        assert action.help and not action.help.startswith("default"), name
        takes_a_value = action.nargs != 0
        if takes_a_value and action.choices is None:  # NAME, not the option's own name
            assert action.metavar and not str(action.metavar).islower(), name


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=map(" ".join, OPTIONS))
def test_a_bad_number_is_one_line(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    [action] = [a for a in parser_of(command)._actions if option in a.option_strings]
    assert callable(action.type)
    refused = 0
    for text in BAD_NUMBERS:
        try:
            value = action.type(text)
        except argparse.ArgumentTypeError:
            refused += 1
        else:  # such as 0, where 0 is allowed
            assert value in (-1, 0, [0], "0"), f"{text!r} was taken as {value!r}"
            continue
        with pytest.raises(SystemExit) as ended:
            main([command, f"{option}={text}"])
        assert ended.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1 and err.startswith("zoofast: error: argument "), err
        assert option in err and len(err) < 250
    assert refused >= len(BAD_NUMBERS) - 2


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("1", 1), ("512", 512), ("256M", 2**28), ("3k", 3072), ("2GiB", 2**31), ("1TB", 2**40)],
)
def test_a_size_is_a_number_and_a_unit(text: str, nbytes: int) -> None:
    assert arguments.size(text) == nbytes


@pytest.mark.parametrize("text", ["", "0", "M", "-1", "1.5G", "256 M", "9" * 30, "1P", "٣"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
        arguments.size(text)


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["prepp"])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "'prepp'" in err


def test_an_unknown_option_names_the_help_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["score", "results", "labels.txt", "--outfmt", "TXT"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("--outfmt TXT (see zoofast score --help)\n")


def test_a_part_of_an_options_name_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    """`--labels FILE` would be taken for --labels-from, and the labels would not be read."""
    with pytest.raises(SystemExit) as ended:
        main(["compare", "a.npy", "b.npy", "--labels", "labels.txt"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "zoofast: error: unrecognized arguments: --labels labels.txt (see zoofast compare --help)\n"
    )


def test_labels_of_no_side_file_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prep", "val", "bins", "--recipe", "alexnet", "--labels", "labels.txt"]) == 2
    assert "add --side-file FILE" in capsys.readouterr().err


def test_the_page_lists_what_becomes_of_each_option_of_ais_bench() -> None:
    """docs/npu.md says what the parser does."""
    text = (paths.ROOT / "docs/npu.md").read_text(encoding="utf-8")
    page = text.partition("## ais_bench's options\n")[2].partition("\n## ")[0]
    listed = dict(re.findall(r"^\| `(--\w+)` \| (.+) \|$", page, re.MULTILINE))
    helps = {
        option: action.help
        for action in parser_of("infer")._actions
        for option in action.option_strings
    }
    assert UNUSED.keys() <= listed.keys() <= helps.keys()
    for option in listed:
        assert (helps[option] is argparse.SUPPRESS) == (option in UNUSED), option
    for option, (values, cure) in UNUSED.items():
        only = f"only {', '.join(values)}; else " if values else "no; "
        assert listed[option] == only + cure


def test_the_version_says_what_was_built_and_what_runs() -> None:
    done = in_process.zoofast("--version", ZOOFAST_ISA="scalar")
    compiler = r"(Clang|GCC) \d+\.\d+.*"
    levels = "scalar of " + ", ".join(_core.isa_names())
    assert re.fullmatch(
        rf"zoofast {version('zoofast')} \(a checkout, built by {compiler}, "
        rf"CPU level {levels}, JPEG decoders baseline, progressive and "
        rf"Pillow {version('pillow')}\)\n",
        done.stdout,
    ), done.stdout


def test_the_module_is_the_command() -> None:
    words = [sys.executable, "-m", "zoofast", "recipe"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("zoofast: error: ")
    assert done.stderr == in_process.zoofast("recipe").stderr
