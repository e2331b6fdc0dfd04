"""Lets torchvision be imported where its compiled operators cannot be loaded."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# Keeps each torch.library.Library alive: it removes its operators when it is freed.
_libraries: list[Any] = []


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
