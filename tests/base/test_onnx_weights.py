"""The further files of ONNX models, compared with what the package onnx finds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper

from tests.support import models
from zoofast.base import onnx_weights
from zoofast.base.onnx_weights import weight_files
from zoofast.base.provenance import file_sha256, model_digest
from zoofast.errors import BackendError


def external(location: str) -> TensorProto:
    """A tensor whose data lies in the file `location`."""
    tensor = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[2, 3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "4096"), ("location", location), ("length", "24")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph(name: str) -> onnx.GraphProto:
    return helper.make_graph([], name, [], [], [external(f"{name}.initializer")])


def everywhere() -> onnx.ModelProto:
    """A model with external data wherever the format can have it, and other fields between."""
    sparse = helper.make_sparse_tensor(external("sparse.values"), external("sparse.indices"), [9])
    constant = helper.make_node("Constant", [], ["c"], "n", "text", value=external("attribute"))
    branches = helper.make_node(
        "If", ["c"], ["d"], then_branch=graph("then"), else_branch=graph("else")
    )
    lists = helper.make_node(
        "Any", [], ["l"], a=[external("list")], b=[graph("graphs")], c=sparse, d=[1.5, 2.5], e=[7]
    )
    inner = helper.make_node("Constant", [], ["f"], value=external("function"))
    made = graph("main")
    made.node.extend([constant, branches, lists])
    made.initializer.append(external("sub/folder.bin"))
    made.initializer.append(external("./sub/../main.initializer"))  # a file that is known
    made.initializer.append(onnx.numpy_helper.from_array(np.arange(999.0), "here"))
    made.sparse_initializer.append(sparse)
    function = helper.make_function("own", "f", [], ["f"], [inner], [helper.make_opsetid("", 13)])
    model = helper.make_model(made, functions=[function])
    model.training_info.add().algorithm.CopyFrom(graph("training"))
    return model


FOUND = [
    *("attribute", "else.initializer", "function", "graphs.initializer", "list"),
    *("main.initializer", "sparse.indices", "sparse.values", "sub/folder.bin"),
    *("then.initializer", "training.initializer"),
]


def test_every_place_of_external_data(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(everywhere().SerializeToString())
    assert weight_files(tmp_path / "m.onnx") == FOUND
    assert weight_files(models.write_model(tmp_path / "plain.onnx")) == []


@pytest.mark.parametrize("location", ["/etc/passwd", "../w.data", "sub/../../w.data", ".."])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    model = helper.make_model(helper.make_graph([], "g", [], [], [external(location)]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match=r"m\.onnx: its weights lie outside of its folder"):
        model_digest(str(tmp_path / "m.onnx"))


@given(st.data())
def test_damaged_models(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(everywhere().SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = weight_files(path)
    except BackendError:
        return
    assert not any(os.path.isabs(name) or name.startswith("../") for name in found)
    assert len(model_digest(str(path))) == 64


def nested(levels: int) -> bytes:
    """A model with a tensor in a graph in an attribute of a node of a graph, and so on."""
    made = helper.make_graph([], "g", [], [], [external("deep")])
    for _ in range(levels):
        node = onnx.NodeProto(op_type="Any")
        node.attribute.add(name="a", type=onnx.AttributeProto.GRAPH).g.CopyFrom(made)
        made = onnx.GraphProto(node=[node])
    return helper.make_model(made).SerializeToString()


def test_files_that_would_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(nested(30))
    assert weight_files(path) == ["deep"]
    monkeypatch.setattr(onnx_weights, "_MAX_DEPTH", 80)
    assert weight_files(path) == []
    path.write_bytes(everywhere().SerializeToString())
    monkeypatch.setattr(onnx_weights, "_MAX_FIELDS", 20)
    assert weight_files(path) == []


@pytest.mark.parametrize("content", [b"", b"\xff" * 99, b"\x3a\xff\xff\x03abc", b"\x0b", b"\x08"])
def test_files_that_are_no_models(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert weight_files(tmp_path / "m.onnx") == []


def test_the_digest_covers_the_further_files(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    data = models.write_external_model(model)
    first = model_digest(str(model))
    assert first != file_sha256(model)
    models.change_byte(data)
    other = model_digest(str(model))
    data.rename(tmp_path / "away")
    os.mkfifo(data)  # is not opened
    missing = model_digest(str(model))
    data.unlink()
    assert model_digest(str(model)) == missing and len({first, other, missing}) == 3
    models.change_byte(tmp_path / "away")
    (tmp_path / "away").rename(data)
    assert model_digest(str(model)) == first
    plain = models.write_model(tmp_path / "plain.onnx")
    assert model_digest(plain) == file_sha256(plain)
    assert model_digest("2x3x4x4:float32:5") == "2x3x4x4:float32:5"
