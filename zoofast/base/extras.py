"""Optional packages: the error for a missing or broken one says how to install it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoofast.errors import ModelError, ZoofastError

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# Keeps each torch.library.Library alive: it removes its operators when it is freed.
_libraries: list[Any] = []


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


def define_missing_operators() -> None:
    """Makes `import torchvision` work where its compiled operators cannot be loaded.

    At import, torchvision describes its operators `nms` and `qnms` to torch. Where a torchvision
    for CUDA meets a torch for CPUs, the operators are not registered, and the import fails. The
    classifiers do not use the operators, so declaring them is enough. Where the compiled
    operators load, they are loaded first and nothing is declared.
    """
    import torch

    if "torchvision" in sys.modules:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for library in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue  # built for another torch or for CUDA
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            declared.define(name + _SCHEMA)
    _libraries.append(declared)
