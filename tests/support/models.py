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


def write_external_model(path: Path) -> Path:
    """The model of `write_model` with its weights in a file of their own, which is returned."""
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)  # else onnx appends to it
    write_model(path)
    model = onnx.load(path)
    onnx.save_model(model, path, save_as_external_data=True, location=data.name, size_threshold=0)
    return data


def change_byte(file: Path) -> None:
    """Changes a number that is in `file`, but not its size."""
    content = bytearray(file.read_bytes())
    content[2] ^= 255
    file.write_bytes(content)


def write_inputs(folder: Path, count: int) -> NDArray[np.float32]:
    """Files x0.bin, x1.bin …; returns what they hold, (count, *IMAGE)."""
    folder.mkdir(exist_ok=True)
    images = np.random.default_rng(1).standard_normal((count, *IMAGE)).astype(np.float32)
    for i, image in enumerate(images):
        image.tofile(folder / f"x{i}.bin")
    return images


PAIR_OUTPUTS = {"class": "float32", "best": "int64", "half": "float16", "bytes": "uint8"}


def write_pair_model(path: Path) -> str:
    """A model of two inputs, `image` and `shift` (int64, CLASSES numbers), whose sum with the
    image's logits is `class`; its other outputs have other types."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
            helper.make_node("Cast", ["shift"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["logits", "real"], ["class"]),
            helper.make_node("ArgMax", ["class"], ["best"], axis=1),
            helper.make_node("Cast", ["class"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["shift"], ["bytes"], to=TensorProto.UINT8),
        ],
        "pair",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *IMAGE]),
            helper.make_tensor_value_info("shift", TensorProto.INT64, ["N", CLASSES]),
        ],
        [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
                ["N", 1 if name == "best" else CLASSES],
            )
            for name, dtype in PAIR_OUTPUTS.items()
        ],
        [numpy_helper.from_array(weights(), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return str(path)


def write_pairs(folder: Path, count: int) -> str:
    """Files for both inputs of the pair model, in folders of their own; returns --input for them.
    The second input's files have other names."""
    write_inputs(folder / "image", count)
    (folder / "shift").mkdir()
    for i in range(count):
        np.arange(i, i + CLASSES, dtype=np.int64).tofile(folder / f"shift/s{i}.bin")
    return f"{folder / 'image'},{folder / 'shift'}"


def check_pairs(results: Path, images: NDArray[np.float32]) -> None:
    """Asserts what `zoofast infer --outfmt NPY` must store for the files of `write_pairs`."""
    for i, own in enumerate(logits(images)):
        shift = np.arange(i, i + CLASSES)
        found = [np.load(results / f"x{i}_{k}.npy") for k in range(len(PAIR_OUTPUTS))]
        assert [str(output.dtype) for output in found] == list(PAIR_OUTPUTS.values())
        np.testing.assert_allclose(found[0][0], own + shift, rtol=1e-4, atol=1e-4)
        assert found[1].tolist() == [[int(np.argmax(own + shift))]]
        np.testing.assert_allclose(found[2][0], own + shift, rtol=1e-2, atol=1e-2)
        assert found[3][0].tolist() == shift.tolist()
