"""Text for people."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count and its noun: "1 thread", "2,000 threads". plural: where it is not the noun and s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def percent(share: float, digits: int = 0) -> str:
    """A share, of which 1 is all: "50 %" for 0.5. digits: after the decimal point."""
    return f"{100 * share:.{digits}f} %"


def quoted(text: str) -> str:
    """What a user gave, as messages show it: at most 40 characters in quotes."""
    return repr(text if len(text) <= 40 else text[:40] + "…")


def listed(names: Sequence[str], limit: int) -> str:
    """The first names with commas between them, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more:,} more" if more > 0 else "")


def shown(text: str) -> str:
    """`text` in one line that a terminal cannot take for commands.

    Names of files may hold line breaks, escape sequences, marks that reverse the direction of
    text, and bytes that are not UTF-8. Each such character becomes an escape, such as \\x1b.
    """
    if text.isprintable():
        return text
    return "".join(c if _harmless(c) else escaped(c) for c in text)


def _harmless(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # spaces


def escaped(character: str) -> str:
    """A character as ASCII; a byte of a file name that is not UTF-8 as the byte."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte, as os.fsdecode gives it
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; its type's name where it has no message."""
    return next(iter(str(error).splitlines()), type(error).__name__)
