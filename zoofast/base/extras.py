"""Optional packages: the error for a missing or broken one says how to install it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zoofast.errors import ModelError, ZoofastError


@contextmanager
def needs(extra: str, error_type: type[ZoofastError] = ModelError) -> Iterator[None]:
    """Turns a failed import in the block into an error of `error_type`.

    extra: the name in pyproject.toml's optional-dependencies that installs the package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise error_type(
            f"Python package {package!r} is missing: pip install 'zoofast[{extra}]'"
        ) from error
    except ImportError as error:  # its compiled part lacks a library, or another package is too old
        package = (error.name or "").partition(".")[0]
        what, cure = f"Python package {package!r}", f"install it anew: {reinstall(package)}"
        if not package:
            what, cure = f"a Python package of 'zoofast[{extra}]'", "`zoofast doctor` shows which"
        reason = str(error).partition("\n")[0]
        raise error_type(f"{what} cannot be imported: {reason}; {cure}") from error


def reinstall(package: str) -> str:
    """The cure of a package that is installed and cannot be imported."""
    return f"pip install --force-reinstall {package}"
