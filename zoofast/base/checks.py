"""Checks of options that a caller gives: each raises ValueError with the option's name."""

from __future__ import annotations

from collections.abc import Collection

ON_ERROR = ("skip", "stop")  # what a run does at an image that fails


def check_least(lowest: int, **options: int | None) -> None:
    """Raises ValueError for an option below `lowest`; None stands for a default."""
    for name, value in options.items():
        if value is not None and value < lowest:
            raise ValueError(f"{name} must be at least {lowest}, not {value}")


def check_one_of(known: Collection[str], **options: str) -> None:
    """Raises ValueError for an option that is none of the `known` values."""
    for name, value in options.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
