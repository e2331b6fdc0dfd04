"""Builds networks of old packages under a current torch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoofast.base.extras import needs
from zoofast.errors import ModelError

if TYPE_CHECKING:
    import torch

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


def factory(path: str) -> Callable[..., torch.nn.Module]:
    """The function at `package.module:function`.

    Raises ModelError when the text has another form, a package is missing (with the cure), or
    the module has no such function.
    """
    module_name, colon, function_name = path.partition(":")
    if not (module_name and colon and function_name):
        raise ModelError(f"factory {path!r}: not of the form package.module:function")
    with needs("torch"):
        import torch  # noqa: F401

        define_missing_operators()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside packages without a maintainer
            module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelError(f"factory {path!r}: module {module_name} has no function {function_name}")
    factory_function: Callable[..., torch.nn.Module] = function
    return factory_function


def build(path: str, arguments: Mapping[str, Any], seed: int) -> torch.nn.Module:
    """The network that the factory at `path` builds, in evaluation mode and without gradients.

    `seed` is of the random generator that draws the network's weights. Raises ModelError.
    """
    make = factory(path)
    import torch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = make(**arguments)
    if not isinstance(model, torch.nn.Module):
        raise ModelError(f"factory {path!r} made a {type(model).__name__}, not a torch.nn.Module")
    # Without gradients, tracing keeps no activations: 0.9 GB less memory for NASNet.
    return model.eval().requires_grad_(False)
