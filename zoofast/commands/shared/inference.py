"""Arguments that `zoofast infer`, `bench` and `eval` share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from zoofast.base import acl_library
from zoofast.base.text import quoted
from zoofast.commands.shared import arguments
from zoofast.inference.backends import BACKENDS
from zoofast.inference.dynamic import (
    Dynamic,
    of_recipe,
    parse_hw,
    parse_shapes,
    read_aipp_config,
)
from zoofast.inference.spec import DEVICE_TIMEOUT
from zoofast.preprocess.recipe import Recipe

# Options of ais_bench that zoofast has no use for: the values that change no result, and what to
# use instead of another value.
FALSE = ("0", "false", "f", "no", "n")
TRUE = ("1", "true", "t", "yes", "y")
_ONE_SHAPE = "run the files of each shape by themselves, with --dymShape or --dymDims"
UNUSED = {
    "--run_mode": (("array", "files", "tensor", "full"), "leave it out"),
    "--debug": ((*FALSE, *TRUE), "leave it out"),
    "--dymShape_range": ((), "give one shape with --dymShape"),
    "--auto_set_dymshape_mode": (FALSE, _ONE_SHAPE),
    "--auto_set_dymdims_mode": (FALSE, _ONE_SHAPE),
    "--profiler": (FALSE, "use ais_bench or msprof to profile the NPU, zoofast profile the host"),
    "--profiler_rename": ((*FALSE, *TRUE), "leave it out"),
    "--dump": (FALSE, "use ais_bench to dump the layers' outputs"),
    "--dump_npy": (FALSE, "use ais_bench to dump the layers' outputs"),
    "--acl_json_path": ((), "use ais_bench to profile or to dump"),
    "--output_batchsize_axis": (("0",), "convert the model so that the batch is the first axis"),
    "--energy_consumption": (FALSE, "use npu-smi"),
    "--npu_id": (("0",), "use --device"),
    "--perf": (FALSE, "use zoofast bench"),
    "--pipeline": (FALSE, "leave it out; reading, inference and writing always overlap"),
    "--divide_input": ((*FALSE, *TRUE), "leave it out; several devices always divide the input"),
    "--threads": (("1",), "use several devices: --device 0,1"),
}


def spellings(name: str) -> list[str]:
    """The option as ais_bench writes it, and with hyphens as msit does."""
    return list(dict.fromkeys((name, "--" + name[2:].replace("_", "-"))))


def boolean(text: str) -> bool:
    """The type of an option that ais_bench switches on and off."""
    if text.lower() not in (*TRUE, *FALSE):
        raise argparse.ArgumentTypeError(f"{quoted(text)} is neither true nor false")
    return text.lower() in TRUE


def _harmless(values: tuple[str, ...], cure: str) -> Callable[[str], str]:
    """The type of an option that may have `values` only."""

    def parse(text: str) -> str:
        if text.lower() not in values:
            raise argparse.ArgumentTypeError(f"{quoted(text)} is not supported; {cure}")
        return text

    return parse


def add_unused_arguments(parser: argparse.ArgumentParser) -> None:
    """ais_bench's options that zoofast has no use for, so that its command lines work."""
    for name, (values, cure) in UNUSED.items():
        parser.add_argument(*spellings(name), type=_harmless(values, cure), help=argparse.SUPPRESS)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `infer` and `bench` share."""
    parser.add_argument(
        "-m",
        "--model",
        required=True,
        metavar="MODEL",
        help=".om or .onnx file, or see --backend",
    )
    parser.add_argument(
        "--backend",
        choices=list(BACKENDS),
        help="what runs the model (default: by MODEL's suffix); null computes nothing, and MODEL "
        "is 8x3x224x224:float32:1000; sim takes the time of an NPU of FPS images/s, and MODEL is "
        "8x3x224x224:float32:1000@FPS",
    )
    add_provider(parser)
    parser.add_argument(
        *spellings("--pure_data_type"),
        choices=["zero", "random"],
        default="zero",
        help="input where no files are given: zeros or random numbers (default: zero)",
    )
    add_dynamic_arguments(parser)
    add_acl_library(parser)
    add_device_timeout(parser)
    parser.add_argument(
        *spellings("--warmup_count"),
        type=arguments.count,
        default=1,
        metavar="N",
        help="executions before the times are taken (default: %(default)s)",
    )


def add_provider(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--provider", metavar="NAME", help="execution provider of ONNX Runtime (default: CPU)"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d",
        "--device",
        type=arguments.device,
        default=0,
        metavar="D",
        help="number of the device (default: 0)",
    )


def add_devices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d",
        "--device",
        type=arguments.devices,
        default=[0],
        metavar="D[,D…]",
        help="numbers of the devices (default: 0)",
    )


def add_dynamic_arguments(parser: argparse.ArgumentParser) -> None:
    """ais_bench's options for a dynamic .om. `dynamic_of` makes them one value."""
    group = parser.add_argument_group("for an .om of dynamic shape, with --backend acl")
    group.add_argument(
        "--dymBatch", type=arguments.count, default=0, metavar="N", help="the same as --batchsize"
    )
    group.add_argument(
        "--dymHW", type=_parsed(parse_hw, "H,W, as 224,224"), metavar="H,W", help="height and width"
    )
    for name in ("--dymDims", "--dymShape"):
        group.add_argument(
            name,
            dest="shapes",
            type=_parsed(parse_shapes, "NAME:N,C,H,W, as image:1,3,224,224"),
            default=(),
            metavar="NAME:N,C,H,W",
            help="the shape of each input; several with ; between them",
        )
    group.add_argument(
        "--outputSize",
        dest="output_nbytes",
        type=lambda text: tuple(map(arguments.positive, text.split(","))),
        default=(),
        metavar="N[,N…]",
        help="bytes of each output, if the model does not tell",
    )
    group.add_argument(
        *spellings("--aipp_config"), metavar="FILE", help="normalization by dynamic AIPP"
    )


def _parsed(parse: Callable[[str], Any], form: str) -> Callable[[str], Any]:
    """The type of an option that `parse` reads."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{quoted(text)} is not {form}") from None

    return read


def dynamic_of(args: argparse.Namespace, recipe: Recipe | None = None) -> Dynamic:
    """What a dynamic model is run with. recipe: whose tensors it takes. Raises BackendError."""
    dynamic = Dynamic() if recipe is None else of_recipe(recipe)
    if args.aipp_config:
        dynamic = replace(dynamic, aipp=read_aipp_config(args.aipp_config))
    return replace(dynamic, hw=args.dymHW, shapes=args.shapes, output_nbytes=args.output_nbytes)


def add_acl_library(parser: argparse.ArgumentParser) -> None:
    """Where CANN's library is. The processes of devices get it from the environment too."""

    def choose(text: str) -> str:
        if not os.path.isfile(text):
            raise argparse.ArgumentTypeError(f"{quoted(text)}: no such file")
        os.environ[acl_library.VARIABLE] = text
        return text

    parser.add_argument(
        *spellings("--acl_lib"),
        type=choose,
        metavar="FILE",
        help="path of libascendcl.so, for .om (default: found through CANN's set_env.sh)",
    )


def add_device_timeout(parser: argparse.ArgumentParser) -> None:
    """After how long a device that does not answer is given up."""
    parser.add_argument(
        "--device-timeout",
        type=arguments.seconds,
        default=DEVICE_TIMEOUT,
        metavar="S",
        help="seconds that a device may take for a batch (default: %(default)g); it may take 60 or "
        "more to load the model",
    )
