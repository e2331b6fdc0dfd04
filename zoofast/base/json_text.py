"""JSON that is written in pieces: millions of names do not become one text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from zoofast.base.sequences import Strings


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
