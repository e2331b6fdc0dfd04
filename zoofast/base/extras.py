"""Optional packages: the error for a missing one says how to install it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zoofast.errors import ModelError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turns a failed import in the block into a ModelError.

    extra: the name in pyproject.toml's optional-dependencies that installs the package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModelError(
            f"Python package {error.name!r} is missing: pip install 'zoofast[{extra}]'"
        ) from error
