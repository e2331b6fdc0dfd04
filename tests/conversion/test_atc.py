"""ATC: the guides' commands text for text, npu-smi's tables, checks, runs and their endings."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import paths
from zoofast.cli import main
from zoofast.conversion import aipp_file, atc, models
from zoofast.conversion.npu_smi import Npu, parse, soc_version
from zoofast.errors import BackendError, ModelError, OutputError
from zoofast.preprocess.recipe_file import load_recipe

STAND_IN = paths.ROOT / "tests/support/stand_in_atc.py"

# What each guide tells its reader to run for batch 8, its line breaks taken out and its shell
# variables filled in (chip 310P3). The second word is the ONNX that it is run on.
GUIDES = {
    "alexnet": (
        "./alexnet.onnx",
        "atc --model=./alexnet.onnx --framework=5 --output=./onnx_alexnet_bs8 "
        '--input_format=NCHW --input_shape="actual_input_1:8,3,224,224" --log=debug '
        "--soc_version=Ascend310P3",
    ),
    "resnet34": (
        "./resnet34.onnx",
        "atc --framework=5 --model=./resnet34.onnx --output=resnet34_bs8 --input_format=NCHW "
        '--input_shape="image:8,3,224,224" --log=error --soc_version=Ascend310P3',
    ),
    "squeezenet1_1": (
        "squeezenet1_1.onnx",
        "atc --model=squeezenet1_1.onnx --framework=5 --output=squeezenet1_1_bs8 "
        '--input-shape="image:8,3,224,224" --log=error --soc_version=Ascend310P3 '
        "--enable_small_channel=1 --insert_op_conf=aipp.config",
    ),
    "inceptionv4": (
        "inceptionv4.onnx",
        "atc --framework=5 --model=inceptionv4.onnx --output=inceptionv4_bs8 --input_format=NCHW "
        '--input_shape="image:8,3,299,299" --log=error --soc_version=Ascend310P3',
    ),
    "nasnetalarge": (
        "nasnetlarge_sim8_merge.onnx",
        "atc --framework=5 --model=nasnetlarge_sim8_merge.onnx --input_format=NCHW "
        '--input_shape="image:8,3,331,331" --output=nasnetlarge_sim8_merge.onnx --log=debug '
        "--soc_version=Ascend310P3",
    ),
}


@pytest.mark.parametrize("name", GUIDES)
def test_the_guides_commands_text_for_text(name, capsys):
    model, text = GUIDES[name]
    arguments = ["atc", model, "--recipe", name, "--batchsize", "8", "--soc", "310P3", "--dry-run"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == text + "\n"


@pytest.mark.parametrize(
    "name",
    ["x y", 'a"b', "$HOME", "`id`", "a\\b", "it's", "!!", "*", "~", "#", "a;b", "é", "(x)", "a&b"],
)
@pytest.mark.parametrize("guide", ["alexnet", "squeezenet1_1"])
def test_a_shell_makes_the_same_arguments_of_any_input_name(guide, name):
    recipe = replace(load_recipe(guide), input_name=name)
    command = atc.build(recipe, f"{name}.onnx", 1, "Ascend310P3", aipp=f"{name}.config")
    shell = ["sh", "-c", f'atc() {{ printf "%s\\0" atc "$@"; }}; {command}']
    arguments = subprocess.run(shell, capture_output=True, check=True).stdout.decode()
    assert arguments.split("\0")[:-1] == ["atc", *command.argv()]


@pytest.mark.parametrize("name", GUIDES)
def test_the_arguments_are_what_a_shell_makes_of_the_text(name):
    import shlex

    model, text = GUIDES[name]
    command = atc.build(load_recipe(name), model, 8, "Ascend310P3")
    assert ["atc", *command.argv()] == shlex.split(text)


@pytest.mark.parametrize("name", GUIDES)
def test_the_guides_own_pages_have_the_same_commands(shared, name):
    """For batch 1, the one that every guide shows; its variables filled in, its lines joined."""
    page = (shared / "guides" / f"{models.load(name).guide}.md").read_text(encoding="utf-8")
    page = re.sub(r"\\\n", " ", page)
    for variable, value in (
        ("${bs}", "1"),
        ("{batch size}", "1"),
        ("${chip_name}", "310P3"),
        ("${onnx_file}", "squeezenet1_1.onnx"),
    ):
        page = page.replace(variable, value)
    shown = [" ".join(line.split()) for line in page.splitlines() if line.lstrip()[:4] == "atc "]
    assert shown
    model = GUIDES[name][0].replace("8", "1")
    command = str(atc.build(load_recipe(name), model, 1, "Ascend310P3"))
    assert set(shown) == {command}


def test_every_known_model_has_a_command():
    assert list(GUIDES) == models.names()


def test_batch_sizes_and_names_of_ones_own(capsys):
    arguments = "atc n_{batch}.onnx -o out/n{batch} --recipe nasnetalarge --batchsize 1,16"
    assert main([*arguments.split(), "--soc", "Ascend310B1", "--dry-run"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "--model=n_1.onnx" in first
    assert "--output=out/n1 " in first
    assert '--model=n_16.onnx --input_format=NCHW --input_shape="image:16,3,331,331"' in second
    assert second.endswith("--output=out/n16 --log=debug --soc_version=Ascend310B1")


def test_a_recipe_without_a_guide_gets_the_usual_options():
    command = atc.build(load_recipe("squeezenet1_1_float32"), "m.onnx", 4, "Ascend310")
    assert str(command) == (
        "atc --framework=5 --model=m.onnx --output=squeezenet1_1_float32_bs4 --input_format=NCHW "
        '--input_shape="image:4,3,224,224" --log=error --soc_version=Ascend310'
    )
    with_aipp = atc.build(load_recipe("resnet34"), "m.onnx", 4, "Ascend310", aipp="my aipp")
    assert str(with_aipp).endswith("--enable_small_channel=1 --insert_op_conf='my aipp'")


def test_options_replace_whatever_their_spelling_or_follow():
    options = {
        "log": "info",
        "input_shape": "image:1,3,9,9",
        "op_select_implmode": "high_precision",
    }
    command = atc.build(load_recipe("squeezenet1_1"), "m.onnx", 1, "Ascend310", options=options)
    assert command.argv() == [
        "--model=m.onnx",
        "--framework=5",
        "--output=squeezenet1_1_bs1",
        "--input-shape=image:1,3,9,9",
        "--log=info",
        "--soc_version=Ascend310",
        "--enable_small_channel=1",
        "--insert_op_conf=aipp.config",
        "--op_select_implmode=high_precision",
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("--log", "info"), ("l g", "x"), ("log", ""), ("log", "info\u00a0")]
)
def test_options_that_atc_would_misread_are_refused(name, value):
    with pytest.raises(ModelError, match="ATC option"):
        atc.build(load_recipe("alexnet"), "m", 1, "Ascend310", options={name: value})


TABLE_310P = """
+--------------------------------------------------------------------------------------+
| npu-smi 22.0.3                                   Version: 22.0.3                       |
+-------------------+-----------------+------------------------------------------------------+
| NPU     Name      | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device    | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===================+=================+======================================================+
| 0       310P3     | OK              | 15.8         42                0    / 0              |
| 0       0         | 0000:82:00.0    | 0            1074 / 21534                            |
+===================+=================+======================================================+
| 11      310P3     | OK              | NA           43                0    / 0              |
| 0       1         | 0000:89:00.0    | 0            1070 / 21534                            |
+-------------------+-----------------+------------------------------------------------------+
| 11      310P3     | OK              | NA           43                0    / 0              |
| 1       2         | 0000:89:00.0    | 0            1070 / 21534                            |
+===================+=================+======================================================+
+-------------------+-----------------+------------------------------------------------------+
| NPU     Chip      | Process id      | Process name             | Process memory(MB)        |
+===================+=================+======================================================+
| 0       310       | 123             | python3                  | 100                       |
+===================+=================+======================================================+
"""
TABLE_910B = """
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 90.1        36                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          59356/ 65536         |
+===========================+===============+====================================================+
| 2144  910B3               | Warning       | 90.1        36                0    / 0             |
| 0                         | 0000:01:00.0  | 0           0    / 0          3371 / 65536         |
+===========================+===============+====================================================+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| No running processes found in NPU 0                                                            |
"""
TABLE_A3 = """
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 3     Ascend910_9392      | OK            | 172.1       36                0    / 0             |
| 0     6                   | 0000:9D:00.0  | 0           0    / 0          2869 / 65536         |
+------------------------------------------------------------------------------------------------+
| 3     Ascend910_9392      | OK            | -           36                0    / 0             |
| 1     7                   | 0000:9F:00.0  | 0           0    / 0          2868 / 65536         |
+===========================+===============+====================================================+
"""


@pytest.mark.parametrize(
    ("text", "chips"),
    [
        (TABLE_310P, [Npu(0, 0, "310P3", 0), Npu(11, 0, "310P3", 1), Npu(11, 1, "310P3", 2)]),
        (TABLE_910B, [Npu(0, 0, "910B3", None), Npu(2144, 0, "910B3", None)]),
        (TABLE_A3, [Npu(3, 0, "910_9392", 6), Npu(3, 1, "910_9392", 7)]),
        ("", []),
        ("dcmi module initialize failed. ret is -8005", []),
        (TABLE_310P[:600], []),
        (
            TABLE_310P.replace("| 0       310P3", f"| {'1' * 5000} 310P3"),
            [Npu(11, 0, "310P3", 1), Npu(11, 1, "310P3", 2)],
        ),
    ],
)
def test_the_tables_of_npu_smi(text, chips):
    assert parse(text) == chips


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Puts an executable of a given shell script into PATH, as its only folder but /bin's."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def add(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return add


class TestSoc:
    def test_it_is_named_or_asked_for(self, programs):
        programs("npu-smi", f'test "$1" = info && cat <<END\n{TABLE_310P}\nEND')
        assert soc_version("auto") == "Ascend310P3"
        assert soc_version("310B4") == soc_version("Ascend310B4") == "Ascend310B4"

    @pytest.mark.parametrize(
        ("script", "message"),
        [
            ("exit 0", "shows no NPU"),
            ("echo dcmi failed >&2; exit 8", "failed with code 8: dcmi failed"),
            (f"cat <<END\n{TABLE_310P}{TABLE_310P.replace('310P3', '310')}\nEND", None),
            (
                f"cat <<END\n{TABLE_310P.replace('11      310P3', '11      310B1')}\nEND",
                "different NPUs here: Ascend310B1, Ascend310P3; choose one",
            ),
        ],
    )
    def test_what_npu_smi_may_answer(self, programs, script, message):
        programs("npu-smi", script)
        if message is None:  # what follows the first table of processes does not count
            assert soc_version("auto") == "Ascend310P3"
            return
        with pytest.raises(BackendError, match=message):
            soc_version("auto")

    def test_without_npu_smi(self, programs):
        with pytest.raises(BackendError, match="npu-smi is not on this machine"):
            soc_version("auto")

    @pytest.mark.parametrize("text", ["", "P3", "Ascend", "310-P3", "Ascend310P3 ", "ascend310"])
    def test_what_is_no_chip(self, text):
        with pytest.raises(BackendError, match="not a chip's name"):
            soc_version(text)


@pytest.fixture
def onnx_file(tmp_path, monkeypatch):
    """Writes a model with the input of `name:shape` and one node; in the working directory."""
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)

    def write(path, name, *shape):
        helper, kind = onnx.helper, onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            [helper.make_node("Flatten", [name], ["class"])],
            "g",
            [helper.make_tensor_value_info(name, kind, shape)],
            [helper.make_tensor_value_info("class", kind, [None, None])],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)]), path)
        return path

    return write


@pytest.fixture
def stand_in(programs):
    programs("atc", f'exec "{sys.executable}" "{STAND_IN}" "$@"')


# Writes half a file as ATC's output, in a shell.
WRITE_HALF = (
    "for word; do case $word in --output=*) out=${word#--output=};; esac; done; "
    'echo half > "$out.om"'
)


AIPP_TEXT = """aipp_op {
    aipp_mode: static  # comment
    input_format : RGB888_U8
    src_image_size_w : 224
    src_image_size_h : 224
    min_chn_0 : 123.675
    min_chn_1 : 116.28
    min_chn_2 : 103.53
    var_reci_chn_0 : 0.0171247538316637
    var_reci_chn_1 : 0.0175070028011204
    var_reci_chn_2 : 0.0174291938997821
}
"""


def is_running(pid):
    """Whether a process exists and has not ended, also where nobody has waited for its end."""
    try:
        return not re.search(r"^State:\s+Z", Path("/proc", pid, "status").read_text(), re.MULTILINE)
    except FileNotFoundError:
        return False


def wait_for_end_of(pid):
    """Fails when a process of ATC goes on."""
    deadline = time.monotonic() + 60
    while is_running(pid.strip()):
        assert time.monotonic() < deadline, "a process of ATC goes on"
        time.sleep(0.05)


@pytest.mark.usefixtures("stand_in")
class TestRun:
    @staticmethod
    def atc(*arguments):
        return main(["atc", *arguments, "--soc", "310P3"])

    @pytest.mark.parametrize("name", GUIDES)
    def test_the_guides_commands_are_valid(self, name, onnx_file, tmp_path, capsys):
        recipe = load_recipe(name)
        onnx_file("model.onnx", recipe.input_name, "-1", 3, *recipe.input_size)
        (tmp_path / "aipp.config").write_text(AIPP_TEXT)
        assert self.atc("model.onnx", "--recipe", name, "--batchsize", "1,4") == 0
        for batch in (1, 4):
            command = atc.build(recipe, "model.onnx", batch, "Ascend310P3")
            given = json.loads(command.output.read_text())
            assert given["input_shape"] == (
                f"{recipe.input_name}:{batch},3,{recipe.input_size[0]},{recipe.input_size[1]}"
            )
            log = command.output.with_suffix(".atc.log")
            assert "ATC run success" in log.read_text()
        out = capsys.readouterr().out
        assert out.count("ATC start working now") == 2
        assert len(list(tmp_path.glob("*.om"))) == 2

    @pytest.mark.parametrize(
        ("shape", "arguments", "message"),
        [
            (None, "--recipe resnet34", "model.onnx: cannot be read: No such file"),
            (
                ("x", "N", 3, 224, 224),
                "--recipe resnet34",
                "its input is called 'x', in the recipe",
            ),
            (("image", "N", 3, 299, 299), "--recipe resnet34", "its input is image:?,3,299,299"),
            (("image", "N", 224, 224, 3), "--recipe resnet34", "its input is image:?,224,224,3"),
            (("image", "N", 1000), "--recipe resnet34", "a classifier has one 4-D input"),
            (
                ("image", 1, 3, 224, 224),
                "--recipe resnet34 --batchsize 1,4",
                "its batch is fixed to 1, not 4; run `zoofast simplify` with --batchsize 4",
            ),
            (
                ("image", "N", 3, 224, 224),
                "--recipe squeezenet1_1",
                "aipp.config: no such file; run `zoofast aipp squeezenet1_1 -o aipp.config`",
            ),
            (("image", "N", 3, 224, 224), "--recipe resnet34 -o no/x", "the folder does not exist"),
            (("image", "N", 3, 224, 224), "--recipe resnet34 -o ./", "is a folder; name a file"),
            (("image", "N", 3, 224, 224), "--recipe resnet34 -o folder", "folder.om: is a folder"),
            (
                ("image", "N", 3, 224, 224),
                "--recipe resnet34 -o x --batchsize 1,4",
                "x.om: is the .om of several batch sizes; put {batch} into its name",
            ),
            (
                ("image", "N", 3, 224, 224),
                "--recipe resnet34 --option output=x --batchsize 1,4 --dry-run",
                "x.om: is the .om of several batch sizes; put {batch} into its name",
            ),
            (("image", "N", 3, 224, 224), "--recipe nothing", "unknown recipe 'nothing'"),
        ],
    )
    def test_inputs_are_checked_first(self, shape, arguments, message, onnx_file, capsys, tmp_path):
        if shape:
            onnx_file("model.onnx", *shape)
        Path("folder.om").mkdir(parents=True)
        assert self.atc("model.onnx", *arguments.split()) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert "ATC start" not in captured.out
        assert list(tmp_path.glob("*.om")) == [tmp_path / "folder.om"]

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("224\n", "0\n"),  # the size of the network's input
            ("input_format : RGB888_U8", 'input_format: 3, related_input_name: "image";'),
            ("}", "crop : false csc_switch : false }"),
            ("min_chn_0 : 123.675", "mean_chn_0 : 123\n min_chn_0 : 0.675"),
            ("min_chn_0 : 123.675", "min_chn_0 : 123.7"),  # the same in float16
            ("0171247538316637", "0171248"),
            ("aipp_op {", "# two words: {\naipp_op{"),
        ],
    )
    def test_an_aipp_file_that_says_the_same(self, onnx_file, tmp_path, old, new):
        onnx_file("model.onnx", "image", "N", 3, 224, 224)
        assert old in AIPP_TEXT
        (tmp_path / "my.config").write_text(AIPP_TEXT.replace(old, new))
        aipp_file.check(tmp_path / "my.config", load_recipe("squeezenet1_1"))
        aipp_file.check(tmp_path / "my.config", load_recipe("squeezenet1_1_float32"))

    @pytest.mark.parametrize("recipe", ["squeezenet1_1", "resnet34"])
    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("123.675", "123.4", "mean_chn_0 + min_chn_0 is 123.4, not 123.675"),
            ("    min_chn_1 : 116.28\n", "", "mean_chn_1 + min_chn_1 is 0, not 116.28"),
            ("min_chn_2", "mean_chn_2 : 1\nmin_chn_2", "mean_chn_2 + min_chn_2 is 104.53, not "),
            ("0.0171247538316637", "1", "var_reci_chn_0 is 1, not 0.0171248"),
            ("var_reci_chn_1 : 0.0175070028011204", "", "var_reci_chn_1 is 1, not 0.017507"),
            ("0.0174291938997821", "nan", "var_reci_chn_2 is nan, not 0.0174292"),
            ("RGB888_U8", "YUV420SP_U8", "input_format is YUV420SP_U8, not RGB888_U8"),
            ("input_format : RGB888_U8", "", "input_format is missing, not RGB888_U8"),
            ("min_chn_0", "rbuv_swap_switch : true min_chn_0", "rbuv_swap_switch is true, not fa"),
            ("min_chn_0", "csc_switch : true min_chn_0", "csc_switch is true, not false"),
            ("min_chn_0", "padding : 1 min_chn_0", "padding is true, not false"),
            ("min_chn_0", "related_input_rank: 1 min_chn_0", "related_input_rank is 1, not 0"),
            (
                "size_w : 224",
                "size_w : 225",
                "src_image_size_w is 225, not 224; crop_size_w is 225",
            ),
            (
                "min_chn_0",
                "crop : 1 crop_size_w : 224 crop_size_h : 224 load_start_pos_h : 9 min_chn_0",
                "load_start_pos_h is 9, not 0;",
            ),
            ("aipp_op", "aipp", "it is not one aipp_op"),
            ("}", "}\naipp_op { aipp_mode: static }", "it is not one aipp_op"),
            ("min_chn_0 :", "min_chn_0\uff1a", "is not of the form key : value"),
            ("min_chn_0 : 123.675", "min_chn_0 : 1 min_chn_0 : 2", "min_chn_0 is given twice"),
            ("123.675", "much", "min_chn_0 is 'much', not a number"),
            ("size_w : 224", "size_w : 2.5", "src_image_size_w is '2.5', not a whole number"),
            ("min_chn_0", "crop : yes min_chn_0", "crop is 'yes', not true or false"),
            ("comment", "\udcff", "it is not UTF-8"),
        ],
    )
    def test_an_aipp_file_that_contradicts_the_recipe(
        self, onnx_file, recipe, old, new, message, capsys, tmp_path
    ):
        onnx_file("model.onnx", "image", "N", 3, 224, 224)
        assert old in AIPP_TEXT
        text = AIPP_TEXT.replace(old, new, 1)
        (tmp_path / "my.config").write_bytes(text.encode(errors="surrogateescape"))
        assert self.atc("model.onnx", "--recipe", recipe, "--aipp", "my.config") == 2
        captured = capsys.readouterr()
        assert "my.config: " in captured.err
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert "ATC start" not in captured.out
        assert list(tmp_path.glob("*.om")) == []

    def test_the_files_of_zoofast_aipp_fit_their_recipes_alone(self, onnx_file, tmp_path):
        names = ["resnet34", "inceptionv4", "bilinear256_224_dpn", "bilinear224_224_half"]
        for name in names:
            assert main(["aipp", name, "-o", f"{name}.config"]) == 0
        for file in names:
            for name in names:
                if file == name:
                    aipp_file.check(tmp_path / f"{file}.config", load_recipe(name))
                    continue
                with pytest.raises(ModelError, match="makes another input than the recipe"):
                    aipp_file.check(tmp_path / f"{file}.config", load_recipe(name))

    def test_a_crop_of_aipp_is_the_recipes(self, tmp_path):
        recipe = replace(load_recipe("squeezenet1_1"), size=(256, 256))
        text = AIPP_TEXT.replace("224", "256").replace("aipp_op {", "aipp_op {\ncrop : true")
        cropped = text.replace("}", "load_start_pos_w:16 load_start_pos_h:16 SIZE}")
        for size, message in (("224", None), ("223", "crop_size_h is 223, not 224")):
            file = tmp_path / "my.config"
            file.write_text(cropped.replace("SIZE", f"crop_size_h:{size} crop_size_w:224"))
            if message is None:
                aipp_file.check(file, recipe)
                continue
            with pytest.raises(ModelError, match=message):
                aipp_file.check(file, recipe)

    def test_what_is_no_aipp_file(self, onnx_file, tmp_path, capsys):
        onnx_file("model.onnx", "image", "N", 3, 224, 224)
        os.mkfifo("pipe")
        for name, message in ((".", "Is a directory"), ("pipe", "not a regular file")):
            assert self.atc("model.onnx", "--recipe", "resnet34", "--aipp", name) == 2
            assert f"{name}: cannot be read: {message}" in capsys.readouterr().err

    def test_a_file_of_dynamic_aipp_fits_every_recipe(self, tmp_path):
        file = tmp_path / "dynamic.config"
        file.write_text("aipp_op { aipp_mode: dynamic\nmax_src_image_size: 150528 }")
        aipp_file.check(file, load_recipe("squeezenet1_1"))

    @pytest.mark.parametrize("batch", ["0", "-1", "1,x", "4,4", ""])
    def test_batch_sizes_that_are_none(self, batch, capsys):
        with pytest.raises(SystemExit):
            self.atc("model.onnx", "--recipe", "resnet34", "--batchsize", batch)
        assert "argument --batchsize: " in capsys.readouterr().err

    @pytest.fixture
    def command(self, onnx_file):
        onnx_file("model.onnx", "image", "N", 3, 224, 224)
        return atc.build(load_recipe("resnet34"), "model.onnx", 1, "Ascend310P3")

    @pytest.mark.parametrize(
        ("ending", "message"),
        [
            (
                "E20001",
                "atc failed for resnet34_bs1.om (exit code 255): E20001: chosen by the test; "
                "an operator does not compile: check --soc; see the log for its name; "
                "the whole output is in log.txt",
            ),
            ("E19010", "export with a lower --opset"),
            ("EZ3002", "this chip lacks an operator"),
            ("E99999", "zoofast knows no cure for this output"),
            ("silent", "atc ended for resnet34_bs1.om without its line of success or the file"),
            ("empty", "atc ended for resnet34_bs1.om without its line of success or the file"),
        ],
    )
    @pytest.mark.parametrize("earlier", [False, True])
    def test_failures_are_explained_and_leave_the_earlier_model(
        self, command, ending, message, earlier, monkeypatch, tmp_path
    ):
        if earlier:
            command.output.write_text("earlier")
        (tmp_path / "resnet34_bs16.om").write_text("another")
        monkeypatch.setenv("ZOOFAST_STAND_IN_ATC", ending)
        with pytest.raises(ModelError) as caught:
            atc.run(command, Path("log.txt"), lambda text: None)
        assert message in str(caught.value)
        assert "ATC start working" in Path("log.txt").read_text()
        assert command.output.exists() == earlier
        assert not earlier or command.output.read_text() == "earlier"
        assert (tmp_path / "resnet34_bs16.om").read_text() == "another"
        assert list(tmp_path.glob(".*")) == []

    @pytest.mark.parametrize("made", [': > "$out.om"', 'mkdir "$out.om"', 'ln -s no "$out.om"'])
    def test_what_is_no_model_does_not_replace_the_earlier_one(self, command, programs, made):
        command.output.write_text("earlier")
        programs("atc", f"{WRITE_HALF}; rm $out.om; {made}; echo ATC run success")
        with pytest.raises(ModelError, match="without its line of success or the file"):
            atc.run(command, Path("log.txt"), lambda text: None)
        assert command.output.read_text() == "earlier"

    def test_a_name_with_the_systems_suffix_is_found(self, command, monkeypatch):
        monkeypatch.setenv("ZOOFAST_STAND_IN_ATC", "suffix")
        made = atc.run(command, Path("log.txt"), lambda text: None)
        assert made == Path("resnet34_bs1_linux_aarch64.om")

    def test_output_is_passed_on_while_atc_works(self, command, programs):
        programs("atc", "printf 'first.'; read line < fifo; printf '.second'")
        os.mkfifo("fifo")
        heard = []

        def echo(text):
            heard.append(text)
            if len(heard) == 1:
                Path("fifo").write_text("go on\n")  # it waits until its first words were heard

        with pytest.raises(ModelError, match="without its line of success"):
            atc.run(command, Path("log.txt"), echo)
        assert heard == ["first.", ".second"]
        assert Path("log.txt").read_text() == "first..second"

    def test_the_end_of_atc_is_its_end_whatever_its_children_do(self, command, programs):
        """A child that holds ATC's output is not waited for, and does not go on."""
        child = "{ sleep 10; echo > late; } & echo $! > pid"
        programs("atc", f"{child}; {WRITE_HALF}; printf 'ATC run success \\303\\251'")
        heard = []
        assert atc.run(command, Path("log.txt"), heard.append) == command.output
        assert not Path("late").exists()
        assert "".join(heard) == Path("log.txt").read_text() == "ATC run success é"
        wait_for_end_of(Path("pid").read_text())

    def test_output_that_atc_closes_early(self, command, programs):
        programs("atc", f"{WRITE_HALF}; echo ATC run success; exec >&- 2>&-; sleep 1; echo > late")
        assert atc.run(command, Path("log.txt"), lambda text: None) == command.output
        assert Path("late").exists()

    def test_the_last_words_of_atc_are_heard(self, command, programs):
        """As much as a pipe holds, written at once before the end."""
        programs("atc", f"{WRITE_HALF}; head -c 65000 /dev/zero | tr '\\0' x; echo ATC run success")
        heard = []
        atc.run(command, Path("log.txt"), heard.append)
        assert "".join(heard) == "x" * 65000 + "ATC run success\n"

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_no_process_of_atc_outlives_zoofast(self, command, programs, number):
        programs("atc", "sleep 600 & echo $! $$ > pids; echo begun; wait")
        words = [sys.executable, "-c", "from zoofast.cli import main; raise SystemExit(main())"]
        with subprocess.Popen(
            [*words, "atc", "model.onnx", "--recipe", "resnet34", "--soc", "310P3"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(paths.ROOT)},
            # pytest may run without Ctrl-C, which a child inherits
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            assert b"begun\n" in (process.stdout.readline(), process.stdout.readline())
            process.send_signal(number)
            assert process.wait() == (-number if number == signal.SIGKILL else 128 + number)
        for pid in Path("pids").read_text().split():
            wait_for_end_of(pid)

    def test_a_killed_run_loses_nothing(self, command, programs, tmp_path):
        """While ATC works, the earlier .om is in its place, and ATC writes elsewhere."""
        command.output.write_text("earlier")
        programs("atc", WRITE_HALF + "; echo $$ > pid; echo begun; exec sleep 600")
        script = (
            "import sys; from pathlib import Path; from zoofast.conversion import atc;"
            "command = atc.Command((('--output', 'resnet34_bs1'),));"
            "atc.run(command, Path('log.txt'), lambda text: print(text, end='', flush=True))"
        )
        environment = {**os.environ, "PYTHONPATH": str(paths.ROOT)}
        words = [sys.executable, "-c", script]
        with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout.readline() == b"begun\n"
            with pytest.raises(
                OutputError, match=f"resnet34_bs1.om is in use by process {process.pid}"
            ):
                atc.run(command, Path("log2.txt"), lambda text: None)
            process.kill()
        wait_for_end_of(Path("pid").read_text())
        assert command.output.read_text() == "earlier"
        programs("atc", f'exec "{sys.executable}" "{STAND_IN}" "$@"')
        atc.run(command, Path("log.txt"), lambda text: None)
        assert command.output.read_text() != "earlier"
        assert list(tmp_path.glob(".*")) == []

    def test_other_files_that_atc_writes_come_along(self, command, programs, tmp_path):
        (tmp_path / "weight").mkdir()
        (tmp_path / "weight" / "old").write_text("")
        programs(
            "atc",
            WRITE_HALF + '; mkdir "${out%/*}/weight"; echo w > "${out%/*}/weight/new"; '
            "echo ATC run success",
        )
        assert atc.run(command, Path("log.txt"), lambda text: None) == command.output
        assert command.output.read_text() == "half\n"
        assert sorted(path.name for path in (tmp_path / "weight").iterdir()) == ["new", "old"]

    def test_an_interrupt_ends_atc_and_keeps_the_earlier_model(self, command, programs):
        command.output.write_text("earlier")
        programs("atc", WRITE_HALF + "; echo begun; exec sleep 600")

        def interrupt(text):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            atc.run(command, Path("log.txt"), interrupt)
        assert command.output.read_text() == "earlier"


class TestWithoutCann:
    def test_one_line_and_the_command_to_run_elsewhere(self, onnx_file, programs, capsys):
        onnx_file("model.onnx", "image", "N", 3, 224, 224)
        assert main(["atc", "model.onnx", "--recipe", "resnet34", "--soc", "310P3"]) == 2
        captured = capsys.readouterr()
        assert captured.out.startswith("atc --framework=5 --model=model.onnx")
        assert captured.err == (
            "zoofast: error: atc is not on this machine; it comes with CANN, and needs no NPU "
            "itself: run the command where CANN is\n"
        )

    def test_an_environment_that_was_not_set_is_found(self, programs, tmp_path, monkeypatch):
        script = tmp_path / "set_env.sh"
        script.write_text("")
        monkeypatch.setattr(
            "zoofast.conversion.atc.ENVIRONMENT_SCRIPTS", (str(tmp_path / "no"), str(script))
        )
        with pytest.raises(BackendError, match=f"not in PATH: source {script}"):
            atc.find()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("E10001: Value [linux] for [--host_env_os]", "source its set_env.sh"),
        ("E10001: Value [-1] for parameter [image]", "dynamic size"),
        ("EC0010: Failed to import Python module [No module named 'decorator']", "decorator"),
        ("AttributeError: `np.float_` was removed in the NumPy 2.0 release", "'numpy<2'"),
        ("libascend_hal.so: cannot open shared object file", "stub folder"),
        ("EZ3002: ...\nE20001: ...\nEZ9999: inner error", "lacks an operator"),
        ("cannot pickle 'FrameLocalsProxy' object", "Python 3.7 to 3.10"),
    ],
)
def test_cures(said, words):
    assert words in atc.cure(said)
