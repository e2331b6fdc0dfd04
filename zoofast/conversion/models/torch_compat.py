"""Builds networks of old packages under a current torch."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoofast.base.extras import needs
from zoofast.base.text import first_line
from zoofast.base.torchvision_operators import define_missing_operators
from zoofast.errors import ModelError, ZoofastError

if TYPE_CHECKING:
    import torch


@contextmanager
def _faults(path: str) -> Iterator[None]:
    """Turns what the code of others raises into a ModelError that names the factory."""
    try:
        yield
    except (MemoryError, ZoofastError):
        raise
    except Exception as error:
        raise ModelError(
            f"factory {path!r}: {type(error).__name__}: {first_line(error)}"
        ) from error


def factory(path: str) -> Callable[..., torch.nn.Module]:
    """The function at `package.module:function`.

    Raises ModelError when the text has another form, a package is missing (with the cure), the
    module cannot be imported, or it has no such function.
    """
    module_name, colon, function_name = path.partition(":")
    if not (module_name and colon and function_name):
        raise ModelError(f"factory {path!r}: not of the form package.module:function")
    with _faults(path), needs("torch"):
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

    `seed` is of the random generator that draws the network's weights. Raises ModelError, also
    for what the factory raises.
    """
    make = factory(path)
    import torch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), _faults(path):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = make(**arguments)
    if not isinstance(model, torch.nn.Module):
        raise ModelError(f"factory {path!r} made a {type(model).__name__}, not a torch.nn.Module")
    # Without gradients, tracing keeps no activations: 0.9 GB less memory for NASNet.
    return model.eval().requires_grad_(False)
