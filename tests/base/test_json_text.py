"""JSON in pieces is json.dumps's text, and is read as json.loads reads it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from zoofast.base import json_text
from zoofast.base.json_text import json_pieces, read_json
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


# ---- reading -------------------------------------------------------------------

CONTENTS: list[dict[str, Any]] = [
    {},
    {"": 0},
    {"names": NAMES, "n": 12.5e-3, "none": None, "yes": [True], "behind": "x"},
    {"names": [*NAMES, 7, *NAMES, {"a": [1]}], "empty": [], "one": ["a"], "nested": [["a"], []]},
    {"object": {str(i): NAMES for i in range(30)}, "numbers": list(range(3000)), "last": -1},
    {
        "names": [f"image{i:03d}" for i in range(500)],
        "quoted": ['\\"', "\\\\", ',"', "]", "[", "}"],
    },
]


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """With lists in place of Strings."""
    return {
        key: list(value) if isinstance(value, Strings) else value for key, value in content.items()
    }


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("style", [{}, {"indent": 1}, {"separators": (",", ":")}, {"indent": "\t"}])
@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: str(content)[:20])
def test_what_is_read_is_that_of_json(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: dict[str, Any],
    style: dict[str, Any],
    piece: int,
) -> None:
    monkeypatch.setattr(json_text, "PIECE_BYTES", piece)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content, **style) + "\n")
    read = read_json(path)
    assert plain(read) == content and list(read) == list(content)
    for key, value in content.items():
        is_texts = isinstance(value, list) and value and all(isinstance(v, str) for v in value)
        assert isinstance(read[key], Strings) == bool(is_texts)
    for mark, encoding in (("", "utf-8"), ("\ufeff", "utf-8")):
        text = json.dumps(plain_text(content), ensure_ascii=False)
        path.write_text(mark + text, encoding=encoding)
        assert plain(read_json(path)) == json.loads(text)


def plain_text(value: Any) -> Any:
    """Without what UTF-8 cannot encode."""
    return json.loads(json.dumps(value).replace("\\udcff", "\\u20ac"))


@pytest.mark.parametrize("piece", [3, 1 << 20])
def test_what_json_refuses_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """Texts of which a part was taken away, added or changed."""
    monkeypatch.setattr(json_text, "PIECE_BYTES", piece)
    path, chance = tmp_path / "x.json", random.Random(1)
    whole = json.dumps({"names": ["a", 'b"', "c\\"], "n": [1, -2.5e3], "o": {"k": None}, "e": []})
    refused = 0
    for _ in range(3000):
        at = chance.randrange(len(whole))
        text = (
            whole[:at]
            + chance.choice(["", *'{}[]",:\\ 1ae\n\0'])
            + whole[at + chance.randrange(3) :]
        )
        path.write_text(text)
        try:
            expected = json.loads(text)
        except ValueError:
            refused += 1
            with pytest.raises(ValueError) as caught:
                read_json(path)
            assert "\n" not in str(caught.value)
        else:
            assert plain(read_json(path)) == expected
    assert 500 < refused < 2900


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "'{' is missing at character 0"),
        (b"[]", "'{' is missing at character 0"),
        (b'{"a": 1} 2', "more stands behind the object, at character 9"),
        (b'{"a" 1}', "':' is missing at character 5"),
        (b"{1: 2}", "the key 1 is no text"),
        (b'{"a": x}', "Expecting value at character 6"),
        (b'{"a": "\xff"}', "invalid start byte"),
        (b'{"a": ["x", "\\q", "y"]}', r"Invalid \\escape at character 12|escape.* at character 1"),
        (b'{"a": "\xe2\x82', "unexpected end of data"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": {"b":' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_the_reason_is_told(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(ValueError, match=words):
        read_json(tmp_path / "x.json")


def test_a_value_or_a_file_that_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    monkeypatch.setattr(json_text, "PIECE_BYTES", 100)
    monkeypatch.setattr(json_text, "MAX_VALUE_BYTES", 1000)
    path.write_text(json.dumps({"a": ["x" * 900] * 9}))
    assert len(read_json(path)["a"]) == 9
    path.write_text(json.dumps({"a": "x" * 5000}))
    with pytest.raises(ValueError, match="the value at character 6 is too long"):
        read_json(path)
    for value in (["x" * 900] * 9 + [0], list(range(1000))):
        path.write_text(json.dumps({"a": value}))
        with pytest.raises(ValueError, match="the value at character 6 is too long"):
            read_json(path)
    monkeypatch.setattr(json_text, "MAX_TEXT_BYTES", 1000)
    with pytest.raises(OSError, match="larger than 1,000 bytes"):
        read_json(path)
