"""Weights to ONNX: the five models against PyTorch itself, and every way weights can be wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import folders, libraries
from zoofast.base.files import atomic_output
from zoofast.cli import main
from zoofast.conversion import models, onnxfile
from zoofast.conversion.agreement import compare, random_images, require_agreement, run_onnx
from zoofast.conversion.export import (
    TOLERANCE,
    ExportTarget,
    _randomize,
    build_network,
    check,
    export,
)
from zoofast.conversion.models import torch_compat
from zoofast.conversion.models.sources import timm_network
from zoofast.errors import ModelError
from zoofast.preprocess.importers import first_use

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")


def small_network(bias: bool = True):
    """A network in the shape of the real ones: convolution, normalization, pooling, classes."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, bias=bias),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 10),
    )


def compiled_network():
    """The network in a module whose keys begin as those of torch.compile."""
    wrapper = torch.nn.Module()
    wrapper._orig_mod = small_network()
    return wrapper


def import_something():
    from json import no_such_name

    return no_such_name


def not_a_network():
    return "text"


SMALL = ExportTarget(f"{__name__}:small_network", height=16, width=16)

# The guides' names and sizes, batch first.
PORTS = {
    "alexnet": ["actual_input_1:?,3,224,224", "output1:?,1000"],
    "resnet34": ["image:?,3,224,224", "class:?,1000"],
    "squeezenet1_1": ["image:?,3,224,224", "class:?,1000"],
    "inceptionv4": ["image:?,3,299,299", "class:?,1001"],
    "nasnetalarge": ["image:?,3,331,331", "class:?,1001"],
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """name -> (network, path): each known model exported once from random weights."""
    folder = tmp_path_factory.mktemp("exported")
    made = {}

    def of(name):
        known = models.load(name)
        key = (name, str(known.arguments))  # slim_nasnet replaces a model of the same name
        if key not in made:
            if importlib.util.find_spec(known.package) is None:
                pytest.skip(f"no {known.package}")
            target = ExportTarget.from_known_model(known)
            made.clear()  # one at a time: NASNet alone is 350 MB
            network = build_network(target, None, seed=1)
            export(network, target, folder / f"{name}.onnx")
            made[key] = (network, folder / f"{name}.onnx")
        return made[key]

    return of


def output_ports(model):
    """Like `str` of onnxfile.Port, for the graph's outputs."""
    return [
        f"{value.name}:"
        + ",".join(
            str(dim.dim_value) if dim.HasField("dim_value") else "?"
            for dim in value.type.tensor_type.shape.dim
        )
        for value in model.graph.output
    ]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n == "inceptionv4" else ()) for n in models.names()],
)
def test_a_known_model_computes_in_onnx_what_it_computes_in_torch(exported, name, request):
    if name == "nasnetalarge":
        request.getfixturevalue("slim_nasnet")
    check_known_model(name, *exported(name))


@pytest.mark.slow
def test_nasnetalarge_with_all_its_filters(exported):
    check_known_model("nasnetalarge", *exported("nasnetalarge"))


def check_known_model(name, network, path):
    model = onnxfile.read(path)
    (port,) = onnxfile.inputs(model)
    assert [str(port), *output_ports(model)] == PORTS[name]
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 11}
    del model

    images = random_images(port.shape, 2)
    agreement = check(network, path, images)
    assert agreement.within(TOLERANCE), str(agreement)
    assert agreement.top1 == 1.0
    logits = run_onnx(path, images)
    assert np.abs(logits[0] - logits[1]).max() > 10 * TOLERANCE * np.abs(logits).max(), (
        "the logits hardly depend on the image, so the agreement says nothing"
    )


def test_any_batch_size_gives_the_same_logits(exported):
    _, path = exported("squeezenet1_1")
    images = random_images((None, 3, 224, 224), 3)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        session.run(None, {"image": images})[0], run_onnx(path, images), rtol=1e-5, atol=1e-5
    )


