"""The guides' commands, word for word, with the drop-ins in the place of the guides' scripts."""

from __future__ import annotations

import hashlib
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import in_process, paths

GUIDES = paths.ROOT / "tools/guides"
ELSEWHERE = {"setup.py"}  # scripts in the guides' commands that are not the guides' own


def run(folder: Path, guide: str, command: str) -> in_process.Ended:
    """Runs `SCRIPT ARGUMENT…` in `folder`, into which the drop-ins of `guide` are copied."""
    shutil.copytree(GUIDES / guide, folder, dirs_exist_ok=True)
    words = command.split()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", words)
        return in_process.call(lambda: runpy.run_path(words[0], run_name="__main__"))


@pytest.mark.parametrize("folder", sorted(GUIDES.glob("*/")), ids=lambda folder: folder.name)
def test_a_guides_folder_holds_the_scripts_that_the_guide_calls(shared: Path, folder: Path) -> None:
    page = (shared / "guides" / f"{folder.name}.md").read_text(encoding="utf-8")
    called = set(re.findall(r"python[\d.]* (\w+\.py)", page)) - ELSEWHERE
    assert {path.name for path in folder.glob("*.py")} == called


def results(folder: Path) -> None:
    """Two images of three classes, the first right, in result/bs1, and their labels."""
    (folder / "result/bs1").mkdir(parents=True)
    (folder / "result/bs1/a_0.txt").write_text("3.000000 1.000000 2.000000 \n")
    (folder / "result/bs1/b_0.txt").write_text("1.000000 3.000000 2.000000 \n")
    (folder / "val_label.txt").write_text("a.JPEG 0\nb.JPEG 2\n")


SCORE = [
    (
        "AlexNet",
        "vision_metric.py --benchmark_out ./result/bs1/ --anno_file val_label.txt --result_file "
        "./result.json",
    ),
    ("ResNet34", "imagenet_acc_eval.py ./result/bs1 ./val_label.txt ./ result.json"),
    ("NASNetALarge", "imagenet_acc_eval.py result/bs1/ val_label.txt ./ result.json"),
    ("SqueezeNet1_1", "squeezenet1_1_postprocess.py result/bs1 val_label.txt result.json"),
    (
        "InceptionV4",
        "inceptionv4_postprocess.py --infer_results ./result/bs1/ --anno_file val_label.txt "
        "--metrics_json result.json",
    ),
]
EXPECTED = (
    '{"title": "Overall statistical evaluation", "value": ['
    '{"key": "Number of images", "value": "2"}, {"key": "Number of classes", "value": "3"}, '
    '{"key": "Top1 accuracy", "value": "50.0%"}, {"key": "Top2 accuracy", "value": "100.0%"}, '
    '{"key": "Top3 accuracy", "value": "100.0%"}]}'
)


@pytest.mark.parametrize(("guide", "command"), SCORE)
def test_scoring(tmp_path: Path, guide: str, command: str) -> None:
    results(tmp_path)
    done = run(tmp_path, guide, command)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "result.json").read_text() == EXPECTED


@pytest.mark.parametrize(("guide", "command"), SCORE)
def test_scoring_reports_what_the_guides_hide(tmp_path: Path, guide: str, command: str) -> None:
    results(tmp_path)
    (tmp_path / "result/bs1/_summary.json").write_text("{}")  # stops the guides' scripts
    (tmp_path / "result/bs1/b_0.txt").write_text("")
    done = run(tmp_path, guide, command)
    assert done.returncode == 1
    assert "result file that cannot be read: 1: b_0.txt" in done.stderr


@pytest.mark.parametrize(("guide", "command"), SCORE)
def test_golden_scores(shared: Path, tmp_path: Path, guide: str, command: str) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "result/bs1").symlink_to(shared / "golden/txt/squeezenet1_1")
    (tmp_path / "val_label.txt").symlink_to(shared / "imagenet-sample/val_label.txt")
    assert run(tmp_path, guide, command).returncode == 0
    golden = (shared / "golden/txt/squeezenet1_1.json").read_bytes()
    assert (tmp_path / "result.json").read_bytes() == golden


# (guide, its command, the golden file of what its own script wrote)
PREPARE = [
    ("AlexNet", "imagenet_torch_preprocess.py val ./pre_dataset", "AlexNet"),
    ("ResNet34", "imagenet_torch_preprocess.py resnet ./val ./pre_dataset", "ResNet34"),
    (
        "ResNet34",
        "imagenet_torch_preprocess.py inceptionv4 ./val ./pre_dataset",
        "ResNet34-script-inceptionv4",
    ),
    ("SqueezeNet1_1", "squeezenet1_1_preprocess.py val pre_dataset", "SqueezeNet1_1"),
    ("NASNetALarge", "preprocess_img.py val pre_dataset", "NASNetALarge"),
    (
        "InceptionV4",
        "inceptionv4_preprocess.py --src_path val --save_path ./pre_dataset",
        "InceptionV4",
    ),
]


