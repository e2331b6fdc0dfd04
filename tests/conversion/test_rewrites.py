"""The merge of consecutive Slices, and onnxsim: fewer nodes that compute the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoofast.cli import main
from zoofast.conversion import onnxfile
from zoofast.conversion.export import ExportTarget, build_network, export
from zoofast.conversion.optimize import optimize
from zoofast.conversion.rewrites import load, registry
from zoofast.conversion.rewrites.merge_consecutive_slice import NAME, apply
from zoofast.conversion.simplify import simplify
from zoofast.errors import ModelError

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

SHAPE = (2, 3, 8, 9)
FLOAT, INT32, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64
END = 2**63 - 1


class Graph:
    """Builds a small model, node by node."""

    def __init__(self, opset=11, ir_version=7, kind="initializer", integer=np.int64):
        self.opset, self.ir_version, self.kind, self.integer = opset, ir_version, kind, integer
        self.nodes, self.initializers, self.outputs, self.counter = [], [], [], 0

    def constant(self, values):
        self.counter += 1
        name = f"c{self.counter}"
        tensor = onnx.numpy_helper.from_array(np.array(values, self.integer), name)
        if self.kind == "initializer":
            self.initializers.append(tensor)
        elif self.kind == "node":
            self.nodes.append(onnx.helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.nodes.append(onnx.helper.make_node("Constant", [], [name], value_ints=values))
        return name

    def node(self, op, *inputs, **attributes):
        self.counter += 1
        out = f"t{self.counter}"
        self.nodes.append(
            onnx.helper.make_node(op, list(inputs), [out], name=f"n{self.counter}", **attributes)
        )
        return out

    def slice(self, data, starts, ends, axes=None, steps=None):
        if self.opset < 10:
            return self.node(
                "Slice", data, starts=starts, ends=ends, **({"axes": axes} if axes else {})
            )
        optional = ["" if values is None else self.constant(values) for values in (axes, steps)]
        while optional and not optional[-1]:
            optional.pop()
        return self.node("Slice", data, self.constant(starts), self.constant(ends), *optional)

    def model(self, *outputs, rank=4):
        graph = onnx.helper.make_graph(
            self.nodes,
            "g",
            [onnx.helper.make_tensor_value_info("x", FLOAT, SHAPE)],
            [onnx.helper.make_tensor_value_info(name, FLOAT, [None] * rank) for name in outputs],
            self.initializers,
        )
        model = onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", self.opset)],
            ir_version=self.ir_version,
        )
        return model


def results(model):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    return session.run(None, {"x": x})


def slices(model):
    return sum(node.op_type == "Slice" for node in model.graph.node)


def merged(model, gone):
    """Applies the rewrite, demands that `gone` Slices vanish and nothing else changes."""
    before, count = results(model), slices(model)
    assert apply(model) == gone
    assert slices(model) == count - gone
    onnx.checker.check_model(model, full_check=True)
    for one, other in zip(before, results(model), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    used = {name for node in model.graph.node for name in node.input}
    made = {name for node in model.graph.node for name in node.output}
    made |= {tensor.name for tensor in model.graph.initializer} | {"x"}
    assert made - used <= {value.name for value in model.graph.output} | (
        {"x"} if gone == 0 else set()
    ), "a constant is left that nothing uses"
    assert apply(model) == 0
    return model


@pytest.mark.parametrize("kind", ["initializer", "node"])
@pytest.mark.parametrize("opset", [9, 10, 11, 13])
def test_the_cut_of_nasnet(opset, kind):
    g = Graph(opset, kind=kind)
    out = g.slice(g.slice("x", [1], [END], [2]), [1], [END], [3])
    model = merged(g.model(out), gone=1)
    (node,) = [node for node in model.graph.node if node.op_type == "Slice"]
    assert node.input[0] == "x"
    if opset == 9:
        attributes = {entry.name: list(entry.ints) for entry in node.attribute}
        assert attributes == {"starts": [1, 1], "ends": [END, END], "axes": [2, 3]}
    else:
        values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        assert [values[name].tolist() for name in node.input[1:]] == [
            [1, 1],
            [END, END],
            [2, 3],
            [1, 1],
        ]


@pytest.mark.parametrize("length", [2, 3, 4])
def test_a_chain_of_any_length_becomes_one(length):
    g = Graph()
    out = "x"
    for axis in range(length):
        out = g.slice(out, [1], [3], [axis], [1])
    merged(g.model(out), gone=length - 1)


def test_a_chain_longer_than_the_tensor_has_axes_is_merged_up_to_the_collision():
    g = Graph()
    out = "x"
    for axis in (0, 1, 2, 3, 3, 2, 0):
        out = g.slice(out, [0], [-1] if axis > 1 else [9], [axis])
    model = merged(g.model(out), gone=5)
    assert slices(model) == 2


def test_two_chains_in_one_graph():
    g = Graph()
    ends = []
    for _ in range(2):
        relu = g.node("Relu", "x")
        ends.append(g.slice(g.slice(relu, [1], [END], [2]), [1], [END], [3]))
    merged(g.model(g.node("Add", *ends)), gone=2)


def test_missing_steps_count_as_ones_for_every_axis():
    g = Graph()
    out = g.slice(g.slice("x", [0, 1], [2, 3], [0, 1]), [7, 8], [-100, 0], [2, 3], [-2, -3])
    merged(g.model(out), gone=1)


def test_missing_axes_are_the_first_ones():
    g = Graph()
    out = g.slice(g.slice("x", [1, 1], [2, 3]), [1], [8], [3])
    merged(g.model(out), gone=1)
    g = Graph()
    out = g.slice(g.slice("x", [0, 1], [2, 3]), [0], [1], [1])
    merged(g.model(out), gone=0)


@pytest.mark.parametrize(
    ("first", "second", "gone"), [(-2, 3, 1), (2, -1, 1), (-1, 3, 0), (2, -2, 0)]
)
def test_negative_axes_are_counted_from_the_end(first, second, gone):
    g = Graph()
    relu = g.node("Relu", "x")  # its rank is nowhere written down
    out = g.slice(g.slice(relu, [1], [8], [first]), [1], [7], [second])
    merged(g.model(out), gone=gone)


def test_axes_of_both_signs_stay_apart_where_the_rank_is_unknown():
    g = Graph()
    out = g.slice(g.slice("x", [1], [8], [-2]), [1], [7], [3])
    model = g.model(out)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert apply(model) == 0
    assert slices(model) == 2


def test_a_link_with_another_consumer_stays():
    g = Graph()
    link = g.slice("x", [1], [END], [2])
    out = g.slice(link, [1], [END], [3])
    merged(g.model(out, g.node("Relu", link)), gone=0)


def test_a_link_that_a_branch_uses_stays():
    g = Graph()
    link = g.slice("x", [1], [END], [2])
    out = g.slice(link, [1], [END], [3])
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", [link], ["b"])],
        "body",
        [],
        [onnx.helper.make_tensor_value_info("b", FLOAT, [None] * 4)],
    )
    yes = onnx.numpy_helper.from_array(np.array(True), "yes")
    g.initializers.append(yes)
    branch = g.node("If", "yes", then_branch=body, else_branch=body)
    merged(g.model(out, branch), gone=0)


def test_a_link_that_is_an_output_stays():
    g = Graph()
    link = g.slice("x", [1], [END], [2])
    merged(g.model(link, g.slice(link, [1], [END], [3])), gone=0)


def test_computed_bounds_stay():
    g = Graph()
    start = g.node("Cast", g.constant([1]), to=INT64)
    link = g.node("Slice", "x", start, g.constant([5]), g.constant([2]))
    merged(g.model(g.slice(link, [1], [END], [3])), gone=0)


def test_bounds_that_the_caller_may_replace_stay():
    g = Graph()
    out = g.slice(g.slice("x", [1], [END], [2]), [1], [END], [3])
    model = g.model(out)
    model.graph.input.append(onnx.helper.make_tensor_value_info("c1", INT64, [1]))
    merged(model, gone=0)


def test_constants_that_others_use_too_stay():
    g = Graph()
    one, end = g.constant([1]), g.constant([END])
    link = g.node("Slice", "x", one, end, g.constant([2]))
    out = g.node("Slice", link, one, end, g.constant([3]))
    merged(g.model(g.node("Mul", out, g.node("Cast", one, to=FLOAT))), gone=1)


def test_int32_bounds_and_lists_in_constant_nodes():
    g = Graph(integer=np.int32)
    out = g.slice(g.slice("x", [1], [2**31 - 1], [2]), [1], [2**31 - 1], [3])
    merged(g.model(out), gone=1)
    g = Graph(opset=13, kind="ints")
    out = g.slice(g.slice("x", [1], [END], [2]), [1], [END], [3])
    merged(g.model(out), gone=1)


@settings(max_examples=3 * settings().max_examples)
@given(st.data())
def test_generated_chains_compute_the_same(data):
    """Random chains, some with a second consumer, an output or a Relu between the Slices."""
    opset = data.draw(st.sampled_from([9, 10, 11, 13]))
    g = Graph(opset, kind=data.draw(st.sampled_from(["initializer", "node"])))
    out, outputs = "x", []
    for _ in range(data.draw(st.integers(2, 7))):
        negative = opset > 10 and data.draw(st.booleans())
        axes = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True))
        if data.draw(st.booleans()):
            axes = sorted(axes)
        bounds = st.lists(
            st.one_of(st.integers(-10, 10), st.just(END)), min_size=len(axes), max_size=len(axes)
        )
        steps = None
        if opset > 9 and data.draw(st.booleans()):
            step = st.sampled_from([-2, -1, 1, 2])
            steps = data.draw(st.lists(step, min_size=len(axes), max_size=len(axes)))
        named = [axis - 4 for axis in axes] if negative else axes
        out = g.slice(
            out,
            data.draw(bounds),
            data.draw(bounds),
            None if axes == list(range(len(axes))) and data.draw(st.booleans()) else named,
            steps,
        )
        extra = data.draw(st.sampled_from(["", "", "", "", "output", "consumer", "relu"]))
        if extra == "output":
            outputs.append(out)
        elif extra == "consumer":
            outputs.append(g.node("Relu", out))
        elif extra == "relu":
            out = g.node("Relu", out)
    model = g.model(*outputs, g.node("Relu", out))
    before = results(model)
    apply(model)
    for one, other in zip(before, results(model), strict=True):
        np.testing.assert_array_equal(one, other)
    assert apply(model) == 0


def test_the_registry_knows_it_by_auto_optimizers_name():
    assert NAME == "KnowledgeMergeConsecutiveSlice"
    assert registry()[NAME].apply is apply
    with pytest.raises(ModelError, match=f"unknown rewrite 'x'; known are {NAME}"):
        load("x")


class TestCommands:
    @pytest.fixture
    def model(self, tmp_path):
        g = Graph()
        identity = g.node("Identity", g.node("Relu", "x"))
        out = g.slice(g.slice(identity, [1], [END], [2]), [1], [END], [3])
        out = g.node("Flatten", g.node("GlobalAveragePool", out))
        model = g.model(out, rank=2)
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    def test_optimize(self, model, tmp_path, capsys):
        out = tmp_path / "out.onnx"
        assert main(["optimize", str(model), "-o", str(out), "-k", NAME]) == 0
        assert slices(onnx.load(out)) == 1
        assert f"{NAME}: applied 1 time\n" in capsys.readouterr().out

    def test_optimize_writes_also_when_nothing_applies(self, model, tmp_path, capsys):
        once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
        optimize(model, once, [NAME])
        assert main(["optimize", str(once), "-o", str(twice), "-k", NAME]) == 0
        assert twice.read_bytes() == once.read_bytes()
        out = capsys.readouterr().out
        assert f"{NAME}: nothing to do: no consecutive Slices on distinct axes; newer" in out

    def test_optimize_can_write_over_its_input(self, model):
        assert optimize(model, model, [NAME]).applied == {NAME: 1}
        assert slices(onnx.load(model)) == 1

    def test_a_wrong_rewrite_is_caught_and_not_written(self, model, tmp_path, monkeypatch):
        def wrong(model):
            relu = next(node for node in model.graph.node if node.op_type == "Relu")
            relu.op_type = "Neg"
            return 1

        monkeypatch.setattr("zoofast.conversion.rewrites.merge_consecutive_slice.apply", wrong)
        with pytest.raises(ModelError, match="the rewritten model computes other logits"):
            optimize(model, tmp_path / "out.onnx", [NAME])
        assert list(tmp_path.iterdir()) == [model]

    @pytest.mark.parametrize("batch", [None, 2])
    def test_simplify(self, model, tmp_path, capsys, batch):
        pytest.importorskip("onnxsim")
        out = tmp_path / "out.onnx"
        option = [] if batch is None else ["--batchsize", str(batch)]
        assert main(["simplify", str(model), "-o", str(out), *option]) == 0
        (port,) = onnxfile.inputs(onnx.load(out))
        assert port.shape == SHAPE
        printed = capsys.readouterr().out
        assert ["Identity", "1", "0"] in [line.split() for line in printed.splitlines()]
        assert "top-1 agreement 100.00 %" in printed

    @pytest.fixture
    def outputs(self, tmp_path):
        """Logits, and beside them truth values, infinities, and shapes that follow no batch."""
        g = Graph()
        relu = g.node("Relu", "x")
        logits = g.node("Flatten", g.node("GlobalAveragePool", relu))
        model = g.model(
            logits,
            g.node("Neg", relu),
            g.node("Log", relu),
            g.node("ReduceMax", relu, keepdims=0),
            g.node("Shape", relu),
            g.node("Greater", relu, g.node("Neg", relu)),
            g.node("IsNaN", relu),
        )
        kinds = [FLOAT, FLOAT, FLOAT, FLOAT, INT64, onnx.TensorProto.BOOL, onnx.TensorProto.BOOL]
        ranks = [2, 4, 4, 0, 1, 4, 4]
        for value, kind, rank in zip(model.graph.output, kinds, ranks, strict=True):
            new = onnx.helper.make_tensor_value_info(value.name, kind, [None] * rank)
            value.CopyFrom(new)
        onnx.save(model, tmp_path / "outputs.onnx")
        return tmp_path / "outputs.onnx"

    @pytest.mark.parametrize(
        ("size", "batch", "images"),
        [(2, None, 2), (2, 2, 2), ("N", None, 2), ("N", 1, 2), ("N", 2, 2), ("N", 5, 5)],
    )
    def test_simplify_of_several_outputs(self, outputs, tmp_path, size, batch, images):
        pytest.importorskip("onnxsim")
        model = onnx.load(outputs)
        x = onnx.helper.make_tensor_value_info("x", FLOAT, (size, *SHAPE[1:]))
        model.graph.input[0].CopyFrom(x)
        onnx.save(model, outputs)
        result = simplify(outputs, tmp_path / "out.onnx", batch)
        assert result.agreement.images == images
        assert len(onnx.load(tmp_path / "out.onnx").graph.output) == 7
        assert optimize(outputs, tmp_path / "out.onnx", [NAME]).applied == {NAME: 0}

    @pytest.mark.parametrize("command", ["simplify", "optimize"])
    @pytest.mark.parametrize(
        ("operator", "other", "message"),
        [
            ("Neg", "Abs", "the .* model computes another output 't4'"),
            ("Log", "Exp", "the .* model computes another output 't5'"),
            ("Log", "Tanh", "the .* model computes another output 't5'"),
            ("ReduceMax", "ReduceSum", "the .* model computes another output 't6'"),
            ("Greater", "Less", "the .* model computes another output 't9'"),
            ("GlobalAveragePool", "GlobalMaxPool", "the .* model computes other logits"),
            ("last", None, "has the outputs 't3', .*'t9' instead of 't3', .*'t9', 't10'"),
        ],
    )
    def test_another_output_than_the_first_is_compared_too(
        self, outputs, tmp_path, monkeypatch, command, operator, other, message
    ):
        onnxsim = pytest.importorskip("onnxsim")

        def wrong(model):
            if operator == "last":
                model.graph.output.pop()
                return 1
            next(node for node in model.graph.node if node.op_type == operator).op_type = other
            return 1

        def wrongly_simplified(model, **options):
            wrong(model)
            return model, True

        monkeypatch.setattr("zoofast.conversion.rewrites.merge_consecutive_slice.apply", wrong)
        monkeypatch.setattr(onnxsim, "simplify", wrongly_simplified)
        out = tmp_path / "out.onnx"
        with pytest.raises(ModelError, match=message):
            if command == "simplify":
                simplify(outputs, out)
            else:
                optimize(outputs, out, [NAME])
        assert list(tmp_path.iterdir()) == [outputs]

    @pytest.mark.parametrize("batch", ["0", "-3", "x", "9" * 5000])
    def test_batch_sizes_that_are_none(self, model, tmp_path, capsys, batch):
        out = tmp_path / "out.onnx"
        with pytest.raises(SystemExit) as caught:
            main(["simplify", str(model), "-o", str(out), f"--batchsize={batch}"])
        assert caught.value.code == 2
        assert "is not a whole number from 1 to" in capsys.readouterr().err
        assert not out.exists()

    def test_simplify_refuses_another_batch_than_the_fixed_one(self, model, tmp_path):
        pytest.importorskip("onnxsim")
        with pytest.raises(ModelError, match="its batch is fixed to 2; export it anew for 4"):
            simplify(model, tmp_path / "out.onnx", 4)


@pytest.mark.slow
def test_nasnet_as_exported_is_merged(slim_nasnet, tmp_path):
    target = ExportTarget.from_known_model(slim_nasnet)
    export(build_network(target, None), target, tmp_path / "nasnet.onnx")
    result = optimize(tmp_path / "nasnet.onnx", tmp_path / "merged.onnx", [NAME])
    assert result.applied == {NAME: 11}  # its eleven `x[:, :, 1:, 1:]`
    assert result.agreement.max_difference == 0.0
    assert result.agreement.max_logit > 1
