"""Weights to ONNX: builds the network, loads the weights, exports, and proves the result."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from zoofast.base.extras import needs
from zoofast.base.text import first_line
from zoofast.conversion import onnxfile
from zoofast.conversion.agreement import Agreement, compare, require_agreement, run_onnx
from zoofast.conversion.models import KnownModel, sources
from zoofast.conversion.models.torch_compat import build
from zoofast.errors import ModelError
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe

if TYPE_CHECKING:
    import torch

OPSET = 11  # what the guides export and every CANN reads
OPSETS = range(9, 21)  # those for which PyTorch's exporter keeps weights out of the inputs
BATCH_AXIS = "-1"  # the guides' name of the dynamic axis
TOLERANCE = 1e-4  # PyTorch against ONNX Runtime in float32, as a share of the largest logit
# Keys of a checkpoint that hold the weights. The first one that does counts.
WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema")
# What torch.nn.DataParallel, torch.compile and Lightning put in front of every key.
PREFIXES = ("module.", "_orig_mod.", "model.")
MAX_LISTED_KEYS = 8  # of each kind, in the message about weights that do not fit


@dataclass(frozen=True)
class ExportTarget:
    """A network to export, and its names and sizes in the ONNX."""

    factory: str  # package.module:function that builds the network
    height: int  # of the input, in pixels
    width: int
    input: str = "image"
    output: str = "class"
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the factory

    @classmethod
    def from_known_model(cls, known: KnownModel, recipe: Recipe | None = None) -> ExportTarget:
        """The network of a known model or a source_model. recipe: its own."""
        recipe = recipe or load_recipe(known.recipe)
        height, width = recipe.input_size
        return cls(
            known.factory, height, width, recipe.input_name, recipe.output_name, known.arguments
        )


def build_network(target: ExportTarget, weights: Path | None, seed: int = 0) -> torch.nn.Module:
    """The target's network in evaluation mode.

    weights: a file of weights, or a folder of Hugging Face that holds them; None draws random
        weights with `seed`.

    Raises ModelError.
    """
    if weights is not None and target.factory == sources.HF_FACTORY:
        loaded = None if weights.is_dir() else _without_prefixes(read_weights(weights), ())
        return sources.hf_trained(target.arguments["name"], loaded)
    network = build(target.factory, target.arguments, seed)
    if weights is None:
        _randomize(network, seed)
    else:
        _load_weights(network, weights)
    return network


def _randomize(network: torch.nn.Module, seed: int) -> None:
    """Draws weights with which the logits depend on the image.

    PyTorch's default weights shrink the signal in every layer. After the hundreds of layers of
    NASNet or InceptionV4 the logits would equal the last bias, and any two graphs would agree.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)


def _load_weights(network: torch.nn.Module, path: Path) -> None:
    """Loads the file's weights; ModelError lists the keys that the network lacks or needs."""
    expected = network.state_dict()
    loaded = _without_prefixes(read_weights(path), expected)
    # Evaluation does not use the count of training steps; weights from before 2018 lack it.
    missing = [key for key in expected if key not in loaded and not _is_step_count(key)]
    unexpected = [key for key in loaded if key not in expected]
    misshapen = [
        f"{key} {tuple(loaded[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in loaded and loaded[key].shape != expected[key].shape
    ]
    mistyped = [
        f"{key} {loaded[key].dtype} instead of {expected[key].dtype}"
        for key in expected
        if key in loaded
        and expected[key].is_floating_point()
        and not loaded[key].is_floating_point()
    ]
    faults = [
        f"{len(keys)} {kind}: {', '.join(keys[:MAX_LISTED_KEYS])}"
        + (", …" if len(keys) > MAX_LISTED_KEYS else "")
        for kind, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
            ("of another type", mistyped),
        )
        if keys
    ]
    if faults:
        raise ModelError(
            f"{path}: weights of another model; keys {'; '.join(faults)}"
            + _prefix_to_remove(loaded, expected)
        )
    network.load_state_dict(loaded, strict=False)


def nan_weights(network: torch.nn.Module) -> list[str]:
    """The names of the network's parameters and buffers that have NaN."""
    return [
        name
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point() and bool(tensor.isnan().any())
    ]


