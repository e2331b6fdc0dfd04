"""JSON in pieces is json.dumps's text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from zoofast.base.json_text import json_pieces
from zoofast.base.sequences import Strings

NAMES = ["a", "", 'quote " and \\', "line\nbreak", "日本", "\udcff", "\x00"]


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        [1, {"a": [2]}],
        None,
        "text",
        {"a": {"b": [1, {"c": "x\ny"}], "e": {}}, "é": [], "f": 1.5, "g": [[], [None, True]]},
    ],
    ids=str,
)
def test_the_text_is_that_of_json(content: Any) -> None:
    assert "".join(json_pieces(content)) == json.dumps(content, indent=1) + "\n"


@pytest.mark.parametrize("count", [0, 1, len(NAMES), 100])
def test_strings_become_an_array(count: int) -> None:
    names = [NAMES[i % len(NAMES)] for i in range(count)]
    content = {"before": {"x": names}, "names": Strings(names), "behind": 1}
    text = "".join(json_pieces(content))
    assert text == json.dumps({**content, "names": names}, indent=1) + "\n"
    assert json.loads(text)["names"] == names