def test_the_check_finds_other_weights(exported):
    _, path = exported("squeezenet1_1")
    other = build_network(ExportTarget.from_known_model(models.load("squeezenet1_1")), None, seed=2)
    agreement = check(other, path, random_images((None, 3, 224, 224), 2))
    assert not agreement.within(TOLERANCE)
    with pytest.raises(ModelError, match="it computes other logits: 2 images"):
        require_agreement(agreement, TOLERANCE, "it")


def test_a_seed_gives_the_same_file_twice(tmp_path):
    for name in ("a", "b"):
        export(build_network(SMALL, None, seed=7), SMALL, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    export(build_network(SMALL, None, seed=8), SMALL, tmp_path / "c")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_trained_weights_of_another_precision_are_computed_in_float32(shared, tmp_path):
    target = ExportTarget.from_known_model(models.load("squeezenet1_1"))
    network = build_network(target, shared / "models" / "squeezenet1_1.pth")
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    export(network, target, tmp_path / "trained.onnx")
    agreement = check(network, tmp_path / "trained.onnx", random_images((None, 3, 224, 224), 4))
    assert agreement.within(TOLERANCE)
    assert agreement.top1 == 1.0


class TestWeights:
    @pytest.fixture
    def state(self):
        torch.manual_seed(3)
        network = small_network()
        network[1].running_mean += 0.5
        return network.state_dict()

    @pytest.fixture
    def save(self, tmp_path):
        def save(value, **how):
            torch.save(value, tmp_path / "weights.pth", **how)
            return tmp_path / "weights.pth"

        return save

    @staticmethod
    def loaded(path):
        return build_network(SMALL, path).state_dict()

    def assert_loads(self, path, state):
        loaded = self.loaded(path)
        assert all(torch.equal(loaded[key], state[key]) for key in state)

    def test_plain(self, save, state):
        self.assert_loads(save(state), state)

    def test_the_format_of_before_2020(self, save, state):
        self.assert_loads(save(state, _use_new_zipfile_serialization=False), state)

    def test_wrapped_in_a_checkpoint(self, save, state):
        self.assert_loads(save({"epoch": 3, "state_dict": state}), state)

    def test_of_data_parallel_in_a_checkpoint(self, save, state):
        prefixed = {f"module.{key}": value for key, value in state.items()}
        self.assert_loads(save({"state_dict": prefixed}), state)

    @pytest.mark.parametrize(
        "prefix",
        ["_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod."],
    )
    def test_of_a_compiled_or_wrapped_network(self, save, state, prefix):
        self.assert_loads(save({f"{prefix}{key}": value for key, value in state.items()}), state)

    def test_a_prefix_that_the_network_has_itself(self, save, state):
        target = replace(SMALL, factory=f"{__name__}:compiled_network")
        state = {f"_orig_mod.{key}": value for key, value in state.items()}
        loaded = build_network(target, save(state)).state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in state)

    def test_a_prefix_that_nobody_knows_is_named(self, save, state):
        with pytest.raises(ModelError) as caught:
            self.loaded(save({f"net.body.{key}": value for key, value in state.items()}))
        assert str(caught.value).endswith(
            "; every key begins with 'net.body.': save the weights with keys without it"
        )
        del state["0.weight"]
        with pytest.raises(ModelError) as caught:  # of another model, whatever the prefix
            self.loaded(save({f"net.{key}": value for key, value in state.items()}))
        assert "every key" not in str(caught.value)

    @pytest.mark.parametrize("name", ["model", "state_dict_ema", "model_ema"])
    @pytest.mark.parametrize("other", [{}, {"epoch": 3}, None])
    def test_the_entry_of_a_checkpoint_that_holds_weights(self, save, state, name, other):
        self.assert_loads(save({"state_dict": other, name: state}), state)

    def test_of_several_entries_the_trained_weights_count(self, save, state):
        averaged = {key: value + 1 for key, value in state.items()}
        self.assert_loads(save({"model_ema": averaged, "model": state}), state)
        self.assert_loads(save({"state_dict_ema": averaged, "state_dict": state}), state)

    def test_without_the_count_of_steps(self, save, state):
        del state["1.num_batches_tracked"]
        self.assert_loads(save(state), state)

    def test_keys_that_do_not_fit_are_listed(self, save, state):
        state["5.weight"] = torch.zeros(10, 5)
        state["head.weight"] = state.pop("0.weight")
        with pytest.raises(ModelError) as caught:
            self.loaded(save(state))
        assert str(caught.value).endswith(
            "weights.pth: weights of another model; keys 1 missing: 0.weight; "
            "1 unexpected: head.weight; "
            "1 of another shape: 5.weight (10, 5) instead of (10, 4)"
        )

    @pytest.mark.parametrize("keys", [[1, 2], [b"0.weight"], ["0.weight", 7]])
    def test_keys_that_are_no_text(self, save, keys):
        with pytest.raises(ModelError, match=r"the key (1|b'0\.weight'|7), which is no text"):
            self.loaded(save({key: torch.zeros(1) for key in keys}))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda tensor: tensor.to("meta"), "is without values"),
            (lambda tensor: tensor.to_sparse(), "is sparse"),
            (lambda tensor: tensor.to_sparse_csr(), "is sparse"),
            (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "is quantized"),
            (lambda tensor: torch.nested.nested_tensor([tensor]), "is nested"),
            (lambda tensor: tensor.to(torch.complex64), "is complex"),
            (lambda tensor: tensor.to(torch.int8), "torch.int8 instead of torch.float32"),
            (lambda tensor: tensor > 0, "torch.bool instead of torch.float32"),
        ],
    )
    @pytest.mark.filterwarnings("ignore")  # torch calls some of these kinds experimental
    def test_tensors_that_are_no_weights(self, save, state, change, message):
        state["5.weight"] = change(state["5.weight"])
        with pytest.raises(ModelError, match=message) as caught:
            self.loaded(save(state))
        assert "weights.pth: " in str(caught.value)
        assert "5.weight" in str(caught.value)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_other_floats_are_converted(self, save, state, dtype):
        rounded = {key: value.to(dtype) for key, value in state.items()}
        expected = {key: rounded[key].to(state[key].dtype) for key in state}
        self.assert_loads(save(rounded), expected)

    def test_a_pickle_is_not_run(self, save, tmp_path):
        class Trap:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        with pytest.raises(ModelError, match="damaged, or not a file of plain weights"):
            self.loaded(save({"state_dict": Trap()}))
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04broken"])
    def test_files_that_are_no_weights(self, tmp_path, content):
        (tmp_path / "weights.pth").write_bytes(content)
        with pytest.raises(ModelError, match="damaged, or not a file of plain weights"):
            self.loaded(tmp_path / "weights.pth")

    def test_a_truncated_file(self, save, state):
        path = save(state)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ModelError, match="damaged, or not a file of plain weights"):
            self.loaded(path)

    def test_a_file_of_one_byte(self, tmp_path):
        for byte in range(256):
            (tmp_path / "weights.pth").write_bytes(bytes([byte]))
            with pytest.raises(ModelError, match="damaged, or not a file of plain weights"):
                self.loaded(tmp_path / "weights.pth")

    def test_the_format_of_before_2020_cut_anywhere(self, save, state):
        path = save(state, _use_new_zipfile_serialization=False)
        data = path.read_bytes()
        for length in range(0, len(data), 7):
            path.write_bytes(data[:length])
            with pytest.raises(ModelError, match="damaged, or not a file of plain weights"):
                self.loaded(path)

    def test_something_else_in_the_file(self, save):
        with pytest.raises(ModelError, match=r"no state_dict .* a dictionary with epoch"):
            self.loaded(save({"epoch": 3}))
        with pytest.raises(ModelError, match=r"no state_dict .* a Tensor"):
            self.loaded(save(torch.zeros(3)))


