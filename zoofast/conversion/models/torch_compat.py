"""Builds networks of old packages under a current torch: the one place that knows how."""

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
_held_libraries: list[Any] = []  # a torch.library.Library undefines its operators when it is freed


def define_missing_operators() -> None:
    """Lets `import torchvision` succeed where its compiled operators do not load.

    torchvision describes the shapes of its operators `nms` and `qnms` to torch at import. A build
    made for CUDA next to a CPU torch has not registered them, and the import dies. The
    classifiers use neither, so a bare declaration is enough; where the real ones load, they
    came first and nothing is declared.
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
            continue  # built for another torch or for CUDA: what the declarations below are for
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            declared.define(name + _SCHEMA)
    _held_libraries.append(declared)


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
            warnings.simplefilter("ignore")  # deprecations inside packages nobody maintains
            module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelError(f"factory {path!r}: module {module_name} has no function {function_name}")
    made: Callable[..., torch.nn.Module] = function
    return made


def build(path: str, arguments: Mapping[str, Any], seed: int) -> torch.nn.Module:
    """The network that the factory at `path` makes, its random weights drawn with `seed`.

    It is in evaluation mode and keeps no gradients. Raises ModelError.
    """
    make = factory(path)
    import torch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = make(**arguments)
    if not isinstance(model, torch.nn.Module):
        raise ModelError(f"factory {path!r} made a {type(model).__name__}, not a torch.nn.Module")
    # Without gradients tracing keeps no activations: 0.9 GB less for NASNet.
    return model.eval().requires_grad_(False)
