"""Weights to ONNX: builds the network, loads the weights strictly, exports, proves the result."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.extras import needs
from zoofast.base.files import atomic_output
from zoofast.conversion.agreement import Agreement, compare, demand, run_onnx
from zoofast.conversion.models import KnownModel
from zoofast.conversion.models.torch_compat import build
from zoofast.errors import ModelError
from zoofast.preprocess.recipe_file import load_recipe

if TYPE_CHECKING:
    import torch

OPSET = 11  # what the guides export and every CANN reads
OPSETS = range(9, 21)  # what PyTorch's exporter writes without making weights into inputs
BATCH_AXIS = "-1"  # the guides' name of the dynamic axis
TOLERANCE = 1e-4  # of the largest logit, PyTorch against ONNX Runtime in float32
LISTED_KEYS = 8  # per kind, in the message about weights that do not fit


@dataclass(frozen=True)
class Target:
    """What to export: the factory (`package.module:function`) and the ONNX names and sizes."""

    factory: str
    height: int
    width: int
    input: str = "image"
    output: str = "class"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, known: KnownModel) -> Target:
        recipe = load_recipe(known.recipe)
        height, width = recipe.input_size
        return cls(
            known.factory, height, width, recipe.input_name, recipe.output_name, known.arguments
        )


def build_network(target: Target, weights: Path | None, seed: int = 0) -> torch.nn.Module:
    """The target's network, with the weights of a file, or random ones drawn with `seed`.

    It is in evaluation mode. Raises ModelError.
    """
    network = build(target.factory, target.arguments, seed)
    if weights is None:
        _randomize(network, seed)
    else:
        _load(network, weights)
    return network


def _randomize(network: torch.nn.Module, seed: int) -> None:
    """Draws weights that let an image through to the logits.

    PyTorch's own first weights shrink the signal in every layer; after NASNet's or InceptionV4's
    hundreds nothing but the last bias is left, and any two graphs would seem to agree.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)


def _load(network: torch.nn.Module, path: Path) -> None:
    given = _read_weights(path)
    wanted = network.state_dict()
    # The count of training steps is unused in evaluation; weights from before 2018 have none.
    missing = [key for key in wanted if key not in given and not _is_step_count(key)]
    unexpected = [key for key in given if key not in wanted]
    misshapen = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    faults = [
        f"{len(keys)} {kind}: {', '.join(keys[:LISTED_KEYS])}"
        + (", …" if len(keys) > LISTED_KEYS else "")
        for kind, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
        )
        if keys
    ]
    if faults:
        raise ModelError(f"{path}: weights of another model; keys {'; '.join(faults)}")
    network.load_state_dict(given, strict=False)


def _is_step_count(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, out of its usual wrappings."""
    with needs("torch"):
        import torch
    try:
        path.open("rb").close()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        # Mapped, not read, where the format allows: the tensors are copied once, into the network.
        loaded = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path}: damaged, or not a file of plain weights (torch.load with weights_only=True "
            "refuses it); save model.state_dict() with torch.save"
        ) from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not (
        isinstance(loaded, Mapping)
        and loaded
        and all(isinstance(tensor, torch.Tensor) for tensor in loaded.values())
    ):
        raise ModelError(f"{path}: holds no state_dict (names to tensors), but {_kind(loaded)}")
    prefix = "module."  # what torch.nn.DataParallel puts in front
    if all(key.startswith(prefix) for key in loaded):
        return {key.removeprefix(prefix): tensor for key, tensor in loaded.items()}
    return dict(loaded)


def _kind(loaded: object) -> str:
    if isinstance(loaded, Mapping):
        return f"a dictionary with {', '.join(map(str, list(loaded)[:LISTED_KEYS])) or 'nothing'}"
    return f"a {type(loaded).__name__}"


def export(
    network: torch.nn.Module,
    target: Target,
    out: Path,
    opset: int = OPSET,
    *,
    images: NDArray[np.float32] | None = None,
    tolerance: float = TOLERANCE,
) -> Agreement | None:
    """Writes `network` as ONNX to `out`, batch axis dynamic.

    With `images` (float32 N x 3 x H x W, as the network takes them) PyTorch and ONNX Runtime
    have to agree on them; how well they do is returned. Raises ModelError: no such opset, an
    operator that cannot be exported, or a difference beyond `tolerance` times the largest logit.
    Then an earlier `out` is left as it was.
    """
    if opset not in OPSETS:
        raise ModelError(f"opset {opset}: not one of {OPSETS.start} to {OPSETS.stop - 1}")
    with needs("onnx"):
        import onnx  # noqa: F401 - the exporter wants it, and says so much later
        import torch

    example = torch.zeros(1, 3, target.height, target.width)
    with atomic_output(out) as partial, warnings.catch_warnings():
        # The exporter built on torch.export starts at opset 18; ATC needs the guides' 11.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="Constant folding")
        try:
            torch.onnx.export(
                network,
                (example,),
                str(partial),
                input_names=[target.input],
                output_names=[target.output],
                dynamic_axes={target.input: {0: BATCH_AXIS}, target.output: {0: BATCH_AXIS}},
                opset_version=opset,
                dynamo=False,
            )
        except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            raise ModelError(
                f"{target.factory}: cannot be exported with opset {opset}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        if images is None:
            return None
        agreement = check(network, partial, images)
        demand(agreement, tolerance, f"{out}: the ONNX")
        return agreement


def check(network: torch.nn.Module, onnx_path: Path, images: NDArray[np.float32]) -> Agreement:
    """PyTorch against ONNX Runtime on `images`, float32 N x 3 x H x W as the model takes them."""
    import torch

    with torch.inference_mode():
        # One by one: NASNet's activations of a batch would not fit beside its weights.
        logits = [network(torch.from_numpy(image[None].copy())).numpy() for image in images]
    return compare(np.concatenate(logits), run_onnx(onnx_path, images))