class TestFactory:
    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("alexnet", "not of the form"),
            ("torchvision.models:", "not of the form"),
            (f"{__name__}:nothing", "has no function nothing"),
            (f"{__name__}:SMALL", "has no function SMALL"),
            ("no_such_package.models:net", "Python package 'no_such_package' is missing"),
            (f"{__name__}:not_a_network", "made a str, not a torch.nn.Module"),
            ("json.decoder:JSONDecodeError", "JSONDecodeError': TypeError: .*missing"),
            (".:net", "factory '.:net': TypeError: "),
            (f"{__name__}:import_something", "import_something': ImportError: cannot import name"),
        ],
    )
    def test_what_is_no_factory(self, path, message):
        with pytest.raises(ModelError, match=message):
            torch_compat.build(path, {}, seed=0)

    def test_torchvision_imports_beside_its_compiled_operators(self):
        """In a process of its own. A torchvision that fits has the operators; for another one they
        are defined here."""
        script = (
            "import importlib.util, pathlib, torch\n"
            "folder = pathlib.Path(importlib.util.find_spec('torchvision').origin).parent\n"
            "try:\n"
            "    for path in sorted(folder.glob('_C*.so')): torch.ops.load_library(str(path))\n"
            "except OSError:\n"
            "    library = torch.library.Library('torchvision', 'DEF')\n"
            "    schema = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'\n"
            "    library.define('nms' + schema); library.define('qnms' + schema)\n"
            "from zoofast.conversion.models.torch_compat import build\n"
            "print(len(build('torchvision.models:squeezenet1_1', {}, 0).state_dict()))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == ["52"], done.stderr

    @pytest.mark.slow
    def test_torchvision_imports_without_its_compiled_operators(self, tmp_path):
        """In a process of its own, with a copy of torchvision whose libraries cannot load."""
        installed = Path(importlib.util.find_spec("torchvision").origin).parent
        broken = tmp_path / "torchvision"
        broken.mkdir()
        for entry in installed.iterdir():
            if entry.suffix == ".so":
                (broken / entry.name).write_bytes(b"not a library")
            else:
                (broken / entry.name).symlink_to(entry)
        script = (
            "import sys; from zoofast.conversion.models.torch_compat import build;"
            "net = build('torchvision.models:squeezenet1_1', {}, 0);"
            "import torchvision; print(torchvision.__file__, len(net.state_dict()))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == [str(broken / "__init__.py"), "52"], done.stderr


class TestCommand:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_a_model_of_ones_own(self, tmp_path, monkeypatch, capsys):
        monkeypatch.syspath_prepend("")  # restores sys.path, which the command extends
        (tmp_path / "my_model.py").write_text(
            "import torch\ndef net():\n"
            "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))\n"
        )
        arguments = (
            "export mine --factory my_model:net --size 8 --weights random "
            "--input-name x --output-name y --opset 13"
        )
        assert main(arguments.split()) == 0
        model = onnxfile.read(tmp_path / "mine.onnx")
        assert [str(port) for port in onnxfile.inputs(model)] == ["x:?,3,8,8"]
        assert output_ports(model) == ["y:?,5"]
        assert model.opset_import[0].version == 13
        assert capsys.readouterr().out == "mine.onnx: 0.0 MB, opset 13, x:?,3,8,8 -> y\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("lenet --weights random", "unknown model 'lenet'; known are alexnet, resnet34,"),
            ("alexnet --weights none.pth", "none.pth: no such file; the guide gets alexnet-owt"),
            ("mine --factory a:b --size 9", "no weights are given; --weights random tries without"),
            (
                "inceptionv4",
                "no weights are given; the guide gets inceptionv4-8e4777a0.pth from http://data.",
            ),
            ("alexnet --weights random --size 9", "--size belongs to --factory"),
            ("mine --weights random --factory a:b", "--factory needs --size"),
            ("mine --weights random --factory a:b --size 9 --check", "needs its --recipe"),
            (
                "alexnet --weights random --check --recipe inceptionv4",
                "recipe inceptionv4 makes 299x299 images, the model takes 224x224",
            ),
            ("alexnet --weights random --check --images no", "no: no such folder"),
            ("squeezenet1_1 --weights random -o no/x.onnx", "the folder no does not exist"),
            ("squeezenet1_1 --weights random --opset 3", "opset 3: not one of 9 to 20"),
        ],
    )
    def test_errors_are_one_line_and_leave_nothing(self, tmp_path, capsys, arguments, message):
        assert main(["export", *arguments.split()]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_check_on_drawn_pictures_and_on_a_folder(self, tmp_path, capsys):
        arguments = ["export", "squeezenet1_1", "--weights", "random", "--check"]
        assert main(arguments) == 0
        assert "agree on 8 images: largest difference" in capsys.readouterr().out
        (tmp_path / "jpegs").mkdir()
        for seed in range(3):
            noise = np.random.default_rng(seed).integers(0, 256, (60, 50, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "jpegs" / f"{seed}.jpg")
        assert main([*arguments, "--images", str(tmp_path / "jpegs"), "--count", "2"]) == 0
        assert "agree on 2 images" in capsys.readouterr().out
        (tmp_path / "jpegs" / "1.jpg").write_bytes(b"broken")
        assert main([*arguments, "--images", str(tmp_path / "jpegs")]) == 2
        assert "1.jpg: not an image" in capsys.readouterr().err

    def test_what_goes_on_is_named(self, tmp_path):
        """The comparison of --check takes longer than the export."""
        network, steps = build_network(SMALL, None), []
        images = random_images((1, 3, 16, 16), 2)
        export(network, SMALL, tmp_path / "a", report_step=steps.append)
        assert steps == []
        export(network, SMALL, tmp_path / "a", images=images, report_step=steps.append)
        assert steps == ["comparing"]

    def test_weights_with_nan_are_named(self, tmp_path, monkeypatch, capsys):
        network = small_network()
        with torch.no_grad():
            network[0].weight[1, 2, 0, 0] = torch.nan
        network[1].running_var[3] = torch.inf  # a number, if a large one
        torch.save(network.state_dict(), tmp_path / "w.pth")
        monkeypatch.chdir(tmp_path)
        factory = ["--factory", SMALL.factory, "--size", "16", "--weights", "w.pth"]
        assert main(["export", "mine", *factory]) == 0
        assert capsys.readouterr().err == (
            "zoofast: w.pth: has NaN in 0.weight; scores of mine.onnx may be NaN\n"
        )

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            ("(y, y)", "the network returns a tuple; --check compares one tensor of logits"),
            ("{'class': y}", "the network returns a dict; --check compares one tensor of logits"),
            ("y.sum()", "the network returns a Tensor of the shape (); --check compares"),
            ("y.argmax(1)", "the network returns a Tensor of the shape (1,); --check compares"),
            (
                "{}['no such key']",
                "own_answer:net: cannot be exported with opset 11: 'no such key'",
            ),
        ],
    )
    def test_networks_that_return_no_logits(self, tmp_path, monkeypatch, capsys, answer, message):
        monkeypatch.syspath_prepend("")
        monkeypatch.delitem(sys.modules, "own_answer", raising=False)
        (tmp_path / "own_answer.py").write_text(
            "import torch\nclass Net(torch.nn.Module):\n"
            "    def forward(self, x):\n"
            f"        y = x.flatten(1)[:, :5]\n        return {answer}\n"
            "net = Net\n"
        )
        words = "--weights random --check --recipe squeezenet1_1_float32 --count 1"
        factory = ["--factory", "own_answer:net", "--size", "224"]
        assert main(["export", "mine", *factory, *words.split()]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "mine.onnx").exists()

    @pytest.mark.parametrize("names", [("x", "x"), ("", "y"), ("x", "")])
    def test_names_of_input_and_output(self, tmp_path, names):
        target = replace(SMALL, input=names[0], output=names[1])
        with pytest.raises(ModelError, match="of the ONNX: give them two names"):
            export(build_network(SMALL, None), target, tmp_path / "a.onnx")
        assert list(tmp_path.iterdir()) == []

    def test_an_input_that_does_not_fit_into_memory(self, tmp_path):
        target = replace(SMALL, height=10_000_000, width=10_000_000)
        with pytest.raises(ModelError, match="cannot be exported"):
            export(build_network(SMALL, None), target, tmp_path / "a.onnx")

    def test_check_fails_beyond_the_tolerance(self, tmp_path, capsys):
        arguments = "export squeezenet1_1 --weights random --check --count 1 --tolerance 1e-12"
        assert main(arguments.split()) == 2
        error = capsys.readouterr().err
        assert "squeezenet1_1.onnx: the ONNX computes other logits: 1 image:" in error
        assert list(tmp_path.iterdir()) == []


