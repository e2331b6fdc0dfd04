"""Text from outside, parsed: TOML and JSON. Whatever is wrong with the text is one ValueError."""

from __future__ import annotations

import json
import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises ValueError with the reason in words."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("arrays or tables are nested too deeply") from None


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError with the reason in words."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("arrays or objects are nested too deeply") from None
