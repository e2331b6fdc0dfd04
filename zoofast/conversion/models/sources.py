"""Networks of timm, torchvision and Hugging Face, named as their recipes are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoofast.base.extras import needs
from zoofast.base.text import counted, first_line, listed
from zoofast.base.torchvision_operators import define_missing_operators
from zoofast.conversion.models import KnownModel
from zoofast.errors import ModelError
from zoofast.preprocess.importers import timm as timm_recipes
from zoofast.preprocess.importers import torchvision as torchvision_recipes
from zoofast.preprocess.importers.imported import read_json
from zoofast.preprocess.recipe import Recipe

if TYPE_CHECKING:
    import torch

LIBRARIES = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers"}
CONFIG = "config.json"
HF_FACTORY = f"{__name__}:hf_network"
# The layouts of weights files that these two networks have, and that their builders change.
_TORCHVISION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
}
MAX_LISTED_KEYS = 8
OWN_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def is_source(name: str) -> bool:
    """Whether `name` names a network by its source: timm:NAME, torchvision:WEIGHTS, hf:FOLDER."""
    return name.partition(":")[0] in LIBRARIES and ":" in name


def source_model(name: str, recipe: Recipe, size: int | None = None) -> KnownModel:
    """The model `name` with what conversions need of a known model; it has no guide.

    recipe: of the same source. size: the side of the images where it is not the network's usual
    one.
    """
    kind, _, rest = name.partition(":")
    arguments = {"name": rest, **({"size": size} if size is not None else {})}
    return KnownModel(
        name=recipe.name,
        guide="",
        factory=f"{__name__}:{kind}_network",
        weights="",
        url="",
        onnx=recipe.name,
        recipe=name,
        atc=(),
        atc_output=f"{recipe.name}_bs{{batch}}",
        fps={},
        arguments=arguments,
    )


def library_of(known: KnownModel) -> str | None:
    """The package that builds the network of a source_model; None for a guide's model."""
    return LIBRARIES[known.recipe.partition(":")[0]] if is_source(known.recipe) else None


def files_of(known: KnownModel) -> tuple[Path, ...]:
    """The files that describe the network of a source_model; its weights are not among them."""
    kind, _, rest = known.recipe.partition(":")
    if kind == "hf":
        return (Path(rest) / CONFIG,)
    return (Path(rest),) if kind == "timm" and rest.endswith(".json") else ()


def timm_network(name: str, size: int | None = None) -> torch.nn.Module:
    """The network of timm's model `name`, or of a model card's config.json."""
    architecture = timm_recipes.architecture(name)
    with needs("timm"):
        import torch  # noqa: F401

        define_missing_operators()
        import timm
    timm.layers.set_fused_attn(False)  # ATC and old opsets have no fused attention
    config = timm.models.get_pretrained_cfg(architecture)
    # Networks of convolutions take any size, and have no such argument.
    takes_size = size is not None and config is not None and config.fixed_input_size
    options: dict[str, Any] = {"exportable": True}
    if name.endswith(".json"):
        options |= timm_recipes.model_arguments(read_json(Path(name)), Path(name))
        options["num_classes"] = timm_recipes.load(name, False).recipe.classes
    if takes_size:
        options["img_size"] = size
    try:
        network: torch.nn.Module = timm.create_model(architecture, **options)
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


def own_weights(name: str) -> Path | None:
    """The folder of a model of Hugging Face, if a file of weights is in it."""
    kind, _, folder = name.partition(":")
    files = (Path(folder) / file for file in OWN_WEIGHTS)
    return Path(folder) if kind == "hf" and any(file.is_file() for file in files) else None


def weights_files(weights: Path) -> tuple[Path, ...]:
    """The files of weights that `weights` names, which may be a folder of Hugging Face."""
    if not weights.is_dir():
        return (weights,)
    return tuple(
        sorted(
            file
            for file in weights.iterdir()
            if file.name.startswith(("model", "pytorch_model"))
            and file.suffix in (".safetensors", ".bin", ".json")
        )
    )


def _hf_config(folder: str) -> Any:
    """The configuration in a folder of Hugging Face; nothing is downloaded, no code is run."""
    if not (Path(folder) / CONFIG).is_file():
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