def _is_step_count(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _without_prefixes(
    loaded: dict[str, torch.Tensor], expected: Collection[str]
) -> dict[str, torch.Tensor]:
    """The weights without those PREFIXES that each of their keys has and no expected key has."""
    foreign = [p for p in PREFIXES if not any(key.startswith(p) for key in expected)]

    def common() -> str | None:
        return next((p for p in foreign if all(key.startswith(p) for key in loaded)), None)

    while loaded and (prefix := common()):
        loaded = {key.removeprefix(prefix): tensor for key, tensor in loaded.items()}
    return loaded


def _prefix_to_remove(loaded: Collection[str], expected: Collection[str]) -> str:
    """The cure for weights that fit but for what stands in front of every key; else nothing."""
    needed = {key for key in expected if not _is_step_count(key)}
    some_key = next(iter(needed), "")
    for prefix in {key.removesuffix(some_key) for key in loaded if key.endswith(f".{some_key}")}:
        without = {key.removeprefix(prefix) for key in loaded if key.startswith(prefix)}
        if len(without) == len(loaded) and needed <= without <= set(expected):
            return f"; every key begins with {prefix!r}: save the weights with keys without it"
    return ""


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name: of a state_dict, alone or in a checkpoint, or of a
    .safetensors file.

    Each tensor is dense, real and in memory. Raises ModelError for anything else.
    """
    with needs("torch"):
        import torch  # noqa: F401
    try:
        path.open("rb").close()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    for key, tensor in weights.items():
        fault = _fault(tensor)
        if fault:
            raise ModelError(
                f"{path}: the tensor {key} is {fault}; save a dense tensor of real numbers"
            )
    return weights


def _fault(tensor: torch.Tensor) -> str | None:
    """Why a tensor cannot be a weight of a network; None if it can."""
    import torch

    faults = {
        "without values (of the device meta)": tensor.is_meta,
        "quantized": tensor.is_quantized,
        "nested": tensor.is_nested,
        "sparse": tensor.layout != torch.strided,
        "complex": tensor.is_complex(),
    }
    return next((fault for fault, is_so in faults.items() if is_so), None)


def _read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a file of torch.save."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats
            # Map the file where its format allows: the tensors are copied once, into the network.
            loaded = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except MemoryError:
        raise
    except Exception as error:  # PyTorch's reader raises many types on damaged files
        raise ModelError(
            f"{path}: damaged, or not a file of plain weights (torch.load with weights_only=True "
            "refuses it); save model.state_dict() with torch.save"
        ) from error
    wrapped = [loaded.get(key) for key in WRAPPERS] if isinstance(loaded, Mapping) else []
    for weights in (*wrapped, loaded):
        if _is_state_dict(weights):
            return dict(weights)
    raise ModelError(f"{path}: holds no state_dict (names to tensors), but {_describe(loaded)}")


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, torch.Tensor]]:
    import torch

    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) for key in value)
        and all(isinstance(tensor, torch.Tensor) for tensor in value.values())
    )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with needs("safetensors"):
        import safetensors
        from safetensors.torch import load_file
    try:
        loaded: dict[str, torch.Tensor] = load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path}: damaged, or not a safetensors file: {first_line(error)}"
        ) from error
    return loaded


def _describe(loaded: object) -> str:
    if isinstance(loaded, Mapping):
        others = [key for key in loaded if not isinstance(key, str)]
        if others:
            return f"a dictionary with the key {others[0]!r}, which is no text"
        keys = ", ".join(list(loaded)[:MAX_LISTED_KEYS])
        return f"a dictionary with {keys or 'nothing'}"
    return f"a {type(loaded).__name__}"


def export(
    network: torch.nn.Module,
    target: ExportTarget,
    out: Path,
    opset: int = OPSET,
    *,
    batch: int | None = None,
    images: NDArray[np.float32] | None = None,
    tolerance: float = TOLERANCE,
    report_step: Callable[[str], None] = lambda step: None,
) -> Agreement | None:
    """Writes `network` as ONNX to `out`.

    batch: the images of a batch; None makes the batch axis dynamic.
    images: float32 (N, 3, H, W), the network's input. With images, PyTorch and ONNX Runtime
        compute their logits, which must differ by at most `tolerance` times the largest logit;
        their Agreement is returned.
    report_step: is called with "comparing" when the export is done and the comparison begins.

    Raises ModelError for an unknown opset, an operator that cannot be exported, or logits that
    differ more. Then an earlier `out` is as it was before.
    """
    if opset not in OPSETS:
        raise ModelError(f"opset {opset}: not one of {OPSETS.start} to {OPSETS.stop - 1}")
    if not target.input or not target.output or target.input == target.output:
        raise ModelError(
            f"input {target.input!r} and output {target.output!r} of the ONNX: give them two names"
        )
    with needs("onnx"):
        import onnx  # noqa: F401 - the exporter needs it; without it, it fails late and unclearly
        import torch

    axes = {name: {0: BATCH_AXIS} for name in (target.input, target.output)} if not batch else None
    with onnxfile.output(out) as partial, warnings.catch_warnings():
        # The exporter built on torch.export (dynamo) begins at opset 18; ATC needs opset 11.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="Constant folding")
        # Sizes that are compared in Python: --check shows whether the graph is right.
        warnings.filterwarnings("ignore", category=torch.jit._trace.TracerWarning)
        try:
            example = torch.zeros(batch or 1, 3, target.height, target.width)
            torch.onnx.export(
                network,
                (example,),
                str(partial),
                input_names=[target.input],
                output_names=[target.output],
                dynamic_axes=axes,
                opset_version=opset,
                dynamo=False,
            )
        except MemoryError:
            raise
        except Exception as error:  # the network's own code may raise any type
            raise ModelError(
                f"{target.factory}: cannot be exported with opset {opset}: {first_line(error)}"
                + ("" if opset > OPSET else "; newer CANN also reads --opset 13 and 17")
            ) from error
        if images is None:
            return None
        report_step("comparing")
        agreement = check(network, partial, images)
        require_agreement(agreement, tolerance, f"{out}: the ONNX")
        return agreement


def check(network: torch.nn.Module, onnx_path: Path, images: NDArray[np.float32]) -> Agreement:
    """Compares PyTorch and ONNX Runtime on `images`, float32 (N, 3, H, W), the model's input.

    Raises ModelError for a network that does not return logits, (N, classes), alone.
    """
    import torch

    logits = []
    with torch.inference_mode():
        # One image at a time: NASNet's activations of a batch may not fit into memory.
        for image in images:
            answer = network(torch.from_numpy(image[None].copy()))
            if not isinstance(answer, torch.Tensor) or answer.ndim < 2:
                kind = type(answer).__name__
                shape = f" of the shape {tuple(answer.shape)}" if kind == "Tensor" else ""
                raise ModelError(
                    f"the network returns a {kind}{shape}; --check compares one tensor of logits, "
                    "(images, classes)"
                )
            logits.append(answer.numpy())
    # Two at a time: a graph whose batch is not really dynamic fails then.
    return compare(np.concatenate(logits), run_onnx(onnx_path, images, batch=2))
