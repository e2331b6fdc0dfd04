"""Arguments that `zoofast infer` and `zoofast bench` share."""

from __future__ import annotations

import argparse

from zoofast.commands import arguments
from zoofast.inference.backends import BACKENDS
from zoofast.inference.spec import DEVICE_TIMEOUT


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `infer` and `bench` share."""
    parser.add_argument("-m", "--model", required=True, help=".om, .onnx, or see --backend null")
    parser.add_argument(
        "--backend",
        choices=list(BACKENDS),
        help="default: by suffix; null computes nothing, MODEL is then 8x3x224x224:float32:1000; "
        "sim simulates an NPU of FPS images/s, MODEL is then 8x3x224x224:float32:1000@FPS",
    )
    parser.add_argument("--provider", help="ONNX Runtime's (default: CPU)")
    parser.add_argument(
        "--pure_data_type",
        choices=["zero", "random"],
        default="zero",
        help="values of the data without --input (default: zero)",
    )
    parser.add_argument(
        "--device-timeout",
        type=arguments.seconds,
        default=DEVICE_TIMEOUT,
        metavar="S",
        help="seconds that a device may take for a batch (default: %(default)g)",
    )
    parser.add_argument(
        "--warmup_count", type=arguments.count, default=1, metavar="N", help="default: %(default)s"
    )
