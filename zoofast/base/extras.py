"""Packages that only some commands need: a missing one is an error that names the cure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zoofast.errors import ModelError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports of optional packages; turns a missing one into a ModelError.

    `extra` is the name in pyproject.toml's optional-dependencies that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModelError(
            f"Python package {error.name!r} is missing: pip install 'zoofast[{extra}]'"
        ) from error
