"""Text for people."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count and its noun: "1 thread", "2,000 threads". plural: where it is not the noun and s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; its type's name where it has no message."""
    return next(iter(str(error).splitlines()), type(error).__name__)
