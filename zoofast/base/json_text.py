"""JSON that is written and read in pieces: millions of names become neither one text nor a list."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from zoofast.base.files import MAX_TEXT_BYTES, opened, too_large
from zoofast.base.sequences import Strings

PIECE_BYTES = 1 << 20  # that are read at once
MAX_VALUE_BYTES = 256_000_000  # about; of one value that is no array of texts
_SPACE = re.compile(r"[ \t\n\r]*")
# Texts, each with the comma behind it. What stands between the quotes is left to json.
_TEXTS = re.compile(r'(?:[ \t\n\r]*"[^"\\]*(?:\\.[^"\\]*)*"[ \t\n\r]*,)+')
_BEHIND_VALUE = frozenset(" \t\n\r,:]}")
_DECODER = json.JSONDecoder()


def json_pieces(content: Any) -> Iterator[str]:
    """`content` as JSON in pieces: the text of json.dumps(content, indent=1) and a line break.

    The values of an object may be Strings, which become arrays. They are written text by text.
    """
    if isinstance(content, dict):
        before = "{"
        for key, value in content.items():
            yield f"{before}\n {json.dumps(key)}: "
            if isinstance(value, Strings):
                yield from _array_pieces(value)
            else:
                yield json.dumps(value, indent=1).replace("\n", "\n ")
            before = ","
        yield "\n}\n" if content else "{}\n"
    else:
        yield json.dumps(content, indent=1) + "\n"


def _array_pieces(texts: Strings) -> Iterator[str]:
    before = "["
    for text in texts:
        yield f"{before}\n  {json.dumps(text)}"
        before = ","
    yield "\n ]" if texts else "[]"


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in a file of JSON in UTF-8, as json.loads gives it; but a value of the object that
    is an array of texts becomes Strings.

    Raises OSError for a file that cannot be read, is not regular or is too large; ValueError with
    the reason in words.
    """
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_TEXT_BYTES:
            raise too_large(path, MAX_TEXT_BYTES)
        return _Reader(file).content()


class _Reader:
    """Reads JSON of which only a part is in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at = "", 0  # the part, and what is read of it
        self._before = 0  # characters before the part
        self._is_last = False  # nothing comes behind the part

    def content(self) -> dict[str, Any]:
        """The object that is all of the text."""
        content: dict[str, Any] = {}
        self._skip("{")
        while self._next() != "}":
            if content:
                self._skip(",")
            key = self._value()
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r:.40} is no text")
            self._skip(":")
            content[key] = self._array() if self._next() == "[" else self._value()
        self._skip("}")
        if self._next():
            raise ValueError(f"more stands behind the object, at character {self._place()}")
        return content

    def _array(self) -> Strings | list[Any]:
        """An array. One without values is a list."""
        values: Strings | list[Any] = Strings()
        self._next()
        begin = self._before + self._at
        self._skip("[")
        while self._next() != "]":
            if len(values):
                self._skip(",")
            for text in self._texts():
                values.append(text)
            value = self._value()
            if isinstance(values, Strings) and not isinstance(value, str):
                values = list(values)
            values.append(value)
            if isinstance(values, list) and self._before + self._at - begin > MAX_VALUE_BYTES:
                raise ValueError(f"the value at character {begin:,} is too long")
        self._skip("]")
        return values if len(values) else []

    def _texts(self) -> list[str]:
        """The next texts of an array that are in memory, if a comma follows each."""
        match = _TEXTS.match(self._text, self._at)
        if match is None:
            return []
        try:
            texts: list[str] = json.loads(f"[{match[0][:-1]}]")
        except json.JSONDecodeError as error:
            place = self._before + self._at + error.pos - 1
            raise ValueError(f"{error.msg} at character {place:,}") from None
        self._at = match.end()
        return texts

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # The value may go on behind the part.
                if not self._is_last:
                    self._read_on()
                    continue
                place = self._before + error.pos
                raise ValueError(f"{error.msg} at character {place:,}") from None
            except RecursionError:
                raise ValueError("arrays or objects are nested too deeply") from None
            # A number may go on behind the part: "12." is read as 12 so far.
            if self._is_last or self._text[end : end + 1] in _BEHIND_VALUE:
                self._at = end
                return value
            self._read_on()

    def _next(self) -> str:
        """The next character that is no white space, which is not read yet; "" at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text) or self._is_last:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def _skip(self, character: str) -> None:
        if self._next() != character:
            raise ValueError(f"{character!r} is missing at character {self._place()}")
        self._at += 1

    def _place(self) -> str:
        return f"{self._before + self._at:,}"

    def _read_on(self) -> None:
        """Gets more of the text, twice as much as before where one value goes on."""
        left = self._text[self._at :]
        if len(left) > MAX_VALUE_BYTES:
            raise ValueError(f"the value at character {self._place()} is too long")
        self._before += self._at
        data = self._file.read(max(PIECE_BYTES, len(left)))
        self._is_last = not data
        self._text, self._at = left + self._decoder.decode(data, not data), 0
