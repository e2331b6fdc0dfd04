"""All steps at once: what is made, what is skipped, and what a change or a failure makes anew."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.support import libraries, paths
from zoofast.base.lock import output_lock
from zoofast.cli import _parser as parser
from zoofast.cli import main
from zoofast.conversion import atc, models, onnxfile
from zoofast.conversion.pipeline import CACHE_NAME, Step, StepCache
from zoofast.errors import ModelError
from zoofast.preprocess.guides import guides
from zoofast.preprocess.recipe_file import load_recipe

STAND_IN = paths.ROOT / "tests/support/stand_in_atc.py"


class TestStepCache:
    @pytest.fixture
    def step(self, tmp_path):
        """A step that copies `in` to `out`, changed by a setting; `calls` counts."""
        source, out, calls = tmp_path / "in", tmp_path / "out", []
        source.write_text("content")

        def step(setting=1, make=None):
            def copy():
                calls.append(setting)
                out.write_text(f"{source.read_text()} {setting}")

            return Step("copy", {"setting": setting}, (source,), out, make or copy)

        step.source, step.out, step.calls, step.folder = source, out, calls, tmp_path
        return step

    def run(self, step, *args):
        return StepCache(step.folder).run(step(*args))

    def test_a_step_is_done_once(self, step):
        assert self.run(step).made
        assert not self.run(step).made
        assert step.calls == [1]

    def test_touching_is_not_changing(self, step):
        self.run(step)
        os.utime(step.source, (0, 0))
        os.utime(step.out, (0, 0))
        assert not self.run(step).made

    @pytest.mark.parametrize(
        "change",
        [
            lambda step: step.source.write_text("changed"),
            lambda step: step.out.write_text("damaged"),
            lambda step: step.out.unlink(),
            lambda step: (step.folder / CACHE_NAME).unlink(),
        ],
    )
    def test_a_change_makes_it_anew(self, step, change):
        self.run(step)
        change(step)
        assert self.run(step).made
        assert step.out.read_text() == f"{step.source.read_text()} 1"
        assert not self.run(step).made

    def test_another_setting_makes_it_anew(self, step):
        self.run(step, 1)
        assert self.run(step, 2).made
        assert step.out.read_text() == "content 2"

    def test_a_failed_step_is_not_taken_for_done(self, step):
        def fail():
            step.out.write_text("half")
            raise ModelError("no")

        self.run(step)
        step.source.write_text("changed")
        with pytest.raises(ModelError):
            self.run(step, 1, fail)
        assert self.run(step).made
        assert step.out.read_text() == "changed 1"

    def test_within_one_run_a_new_file_counts_for_the_next_step(self, step):
        cache = StepCache(step.folder)
        second_out = step.folder / "second"

        def second():
            return Step(
                "second", {}, (step.out,), second_out, lambda: second_out.write_text("made")
            )

        cache.run(step())
        assert cache.run(second()).made
        step.source.write_text("changed")
        cache = StepCache(step.folder)
        assert cache.run(step()).made
        assert cache.run(second()).made
        assert not StepCache(step.folder).run(second()).made

    def test_a_damaged_cache_is_named(self, step):
        (step.folder / CACHE_NAME).write_text("{")
        with pytest.raises(ModelError, match=r"damaged .*; delete it to start anew"):
            StepCache(step.folder)

    def test_a_missing_input_is_named(self, step):
        step.source.unlink()
        with pytest.raises(ModelError, match="in: cannot be read: No such file"):
            self.run(step)


@pytest.fixture
def here(tmp_path, monkeypatch):
    for package in ("torch", "torchvision", "onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"no {package}")
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def with_atc(here):
    program = here / "programs" / "atc"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    program.chmod(0o755)
    return here


def steps(capsys):
    """(step, file, made or kept) of each line that the command printed about a step."""
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    return [
        (line[0], line[1], line[2].strip("(:"))
        for line in lines
        if line and line[0] in ("export", "simplify", "optimize", "aipp", "atc") and len(line) > 2
        if line[2].startswith("(")
    ]


ALL = "convert squeezenet1_1 --weights random --batchsize 1,4 --soc 310P3"


def test_from_weights_to_om_and_nothing_twice(with_atc, capsys):
    assert main(ALL.split()) == 0
    assert steps(capsys) == [
        ("aipp", "squeezenet1_1/aipp.config", "made"),
        ("export", "squeezenet1_1/squeezenet1_1.onnx", "made"),
        ("atc", "squeezenet1_1/squeezenet1_1_bs1.om", "made"),
        ("atc", "squeezenet1_1/squeezenet1_1_bs4.om", "made"),
    ]
    given = json.loads(Path("squeezenet1_1/squeezenet1_1_bs4.om").read_text())
    assert given["insert_op_conf"] == "squeezenet1_1/aipp.config"
    assert given["input_shape"] == "image:4,3,224,224"

    assert main([*ALL.split()[:-4], "--batchsize", "1,4,8", "--soc", "310P3"]) == 0
    assert [kind for *_, kind in steps(capsys)] == ["kept"] * 4 + ["made"]

    assert main([*ALL.split(), "--option", "log=info"]) == 0
    assert [kind for *_, kind in steps(capsys)] == ["kept", "kept", "made", "made"]


@pytest.mark.slow
def test_a_network_of_timm_from_weights_to_om(with_atc, capsys):
    libraries.load("timm")
    card = {"architecture": "test_resnet", "num_classes": 10, "input_size": [3, 160, 160]}
    Path("config.json").write_text(json.dumps(card))
    command = "convert config.json --weights random --batchsize 4 --soc 310P3"
    assert main(command.split()) == 0
    assert steps(capsys) == [
        ("export", "test_resnet/test_resnet.onnx", "made"),
        ("atc", "test_resnet/test_resnet_bs4.om", "made"),
    ]
    given = json.loads(Path("test_resnet/test_resnet_bs4.om").read_text())
    assert given["input_shape"] == "image:4,3,160,160"
    assert main(command.split()) == 0
    assert [kind for *_, kind in steps(capsys)] == ["kept", "kept"]
    Path("config.json").write_text(json.dumps({**card, "num_classes": 11}))
    assert main(command.split()) == 0
    assert [kind for *_, kind in steps(capsys)] == ["made", "made"]


def test_a_failure_keeps_what_is_done_and_goes_on_from_there(with_atc, capsys, monkeypatch):
    monkeypatch.setenv("ZOOFAST_STAND_IN_ATC", "E20001")
    assert main(ALL.split()) == 2
    captured = capsys.readouterr()
    assert "E20001: chosen by the test; an operator does not compile" in captured.err
    assert not list(Path("squeezenet1_1").glob("*.om"))
    monkeypatch.delenv("ZOOFAST_STAND_IN_ATC")
    assert main(ALL.split()) == 0
    assert [kind for *_, kind in steps(capsys)] == ["kept", "kept", "made", "made"]


def test_a_file_with_the_systems_suffix_gets_the_guides_name(with_atc, monkeypatch):
    monkeypatch.setenv("ZOOFAST_STAND_IN_ATC", "suffix")
    assert main(ALL.split()) == 0
    assert sorted(path.name for path in Path("squeezenet1_1").glob("*.om")) == [
        "squeezenet1_1_bs1.om",
        "squeezenet1_1_bs4.om",
    ]


def test_without_cann_the_onnx_and_the_commands_are_left(here, capsys):
    assert main(ALL.split()) == 1
    captured = capsys.readouterr()
    assert captured.out.count("atc --model=squeezenet1_1/squeezenet1_1.onnx --framework=5") == 2
    assert captured.err == (
        "zoofast: not compiled: atc is not on this machine; it comes with CANN, and needs no NPU "
        "itself: run the command where CANN is\n"
    )


def test_without_a_chip_the_commands_are_for_the_guides_chip(here, capsys):
    """Beside the weights, none of the arguments is required."""
    assert main(["convert", "squeezenet1_1", "--weights", "random", "--batchsize", "1,4"]) == 1
    captured = capsys.readouterr()
    commands = [line for line in captured.out.splitlines() if line.startswith("atc ")]
    assert len(commands) == 2
    assert all("--soc_version=Ascend310P3" in command for command in commands)
    assert captured.err.endswith("; Ascend310P3 is the guide's chip, --soc names yours\n")


def test_an_edited_aipp_file_is_not_overwritten(here, capsys):
    assert main(ALL.split()) == 1
    aipp = Path("squeezenet1_1/aipp.config")
    written = aipp.read_text()
    edited = written.replace("123.675", "120")
    for forget_cache in (False, True):
        aipp.write_text(edited)
        if forget_cache:
            Path("squeezenet1_1", CACHE_NAME).unlink()
        capsys.readouterr()
        assert main(ALL.split()) == 2
        error = capsys.readouterr().err
        assert "squeezenet1_1/aipp.config: is not as zoofast wrote it; delete it" in error
        assert error.count("\n") == 1
        assert aipp.read_text() == edited
    aipp.write_text(written)
    assert main(ALL.split()) == 1
    aipp.unlink()
    assert main(ALL.split()) == 1
    assert aipp.read_text() == written


def test_two_runs_into_one_folder(here, capsys):
    Path("squeezenet1_1").mkdir()
    with output_lock("squeezenet1_1"):
        assert main(ALL.split()) == 2
    assert f"squeezenet1_1 is in use by process {os.getpid()}" in capsys.readouterr().err
    assert list(Path("squeezenet1_1").iterdir()) == []


@pytest.mark.parametrize("name", ["squeezenet1_1.onnx", "aipp.config", "squeezenet1_1_bs1.om"])
def test_weights_are_not_replaced(here, capsys, name):
    import torch
    import torchvision

    Path("out").mkdir()
    weights = Path("out", name)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), weights)
    before = weights.read_bytes()
    words = f"convert squeezenet1_1 --weights {weights} -o out --soc 310P3"
    assert main(words.split()) == 2
    error = f"{weights}: convert would replace the file of --weights; name another file"
    assert error in capsys.readouterr().err
    assert weights.read_bytes() == before


def test_a_file_of_another_version_is_overwritten(tmp_path):
    """It is as zoofast wrote it, and only the text that belongs there has changed."""
    output = tmp_path / "aipp.config"

    def step(text):
        return Step("aipp", {"text": text}, (), output, lambda: output.write_text(text), text)

    assert StepCache(tmp_path).run(step("first")).made
    assert StepCache(tmp_path).run(step("second")).made
    assert output.read_text() == "second"


def test_an_atc_without_a_chip_to_compile_for(with_atc, capsys):
    assert main(["convert", "squeezenet1_1", "--weights", "random"]) == 2
    assert "name the chip yourself, as in --soc 310P3" in capsys.readouterr().err
    assert not Path("squeezenet1_1").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("lenet --weights random", "unknown model 'lenet'"),
        (
            "alexnet --weights no.pth",
            "no.pth: no such file; the guide gets alexnet-owt-4df8aa71.pth from https://download."
            "pytorch.org/models/alexnet-owt-4df8aa71.pth; --weights random tries without\n",
        ),
        ("alexnet", "no weights are given; the guide gets alexnet-owt-4df8aa71.pth from https://"),
        ("alexnet --weights random -o file/x", "file/x: cannot be made: Not a directory"),
    ],
)
def test_errors(here, capsys, arguments, message):
    Path("file").write_text("")
    assert main(["convert", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_trained_weights_through_every_step_score_as_the_guides_scripts_do(here, shared):
    if importlib.util.find_spec("onnxsim") is None:
        pytest.skip("no onnxsim")
    sample = shared / "imagenet-sample"
    for command in (
        f"export squeezenet1_1 --weights {shared}/models/squeezenet1_1.pth -o a.onnx "
        f"--check --images {sample}/val",
        "simplify a.onnx -o b.onnx --batchsize 4",
        "optimize b.onnx -o c.onnx -k KnowledgeMergeConsecutiveSlice",
        f"prep {sample}/val bins --recipe squeezenet1_1_float32",
        "infer -m c.onnx -i bins -o out --output_dirname r --outfmt TXT",
        f"score out/r {sample}/val_label.txt -o result.json",
        f"eval b.onnx {sample}/val {sample}/val_label.txt --recipe squeezenet1_1_float32 "
        "-o streamed.json",
    ):
        assert main(command.split()) == 0, command
    golden = (shared / "golden" / "txt" / "squeezenet1_1.json").read_bytes()
    assert Path("result.json").read_bytes() == golden
    assert Path("streamed.json").read_bytes() == golden


def test_nasnet_through_every_step(slim_nasnet, with_atc, capsys):
    arguments = "convert nasnetalarge --weights random --batchsize 1 --soc 310P3 -o out"
    assert main(arguments.split()) == 0
    made = [
        ("export", "out/nasnetlarge.onnx", "made"),
        ("simplify", "out/nasnetlarge_sim1.onnx", "made"),
        ("optimize", "out/nasnetlarge_sim1_merge.onnx", "made"),
        ("atc", "out/nasnetlarge_sim1_merge.onnx.om", "made"),
    ]
    assert steps(capsys) == made
    merged = onnxfile.read(Path("out/nasnetlarge_sim1_merge.onnx"))
    assert [str(port) for port in onnxfile.inputs(merged)] == ["image:1,3,331,331"]
    assert main(arguments.split()) == 0
    assert steps(capsys) == [(*step[:2], "kept") for step in made]


# From the guides' tables: (model, chip) -> the batch size that is best there, and its img/s.
BEST = {
    ("alexnet", "310P3"): (64, 12672),
    ("resnet34", "310P3"): (32, 5527.69),
    ("squeezenet1_1", "310P3"): (8, 21301.5),
    ("squeezenet1_1", "310B1"): (4, 4576.65),
    ("inceptionv4", "310P3"): (4, 1498.5),
    ("nasnetalarge", "310P3"): (4, 175.744),
}


class TestModels:
    def test_speeds_are_the_guides(self):
        known = [models.load(name) for name in models.names()]
        assert {(m.name, chip): m.best(chip) for m in known for chip in m.fps} == BEST
        assert all(list(fps) == [1, 4, 8, 16, 32, 64] for m in known for fps in m.fps.values())
        with pytest.raises(ModelError, match="no figures for chip '910B'; its guide has 310P3"):
            models.load("alexnet").best("910B")

    def test_speeds_stand_in_the_guides_pages(self, shared):
        for name in models.names():
            page = (shared / "guides" / f"{models.load(name).guide}.md").read_text("utf-8")
            numbers = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", page)}
            for rates in models.load(name).fps.values():
                assert set(rates.values()) <= numbers

    def test_every_model_has_its_recipe(self):
        for name in models.names():
            known = models.load(name)
            assert known.recipe in guides()
            assert load_recipe(known.recipe).accuracy is not None

    def test_the_table(self, capsys):
        assert main(["models"]) == 0
        lines = capsys.readouterr().out.splitlines()
        rows = {line.split()[0]: line.split()[1:] for line in lines if line}
        assert set(guides()) <= set(rows)
        squeezenet = ["224x224", "uint8", "57.32", "80.06", "21,302", "310P3"]
        assert rows["squeezenet1_1"] == squeezenet
        assert rows["convnext"][:3] == ["224x224", "float32", "81.948"]
        assert rows["tnt"][0] == "224x224"  # of the picture; the network takes a layer's output
        assert rows["simclr_inference"][1] == "-"  # its pictures are drawn at random
        assert "142 models; accuracy" in "\n".join(lines)

    @pytest.mark.parametrize(
        ("arguments", "names"),
        [
            ("--input 299 --dtype uint8", {"inceptionv3_builtin"}),
            ("--input 256x128", {"osnet", "reid"}),
            ("--dtype float16", {"mobilenetv3"}),
            ("--input 331", {"nasnetalarge", "pnasnet5large"}),
            ("--task face", {"dsfd", "faceboxes", "facenet", "retinaface"}),
            ("--task detection --input 640 --dtype uint8", {"yolof_builtin"}),
        ],
    )
    def test_filters(self, capsys, arguments, names):
        assert main(["models", "--json", *arguments.split()]) == 0
        assert {entry["name"] for entry in json.loads(capsys.readouterr().out)} == names

    def test_no_model_is_an_error(self, capsys):
        assert main(["models", "--input", "17"]) == 2
        assert "no model has this input size" in capsys.readouterr().err
        assert main(["models", "lenet"]) == 2
        error = capsys.readouterr().err
        assert "unknown model 'lenet'" in error
        assert error.count("\n") == 1

    def test_one_in_full(self, capsys):
        assert main(["models", "nasnetalarge"]) == 0
        out = capsys.readouterr().out
        assert "ONNX      image:?,3,331,331 -> class:?,1001" in out
        assert ["4", "175.74"] in [line.split() for line in out.splitlines()]

    @pytest.mark.parametrize("name", sorted(guides()))
    def test_the_commands_of_a_guide_are_commands(self, name, tmp_path, monkeypatch, capsys):
        """Each line is one that zoofast takes, and each file is made by an earlier line."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "80")
        assert main(["models", name]) == 0
        out = capsys.readouterr().out
        unbroken = ("weights ", "ONNX ", f"{name} ", "batch ")  # a URL, a path, a table
        lines = [line for line in out.splitlines() if not line.startswith(unbroken)]
        assert max(map(len, lines)) <= 80
        out = out.replace(" \\\n      ", " ")
        guide = guides()[name]
        lines = [line[2:] for line in out.splitlines() if line.startswith("  ")]
        commands = [line for line in lines if line.startswith("zoofast ")]
        if guide.recipe is None:
            assert commands == []
            assert f"there is none: {guide.missing}" in " ".join(out.split())
            return
        verbs = [command.split()[1] for command in commands]
        assert verbs[0] == "prep"
        assert {"atc", "infer"} <= set(verbs)
        assert ("aipp" in verbs) == (load_recipe(name).dtype == "uint8")
        assert ("score" in verbs) == (not guide.answers)
        exports = re.findall(r"(?:-o|# export) (\S+\.onnx)", out)
        for command in commands:
            words = shlex.split(command, comments=True)[1:]
            arguments = parser(words[0]).parse_args(words)
            if words[0] in ("atc", "simplify", "optimize"):
                assert str(arguments.model) in exports
            if words[0] == "prep" and guide.side_file and "--side-line" not in words:
                assert arguments.side_file == guide.side_file
            if words[0] in ("atc", "infer") and arguments.batchsize:
                batches = arguments.batchsize
                batch = batches if isinstance(batches, int) else batches[0]
                assert batch % guide.packing.images == 0
            if words[0] == "atc":
                made = atc.build(
                    load_recipe(name), arguments.model, arguments.batchsize[0], "Ascend310"
                )
            if words[0] in ("infer", "eval"):
                assert Path(arguments.model) == made.output

    @pytest.mark.parametrize("name", models.names())
    def test_the_files_have_one_spelling(self, shared, capsys, name):
        """The guide's: every ONNX that zoofast names stands on the guide's page."""
        known = models.load(name)
        page = (shared / "guides" / f"{known.guide}.md").read_text("utf-8")
        files = [known.onnx + ".onnx", known.atc_input(1)]
        if name != "squeezenet1_1":  # whose page has a variable in the place of the name
            assert all(file in page for file in files)
        assert main(["models", name]) == 0
        batch = known.best("310P3")[0]
        out = capsys.readouterr().out
        assert re.findall(r"zoofast atc (\S+)", out) == [known.atc_input(batch)]

    @pytest.mark.parametrize("columns", [60, 80])
    def test_a_narrow_terminal_cuts_no_number(self, capsys, monkeypatch, columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["models"]) == 0
        out = capsys.readouterr().out
        table = out[: out.index("142 models")]
        assert max(map(len, table.splitlines())) <= columns
        assert "…" not in out
        for known in map(models.load, models.names()):
            for chip in known.fps:
                assert re.search(rf" {known.best(chip)[1]:,.0f} +{chip}\b", out)
            accuracy = load_recipe(known.recipe).accuracy
            row = next(line for line in table.splitlines() if line.startswith(f"{known.name} "))
            assert f" {accuracy['top1']} " in row
            assert (f" {accuracy['top5']} " in row) == (columns == 80)

    def test_json(self, capsys):
        assert main(["models", "squeezenet1_1", "--json"]) == 0
        (model,) = json.loads(capsys.readouterr().out)
        assert model["fps"]["310B1"]["64"] == 822.58
        assert model["accuracy"] == {"top1": 57.32, "top5": 80.06}
