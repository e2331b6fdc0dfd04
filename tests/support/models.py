"""Small classifiers as ONNX files, and inputs for them; NumPy computes what they must answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

IMAGE = (3, 4, 4)
CLASSES = 6


def weights(classes: int = CLASSES) -> NDArray[np.float32]:
    rng = np.random.default_rng(7)
    return rng.standard_normal((int(np.prod(IMAGE)), classes)).astype(np.float32)


def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the model answers, up to the order of summation."""
    return images.reshape(len(images), -1) @ weights()


def write_model(
    path: Path,
    batch: int | str = "N",
    *,
    image: tuple[int | str, ...] = IMAGE,
    dtype: int = TensorProto.FLOAT,
    outputs: int = 1,
    name: str = "image",
) -> str:
    """A linear classifier; a second output holds the classes' negated scores."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [name], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["real"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["class"]),
            helper.make_node("Neg", ["class"], ["negated"]),
        ],
        "classifier",
        [helper.make_tensor_value_info(name, dtype, [batch, *image])],
        [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, CLASSES])
            for output in ("class", "negated")[:outputs]
        ],
        [numpy_helper.from_array(weights(), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return str(path)


def write_inputs(folder: Path, count: int) -> NDArray[np.float32]:
    """Files x0.bin, x1.bin …; returns what they hold, (count, *IMAGE)."""
    folder.mkdir(exist_ok=True)
    images = np.random.default_rng(1).standard_normal((count, *IMAGE)).astype(np.float32)
    for i, image in enumerate(images):
        image.tofile(folder / f"x{i}.bin")
    return images
