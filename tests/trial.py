"""What users do with an installed wheel. tools/try_wheel.sh runs it; `make test` does not.

No test starts a process: under an emulator, Python cannot start itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

import zoofast
from tests.support import folders, golden, in_process, jpegs
from zoofast import _core, load_recipe

COUNT = 20  # images; the label of number i is i % 10
LABELS = "".join(f"img{i:04d}.JPEG {i % 10}\n" for i in range(COUNT))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COUNT photos of about 300 x 400 pixels."""
    files = {
        f"img{i:04d}.JPEG": jpegs.jpeg(260 + 5 * i, 410 - 7 * i, i, progressive=i % 5 == 1)
        for i in range(COUNT)
    }
    return folders.write(tmp_path_factory.mktemp("trial") / "images", files)


def test_the_wheel_is_what_runs() -> None:
    assert Path(zoofast.__file__).parents[1].name in ("site", "site-packages")
    wheel = distribution("zoofast")
    assert zoofast.__version__ == wheel.version
    tag = f"Tag: cp311-abi3-manylinux_2_17_{platform.machine()}"
    assert tag in (wheel.read_text("WHEEL") or "")
    parts = json.loads(wheel.read_text("sboms/zoofast.cdx.json") or "")
    extensions = {part["name"]: part for part in parts["components"] if part["type"] == "file"}
    assert sorted(extensions) == [
        f"zoofast/{name}.abi3.so" for name in ("_acl", "_core", "_logits")
    ]
    for name, part in extensions.items():
        data = (Path(zoofast.__file__).parents[1] / name).read_bytes()
        assert part["hashes"][0]["content"] == hashlib.sha256(data).hexdigest()
    (commit,) = parts["metadata"]["component"]["properties"]
    assert commit["value"] == os.environ["ZOOFAST_TRIAL_COMMIT"]
    done = in_process.zoofast("--version")
    assert f"zoofast {zoofast.__version__} (commit {commit['value']}, built by Clang" in done.stdout
    levels = {"x86_64": "scalar, ssse3, avx2, avx512", "aarch64": "scalar, neon"}
    assert f" of {levels[platform.machine()]}, JPEG decoders baseline, prog" in done.stdout


@pytest.mark.parametrize("guide", golden.GUIDES)
def test_every_level_makes_the_guides_bins(shared: Path, guide: str, isa: str) -> None:
    sums, recipe = golden.sums(shared, guide), load_recipe(golden.GUIDES[guide])
    workspace, plan = _core.Workspace(isa), recipe.plan()
    out = np.empty(recipe.nbytes, np.uint8)
    for path in sorted((shared / "imagenet-sample" / "val").iterdir())[::15]:
        assert workspace.prepare(path.read_bytes(), plan, out).status == _core.Status.OK
        assert hashlib.sha256(out).hexdigest() == sums[f"{path.stem}.bin"]


def test_prep_of_every_level_equals_pillow(images: Path, tmp_path: Path, isa: str) -> None:
    done = in_process.zoofast(
        "prep", images, tmp_path / "bins", "--recipe", "alexnet", "--verify", COUNT, ZOOFAST_ISA=isa
    )
    assert (done.returncode, len(list(tmp_path.glob("bins/*.bin")))) == (0, COUNT), done.stderr


@pytest.mark.parametrize("backend", ["null", "sim"])
def test_eval(images: Path, tmp_path: Path, backend: str) -> None:
    """These backends give class i the score -i, so that classes 0 to 4 are the five best."""
    (tmp_path / "labels.txt").write_text(LABELS)
    model = "8x3x224x224:float32:1000" + ("@2000" if backend == "sim" else "")
    done = in_process.zoofast(
        *("eval", model, images, tmp_path / "labels.txt", "--recipe", "alexnet"),
        *("--backend", backend, "-o", tmp_path / "result.json"),
    )
    assert done.returncode == 0, done.stderr
    value = json.loads((tmp_path / "result.json").read_text())["value"]
    found = {pair["key"]: pair["value"] for pair in value}
    assert found["Number of images"] == str(COUNT)
    assert [found[f"Top{k} accuracy"] for k in (1, 2, 5)] == ["10.0%", "20.0%", "50.0%"]


def test_score_writes_the_guides_result(shared: Path, tmp_path: Path) -> None:
    done = in_process.zoofast(
        *("score", shared / "golden/txt/squeezenet1_1", shared / "imagenet-sample/val_label.txt"),
        *("-o", tmp_path / "result.json"),
    )
    assert done.returncode == 0, done.stderr
    expected = (shared / "golden/txt/squeezenet1_1.json").read_bytes()
    assert (tmp_path / "result.json").read_bytes() == expected
