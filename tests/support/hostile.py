"""Texts and values that no reader of outside data may stumble over."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoofast.cli import main

HUGE = "9" * 5000  # int() refuses more than 4,300 digits
DEEP_LIST = "[" * 100_000
DEEP_OBJECT = '{"a":' * 100_000
VALUES = [None, True, -1, 1.5, 1e400, 10**30, "x", HUGE, "", [], {}, [[]], [None], {"a": 1}]
NOT_JSON = ["", "[", "nan", "\x00", DEEP_LIST, DEEP_OBJECT, HUGE, f'{{"image": {HUGE}}}', '"image"']


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of the error."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, ""), (code, shown)
    assert shown.err.startswith("zoofast: error: ")
    assert shown.err.count("\n") == 1
    assert len(shown.err) < 1000, "the error repeats the input"
    return shown.err