def test_the_agreement_counts_what_it_says():
    reference = np.array([[0.0, 2.0], [3.0, -4.0]], np.float32)
    same = compare(reference, reference)
    assert same.within(0.0)
    other = compare(reference, np.array([[0.0, 2.0], [3.0, 3.5]], np.float32))
    assert (other.images, other.max_difference, other.max_logit, other.top1) == (2, 7.5, 4.0, 0.5)
    assert not other.within(1.8)
    assert other.within(1.9)
    broken = compare(reference, np.array([[0.0, np.nan], [3.0, -4.0]], np.float32))
    assert not broken.within(1e9)
    with pytest.raises(ModelError, match=re.escape("(2, 2) and (1, 2)")):
        compare(reference, reference[:1])


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"earlier")
    with pytest.raises(RuntimeError), atomic_output(path) as partial:
        partial.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_onnx(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        onnxfile.read(path)
    for content in (b"", b"<html>404</html>", b"\x08\x07"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="not an ONNX model"):
            onnxfile.read(path)


# ---- networks named by their source ------------------------------------------------------


def assert_weights_to_accuracy(name, network, transform, save, capsys):
    """Exports `network` by its name and weights, for any batch and for two images, and evaluates.

    save: writes the weights into the folder, and returns the arguments that name them. The labels
    are what the network itself answers to the library's own transform, but for the last image.
    """
    _randomize(network, 0)
    words = save(network)
    folders.write(Path("in"), folders.good_files(4))
    answers = []
    for i in range(4):
        with Image.open(f"in/img{i:04d}.JPEG") as image, torch.inference_mode():
            answers.append(int(network(transform(image.convert("RGB"))[None]).argmax()))
    assert len(set(answers)) > 1  # the answer depends on the image
    classes = network(torch.zeros(1, *transform(Image.new("RGB", (99, 99))).shape)).shape[1]
    answers[3] = (answers[3] + 1) % classes
    Path("labels.txt").write_text("".join(f"img{i:04d} {a}\n" for i, a in enumerate(answers)))
    check = ["--check", "--images", "in", "--count", "3"]
    assert main(["export", name, *words, *check, "-o", "any.onnx"]) == 0
    assert "agree on 3 images" in capsys.readouterr().out
    assert len(first_use._proven) == 1  # the recipe, with the library's own transform
    assert main(["export", name, *words, "--batchsize", "2", "-o", "two.onnx"]) == 0
    shapes = [onnxfile.inputs(onnxfile.read(Path(f)))[0].shape for f in ("any.onnx", "two.onnx")]
    assert [shape[0] for shape in shapes] == [None, 2]
    for model in ("any.onnx", "two.onnx"):
        assert main(["eval", model, "in", "labels.txt", "--recipe", name, "-o", "r.json"]) == 0
        assert "75.00" in capsys.readouterr().out


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder, and no memory of recipes that were compared before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(first_use, "_proven", set())
    torch.manual_seed(0)


def saved(network):
    torch.save({"state_dict": network.state_dict()}, "w.pth")
    return ["--weights", "w.pth"]


def test_a_network_of_torchvision(empty, capsys):
    models = libraries.load("torchvision").models
    assert_weights_to_accuracy(
        "torchvision:SqueezeNet1_1_Weights.IMAGENET1K_V1",
        models.squeezenet1_1().eval(),
        models.SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms(),
        saved,
        capsys,
    )


@pytest.mark.slow  # imports timm
def test_a_network_of_timm(empty, capsys):
    timm = libraries.load("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    name = "test_vit.r160_in1k"
    network = timm.create_model(name).eval()
    data = timm.data.resolve_model_data_config(network)

    def saved_safetensors(network):
        safetensors.save_file(network.state_dict(), "w.safetensors")
        return ["--weights", "w.safetensors"]

    transform = timm.data.create_transform(**data)
    assert_weights_to_accuracy(f"timm:{name}", network, transform, saved_safetensors, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet"])
def test_the_test_size_of_timm(empty, architecture):
    """The one takes the size of its images as an argument, the other takes any size."""
    libraries.load("timm")
    sizes = {"input_size": [3, 160, 160], "test_input_size": [3, 192, 192]}
    card = {"architecture": architecture, "num_classes": 10, "pretrained_cfg": sizes}
    Path("config.json").write_text(json.dumps(card))
    words = ["export", "timm:config.json", "--weights", "random", "--check", "--count", "2"]
    assert main([*words, "--test-size"]) == 0
    model = onnxfile.read(Path(f"{architecture}.onnx"))
    assert [str(port) for port in onnxfile.inputs(model)] == ["image:?,3,192,192"]
    assert output_ports(model) == ["class:?,10"]


@pytest.mark.slow  # imports timm
def test_arguments_in_a_card_of_timm(empty):
    """The weights do not tell another pooling, so that no later check would find it."""
    timm = libraries.load("timm")
    card = {
        "architecture": "test_resnet",
        "num_classes": 10,
        "model_args": {"global_pool": "max"},
        "pretrained_cfg": {"num_classes": 1000, "input_size": [3, 160, 160]},
    }
    Path("config.json").write_text(json.dumps(card))
    image = torch.rand(1, 3, 160, 160)
    networks = [timm_network("config.json"), timm.create_model(f"local-dir:{Path.cwd()}")]
    networks[1].load_state_dict(networks[0].state_dict())
    answers = [network.eval()(image) for network in networks]
    assert answers[0].shape == (1, 10)
    assert torch.equal(*answers)


@pytest.mark.slow  # imports transformers
def test_a_network_of_hugging_face(empty, capsys):
    transformers = libraries.load("transformers")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(**size, intermediate_size=16, image_size=32, num_labels=7)
    classifier = transformers.ViTForImageClassification(config).eval()
    processor = {"image_processor_type": "ViTImageProcessor", "size": 32}
    pillow = transformers.ViTImageProcessorPil.from_dict({"size": {"height": 32, "width": 32}})

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.classifier = classifier

        def forward(self, images):
            return self.classifier(pixel_values=images).logits

    def transform(image):
        return torch.from_numpy(pillow(images=image, return_tensors="np")["pixel_values"][0])

    def in_the_folder(network):
        classifier.save_pretrained("vit")
        Path("vit/preprocessor_config.json").write_text(json.dumps(processor))
        return []

    assert_weights_to_accuracy("hf:vit", Logits().eval(), transform, in_the_folder, capsys)
    torch.save(classifier.state_dict(), "w.bin")
    Path("any.onnx").rename("expected.onnx")
    for weights in ("w.bin", "vit/model.safetensors"):
        assert main(["export", "hf:vit", "--weights", weights, "-o", "any.onnx"]) == 0
        images = random_images((None, 3, 32, 32), 2)
        made, expected = (run_onnx(Path(f), images) for f in ("any.onnx", "expected.onnx"))
        np.testing.assert_array_equal(made, expected)
    torch.save({"x": torch.zeros(1)}, "other.bin")
    assert main(["export", "hf:vit", "--weights", "other.bin", "-o", "no.onnx"]) == 2
    assert "weights of another model" in capsys.readouterr().err
    assert not Path("no.onnx").exists()


def test_safetensors_without_tensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"w\.safetensors: weights of another model; keys 8 mis"):
        build_network(SMALL, tmp_path / "w.safetensors")


def test_safetensors_that_are_damaged(tmp_path, capsys):
    pytest.importorskip("safetensors")
    path = tmp_path / "w.safetensors"
    for content in (b"", b"\xff" * 64, b'\x08\0\0\0\0\0\0\0{"a": 1}'):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"w\.safetensors: damaged"):
            build_network(SMALL, path)
