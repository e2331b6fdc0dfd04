"""Malformed files from outside: each reader of zoofast.conversion answers with a one-line error."""

from __future__ import annotations

import json
import os
import random

import pytest

from zoofast.cli import main
from zoofast.conversion import onnxfile
from zoofast.conversion.pipeline import CACHE_NAME, StepCache
from zoofast.conversion.rewrites.merge_consecutive_slice import NAME, apply
from zoofast.errors import ModelError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def classifier(shape=("N", 3, 8, 9)):
    """Two Slices that can be merged, then a mean over each channel: 3 classes."""
    helper = onnx.helper
    bounds = {"one": [1], "end": [2**63 - 1], "two": [2], "three": [3]}
    nodes = [
        helper.make_node("Slice", ["x", "one", "end", "two"], ["rows"]),
        helper.make_node("Slice", ["rows", "one", "end", "three"], ["cut"]),
        helper.make_node("GlobalAveragePool", ["cut"], ["means"]),
        helper.make_node("Flatten", ["means"], ["class"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("class", FLOAT, [None, None])],
        [helper.make_tensor(name, INT64, [1], values) for name, values in bounds.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)


def changed(change):
    model = classifier()
    change(model)
    return model.SerializeToString()


def other_output(operator, shape, **attributes):
    """A network whose first output is `operator` of its logits. shape: None makes a sequence."""

    def change(model):
        helper = onnx.helper
        model.graph.node.append(helper.make_node(operator, ["class"], ["other"], **attributes))
        if shape is None:
            output = helper.make_tensor_sequence_value_info("other", FLOAT, shape)
        else:
            output = helper.make_tensor_value_info("other", FLOAT, shape)
        model.graph.output.insert(0, output)

    return changed(change)


def external(location, **place):
    """Weights in another file."""

    def change(model):
        tensor = model.graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.int64_data[:]
        for key, value in {"location": location, **place}.items():
            tensor.external_data.add(key=key, value=value)

    return changed(change)


# (name, content, a part of the message)
MALFORMED = [
    ("empty", b"", "not an ONNX model"),
    ("page", b"<html>404</html>", "not an ONNX model"),
    ("text", b"{}", "not an ONNX model"),
    ("no nodes", changed(lambda model: model.graph.ClearField("node")), "it has no nodes"),
    ("no input", changed(lambda model: model.graph.ClearField("input")), "not a valid ONNX model"),
    (
        "two inputs",
        changed(lambda m: m.graph.input.add().CopyFrom(m.graph.input[0])),
        "not a valid",
    ),
    ("operator", classifier().SerializeToString().replace(b"Flatten", b"Flat\xffen"), "ONNX model"),
    (
        "values",
        changed(lambda model: model.graph.initializer[0].dims.__setitem__(0, 7)),
        "ONNX Runtime: ",
    ),
    (
        "unknown operator",
        changed(lambda model: setattr(model.graph.node[3], "op_type", "Fold")),
        "not a valid ONNX model",
    ),
    ("no such file", external("weights.bin"), "weights.bin"),
    ("another folder", external("../../../../etc/passwd"), "passwd"),
    ("vast", classifier((1, 3, 1 << 40, 1 << 20)).SerializeToString(), "too large"),
    ("dynamic", classifier(("N", 3, "H", "W")).SerializeToString(), "dynamic beyond the batch"),
    ("below zero", classifier((1, 3, -8, 9)).SerializeToString(), "dynamic beyond the batch"),
    ("no pixels", classifier((0, 3, 8, 9)).SerializeToString(), "ONNX Runtime: "),
    ("scalar", other_output("ReduceMax", [], keepdims=0), "'other' has the shape () and the type"),
    ("sequence", other_output("SequenceConstruct", None), "'other' is not a tensor; remove it"),
    ("cut weights", external("m.onnx", offset="0", length="1000000"), "exceeds available data"),
    ("3-D", classifier((3, 8, 9)).SerializeToString(), "a classifier has one 4-D input"),
]


@pytest.mark.parametrize("command", ["optimize", "simplify"])
@pytest.mark.parametrize(
    ("name", "content", "message"), MALFORMED, ids=[entry[0] for entry in MALFORMED]
)
def test_models(tmp_path, monkeypatch, capfd, command, name, content, message):
    if command == "simplify":
        pytest.importorskip("onnxsim")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(content)
    rewrite = ["-k", NAME] if command == "optimize" else []
    assert main([command, "m.onnx", "-o", "out.onnx", *rewrite]) == 2
    error = capfd.readouterr().err
    assert error.startswith("zoofast: error: ")
    assert error.count("\n") == 1
    assert "m.onnx" in error
    assert message in error or name == "values"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("command", ["optimize", "simplify"])
def test_a_pipe_is_not_waited_for(tmp_path, capsys, command):
    os.mkfifo(tmp_path / "m.onnx")
    rewrite = ["-k", NAME] if command == "optimize" else []
    arguments = [command, f"{tmp_path / 'm.onnx'}", "-o", f"{tmp_path / 'out.onnx'}", *rewrite]
    assert main(arguments) == 2
    assert "m.onnx: cannot be read: not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["/dev/null", "pipe"])
@pytest.mark.parametrize("command", ["optimize m.onnx -k " + NAME, "simplify m.onnx"])
def test_an_output_that_cannot_be_compared(tmp_path, monkeypatch, capsys, name, command):
    """The command reads again what it has written, which it would wait for at a pipe."""
    pytest.importorskip("onnxsim")
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    (tmp_path / "m.onnx").write_bytes(classifier().SerializeToString())
    assert main([*command.split(), "-o", name]) == 2
    error = f"{name}: a device or a pipe cannot be read again; name a file"
    assert error in capsys.readouterr().err


def test_a_batch_size_for_an_input_of_dynamic_sizes(tmp_path, capsys):
    pytest.importorskip("onnxsim")
    path = tmp_path / "m.onnx"
    path.write_bytes(classifier(("N", 3, "H", "W")).SerializeToString())
    assert main(["simplify", str(path), "-o", f"{path}.out", "--batchsize", "3"]) == 2
    sizes = "('?', 3, '?', '?')"
    assert f"m.onnx: its input sizes {sizes} are dynamic beyond the ba" in capsys.readouterr().err


def test_a_valid_model_passes(tmp_path):
    (tmp_path / "m.onnx").write_bytes(classifier().SerializeToString())
    model = onnxfile.read_valid(tmp_path / "m.onnx")
    assert apply(model) == 1


def test_mutated_models(tmp_path):
    """Every one is read and rewritten, or refused with a ModelError."""
    generator, data, refused = random.Random(0), classifier().SerializeToString(), 0
    path = tmp_path / "m.onnx"
    for _ in range(400):
        mutated = bytearray(data)
        for _ in range(generator.choice([1, 1, 2, 4])):
            position = generator.randrange(len(mutated))
            kind = generator.randrange(3)
            if kind == 0:
                mutated[position] = generator.randrange(256)
            elif kind == 1:
                del mutated[position : position + generator.randrange(1, 9)]
            else:
                mutated[position:position] = generator.randbytes(generator.randrange(1, 5))
        path.write_bytes(mutated)
        try:
            model = onnxfile.read_valid(path)
            onnxfile.image_input(model, path)
            apply(model)
        except ModelError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 100 < refused < 400


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"null",
        b"1",
        b'{"a.onnx": 1}',
        b'{"a.onnx": {}}',
        b'{"a.onnx": {"inputs": [], "output": "x"}}',
        b'{"a.onnx": {"inputs": {}, "output": 3}}',
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b"1" * 5000,
        b"\xff\xfe{}",
        b"\x00",
        b"",
    ],
    ids=lambda content: content[:12].decode("ascii", "replace"),
)
def test_the_cache_of_convert(tmp_path, content):
    (tmp_path / CACHE_NAME).write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged.*; delete it to start anew") as caught:
        StepCache(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_cache_with_unknown_keys_is_read(tmp_path):
    entry = {"inputs": {"step": "export"}, "output": "0", "more": 1}
    (tmp_path / CACHE_NAME).write_text(json.dumps({"a.onnx": entry}))
    StepCache(tmp_path)