@pytest.mark.parametrize(("guide", "command", "golden"), PREPARE)
def test_golden_bins(shared: Path, tmp_path: Path, guide: str, command: str, golden: str) -> None:
    lines = (shared / f"golden/bins/{golden}.sha256").read_text().splitlines()[::15]
    (tmp_path / "val").mkdir()
    digests = {}
    for line in lines:
        digest, file = line.split()
        image = shared / "imagenet-sample/val" / f"{Path(file).stem}.JPEG"
        (tmp_path / "val" / image.name).symlink_to(image)
        digests[Path(file).name] = digest
    for _ in range(2):  # a guide's command works a second time as well
        assert run(tmp_path, guide, command).returncode == 0
    written = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "pre_dataset").glob("*.bin")
    }
    assert written == digests


@pytest.mark.parametrize(("guide", "command"), [entry[:2] for entry in PREPARE])
def test_preparing_reports_what_the_guides_hide(tmp_path: Path, guide: str, command: str) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val/broken.JPEG").write_bytes(b"\xff\xd8 no image")
    done = run(tmp_path, guide, command)
    assert done.returncode != 0
    assert "broken" in done.stdout + done.stderr


EXPORT = [
    ("AlexNet/pth2onnx.py", "w.pth m.onnx", "alexnet --weights w.pth -o m.onnx"),
    ("ResNet34/resnet34_pth2onnx.py", "w.pth m.onnx", "resnet34 --weights w.pth -o m.onnx"),
    (
        "SqueezeNet1_1/squeezenet1_1_pth2onnx.py",
        "w.pth m.onnx",
        "squeezenet1_1 --weights w.pth -o m.onnx",
    ),
    (
        "NASNetALarge/nasnetlarge_pth2onnx.py",
        "w.pth m.onnx",
        "nasnetalarge --weights w.pth -o m.onnx",
    ),
    (
        "InceptionV4/inceptionv4_pth2onnx.py",
        "--ckpt w.pth --onnx m.onnx",
        "inceptionv4 --weights w.pth -o m.onnx",
    ),
    (
        "InceptionV4/inceptionv4_pth2onnx.py",
        "--ckpt w.pth",
        "inceptionv4 --weights w.pth -o out.onnx",
    ),
]


def test_inceptionv4_without_weights_says_where_they_are(tmp_path: Path) -> None:
    """The guide's script downloads them."""
    done = run(tmp_path, "InceptionV4", "inceptionv4_pth2onnx.py --onnx ./inceptionv4.onnx")
    assert done.returncode == 2
    assert done.stderr == (
        "zoofast: error: no weights are given; the guide gets inceptionv4-8e4777a0.pth from "
        "http://data.lip6.fr/cadene/pretrainedmodels/inceptionv4-8e4777a0.pth; --weights random "
        "tries without\n"
    )


@pytest.mark.parametrize(("script", "arguments", "expected"), EXPORT)
def test_exporting_calls_zoofast_export(
    monkeypatch: pytest.MonkeyPatch, script: str, arguments: str, expected: str
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr("zoofast.guide_script.main", lambda argv: calls.append(argv) or 3)
    monkeypatch.setattr(sys, "argv", [script, *arguments.split()])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(GUIDES / script), run_name="__main__")
    assert caught.value.code == 3
    assert calls == [["export", *expected.split()]]


def test_exporting_for_real(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from zoofast.conversion import models
    from zoofast.conversion.agreement import random_images
    from zoofast.conversion.export import TOLERANCE, ExportTarget, build_network, check

    network = build_network(ExportTarget.from_known_model(models.load("squeezenet1_1")), None)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    done = run(tmp_path, "SqueezeNet1_1", "squeezenet1_1_pth2onnx.py w.pth out.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    images = random_images((None, 3, 224, 224), 1)
    assert check(network, tmp_path / "out.onnx", images).within(TOLERANCE)


def test_importing_a_drop_in_runs_nothing() -> None:
    for script in GUIDES.glob("*/*.py"):
        runpy.run_path(str(script), run_name="imported")


@pytest.mark.parametrize("script", sorted(GUIDES.glob("*/*.py")), ids=lambda script: script.name)
def test_missing_arguments_show_the_usage(tmp_path: Path, script: Path) -> None:
    done = run(tmp_path, script.parent.name, script.name)
    assert done.returncode == 2
    if script.name == "vision_metric.py":  # the guide has a default for every argument
        assert "error: HiAI_label.json: " in done.stderr
    elif script.name == "inceptionv4_pth2onnx.py":  # likewise
        assert "no weights are given" in done.stderr
    else:
        assert done.stderr.startswith("usage: ")
        assert "arguments are required" in done.stderr


def test_an_unknown_model_type_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "ResNet34", "imagenet_torch_preprocess.py vgg val out")
    assert done.returncode == 2
    assert "invalid choice: 'vgg'" in done.stderr
    assert "{resnet,inceptionv3,inceptionv4}" in done.stderr


def test_blanks_in_a_path_stay_in_one_argument(tmp_path: Path) -> None:
    results(tmp_path)
    (tmp_path / "result").rename(tmp_path / "my {result}")
    shutil.copytree(GUIDES / "ResNet34", tmp_path, dirs_exist_ok=True)
    words = ["imagenet_acc_eval.py", "my {result}/bs1", "val_label.txt", "./", "result.json"]
    assert subprocess.run([sys.executable, *words], cwd=tmp_path).returncode == 0
    assert (tmp_path / "result.json").read_text() == EXPECTED
