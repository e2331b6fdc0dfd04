"""Text from outside, parsed: TOML and JSON. Whatever is wrong with the text is one ValueError."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 256 << 20  # of a text file from outside; ImageNet's labels have 2 MB


def read_limited(path: Path | str, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a file. Raises OSError, and ValueError for a file of more than `max_bytes`."""
    with Path(path).open("rb") as file:
        # a pipe has no size; it is read up to the limit
        nbytes = os.fstat(file.fileno()).st_size
        data = b"" if nbytes > max_bytes else file.read(max_bytes + 1)
    if max(nbytes, len(data)) > max_bytes:
        raise ValueError(f"is larger than {max_bytes >> 20} MiB")
    return data


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
