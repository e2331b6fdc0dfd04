"""Networks of timm, torchvision and Hugging Face, named as their recipes are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoofast.base.extras import define_missing_operators, needs
from zoofast.base.text import counted, first_line, listed
from zoofast.errors import ModelError
from zoofast.preprocess.importers import timm as timm_recipes
from zoofast.preprocess.importers import torchvision as torchvision_recipes

if TYPE_CHECKING:
    import torch

SOURCES = ("timm", "torchvision", "hf")
# The layouts of weights files that these two networks have, and that their builders change.
_TORCHVISION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
}
MAX_LISTED_KEYS = 8
OWN_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def is_source(name: str) -> bool:
    """Whether `name` names a network by its source: timm:NAME, torchvision:WEIGHTS, hf:FOLDER."""
    return name.partition(":")[0] in SOURCES and ":" in name


def factory_of(name: str, size: int | None = None) -> tuple[str, dict[str, Any]]:
    """The factory of the network `name`, as `ExportTarget.factory` and `.arguments` take it.

    size: the side of the images where it is not the network's usual one.
    """
    kind, _, rest = name.partition(":")
    arguments = {"name": rest, **({"size": size} if size is not None else {})}
    return f"{__name__}:{kind}_network", arguments


def timm_network(name: str, size: int | None = None) -> torch.nn.Module:
    """The network of timm's model `name`, or of a model card's config.json."""
    architecture = timm_recipes.architecture(name)
    with needs("timm"):
        import torch  # noqa: F401

        define_missing_operators()
        import timm
    timm.layers.set_fused_attn(False)  # ATC and old opsets have no fused attention
    options: dict[str, Any] = {} if size is None else {"img_size": size}
    if name.endswith(".json"):
        options["num_classes"] = timm_recipes.load(name, False).recipe.classes
    try:
        network: torch.nn.Module = timm.create_model(architecture, exportable=True, **options)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise ModelError(f"timm: {architecture}: {first_line(error)}") from error
    return network


def torchvision_network(name: str) -> torch.nn.Module:
    """The network of torchvision's weights CLASS.TAG."""
    weights = torchvision_recipes.weights_of(name)
    from torchvision import models

    builders = {models.get_model_weights(n): n for n in models.list_models(module=models)}
    builder = builders.get(type(weights))
    if builder is None:
        raise ModelError(f"torchvision:{name}: quantized networks cannot be exported")
    network: torch.nn.Module = models.get_model(
        builder, weights=None, **_TORCHVISION_ARGUMENTS.get(builder, {})
    )
    return network


def hf_network(name: str) -> torch.nn.Module:
    """The classifier whose config.json lies in the folder `name`; it returns the logits."""
    config = _hf_config(name)
    from transformers import AutoModelForImageClassification

    try:
        # Old opsets have no fused attention.
        network = AutoModelForImageClassification.from_config(config, attn_implementation="eager")
    except ValueError as error:
        raise ModelError(f"hf:{name}: {first_line(error)}") from error
    return _returning_logits(network)


def hf_trained(folder: str, weights: Mapping[str, torch.Tensor] | None) -> torch.nn.Module:
    """The classifier of `folder` with its trained weights: `weights`, or those in the folder.

    transformers loads them: it knows older names of weights. Raises ModelError where weights are
    missing, or have another shape.
    """
    config = _hf_config(folder)
    from transformers import AutoModelForImageClassification

    options: dict[str, Any] = {"config": config, "output_loading_info": True}
    try:
        if weights is None:
            load, place = AutoModelForImageClassification.from_pretrained, folder
        else:  # the class that holds the configuration's network takes weights without a file
            load = type(AutoModelForImageClassification.from_config(config)).from_pretrained
            place, options["state_dict"] = None, dict(weights)
        network, loading = load(
            place, local_files_only=True, attn_implementation="eager", **options
        )
    except Exception as error:  # transformers raises many types on bad files
        raise ModelError(f"hf:{folder}: {first_line(error)}") from error
    for fault in ("missing_keys", "mismatched_keys"):
        if loading.get(fault):
            keys = sorted(map(str, loading[fault]))
            raise ModelError(
                f"hf:{folder}: weights of another model; {counted(len(keys), 'key')} of "
                f"{fault.replace('_', ' ')}: {listed(keys, MAX_LISTED_KEYS)}"
            )
    return _returning_logits(network.float().eval().requires_grad_(False))


def has_own_weights(name: str) -> bool:
    """Whether the source holds weights: a folder of Hugging Face with one of their files."""
    kind, _, folder = name.partition(":")
    return kind == "hf" and any((Path(folder) / file).is_file() for file in OWN_WEIGHTS)


def _hf_config(folder: str) -> Any:
    """The configuration in a folder of Hugging Face; nothing is downloaded, no code is run."""
    if not (Path(folder) / "config.json").is_file():
        raise ModelError(f"hf:{folder}: no config.json in {folder}; zoofast downloads nothing")
    with needs("hf"):
        import torch  # noqa: F401

        define_missing_operators()
        from transformers import AutoConfig
        from transformers.utils import logging
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many types on bad files
        raise ModelError(f"{folder}/config.json: {first_line(error)}") from error


def _returning_logits(network: Any) -> torch.nn.Module:
    """The network, whose forward takes a tensor of images and returns the tensor of logits."""
    forward = network.forward

    def logits(image: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return forward(pixel_values=image).logits

    network.forward = logits
    result: torch.nn.Module = network
    return result
