"""The guides' commands, word for word, with the drop-ins in the place of the guides' scripts."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TOOLS = ROOT / "tools"


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Runs `SCRIPT ARGUMENT…` in `folder`, where a copy of the script lies as in a guide."""
    script, *arguments = command.split()
    copied = folder / script
    copied.write_text((TOOLS / script).read_text())
    words = [sys.executable, script, *arguments]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


def results(folder: Path) -> None:
    """Two images of three classes, the first right, in result/bs1, and their labels."""
    (folder / "result/bs1").mkdir(parents=True)
    (folder / "result/bs1/a_0.txt").write_text("3.000000 1.000000 2.000000 \n")
    (folder / "result/bs1/b_0.txt").write_text("1.000000 3.000000 2.000000 \n")
    (folder / "val_label.txt").write_text("a.JPEG 0\nb.JPEG 2\n")


SCORE = [
    "vision_metric.py --benchmark_out ./result/bs1/ --anno_file val_label.txt --result_file "
    "./result.json",
    "imagenet_acc_eval.py ./result/bs1 ./val_label.txt ./ result.json",
    "squeezenet1_1_postprocess.py result/bs1 val_label.txt result.json",
    "inceptionv4_postprocess.py --infer_results ./result/bs1/ --anno_file val_label.txt "
    "--metrics_json result.json",
]
EXPECTED = (
    '{"title": "Overall statistical evaluation", "value": ['
    '{"key": "Number of images", "value": "2"}, {"key": "Number of classes", "value": "3"}, '
    '{"key": "Top1 accuracy", "value": "50.0%"}, {"key": "Top2 accuracy", "value": "100.0%"}, '
    '{"key": "Top3 accuracy", "value": "100.0%"}]}'
)


@pytest.mark.parametrize("command", SCORE)
def test_scoring(tmp_path: Path, command: str) -> None:
    results(tmp_path)
    done = run(tmp_path, command)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "result.json").read_text() == EXPECTED


@pytest.mark.parametrize("command", SCORE)
def test_scoring_says_what_the_guides_swallow(tmp_path: Path, command: str) -> None:
    results(tmp_path)
    (tmp_path / "result/bs1/_summary.json").write_text("{}")  # stops the guides' scripts
    (tmp_path / "result/bs1/b_0.txt").write_text("")
    done = run(tmp_path, command)
    assert done.returncode == 1
    assert "result file that cannot be read: 1: b_0.txt" in done.stderr


@pytest.mark.parametrize("command", SCORE)
def test_golden_scores(shared: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "result/bs1").symlink_to(shared / "golden/txt/squeezenet1_1")
    (tmp_path / "val_label.txt").symlink_to(shared / "imagenet-sample/val_label.txt")
    assert run(tmp_path, command).returncode == 0
    golden = (shared / "golden/txt/squeezenet1_1.json").read_bytes()
    assert (tmp_path / "result.json").read_bytes() == golden


PREPARE = {
    "AlexNet": "imagenet_torch_preprocess.py val ./pre_dataset",
    "ResNet34": "imagenet_torch_preprocess.py resnet ./val ./pre_dataset",
    "ResNet34-script-inceptionv4": "imagenet_torch_preprocess.py inceptionv4 ./val ./pre_dataset",
    "SqueezeNet1_1": "squeezenet1_1_preprocess.py val pre_dataset",
    "NASNetALarge": "preprocess_img.py val pre_dataset",
    "InceptionV4": "inceptionv4_preprocess.py --src_path val --save_path ./pre_dataset",
}


@pytest.mark.parametrize("guide", PREPARE)
def test_golden_bins(shared: Path, tmp_path: Path, guide: str) -> None:
    lines = (shared / f"golden/bins/{guide}.sha256").read_text().splitlines()[::15]
    (tmp_path / "val").mkdir()
    digests = {}
    for line in lines:
        digest, file = line.split()
        image = shared / "imagenet-sample/val" / f"{Path(file).stem}.JPEG"
        (tmp_path / "val" / image.name).symlink_to(image)
        digests[Path(file).name] = digest
    for _ in range(2):  # pasted again, a guide's command works as well
        assert run(tmp_path, PREPARE[guide]).returncode == 0
    made = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "pre_dataset").glob("*.bin")
    }
    assert made == digests


@pytest.mark.parametrize("command", PREPARE.values())
def test_preparing_says_what_the_guides_swallow(tmp_path: Path, command: str) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val/broken.JPEG").write_bytes(b"\xff\xd8 no image")
    done = run(tmp_path, command)
    assert done.returncode != 0
    assert "broken" in done.stdout + done.stderr


@pytest.mark.parametrize("script", sorted({c.split()[0] for c in (*SCORE, *PREPARE.values())}))
def test_missing_arguments_show_the_usage(tmp_path: Path, script: str) -> None:
    if script == "vision_metric.py":  # all its arguments have the guide's defaults
        done = run(tmp_path, script)
        assert done.returncode == 2
        assert "HiAI_label.json: no such file" in done.stderr
    else:
        done = run(tmp_path, script)
        assert done.returncode != 0
        assert "usage: " in done.stderr


def test_an_unknown_model_type_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "imagenet_torch_preprocess.py vgg val out")
    assert done.returncode == 1
    assert "[resnet|inceptionv3|inceptionv4] SRC DST" in done.stderr
