"""What `zoofast prep --format pack` writes, as the input of `zoofast infer`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.support import eval_case, folders, models
from zoofast.cli import main
from zoofast.errors import ResultError, SourceError
from zoofast.inference.inputs import list_inputs
from zoofast.inference.packs import PackReader

COUNT = 11


def write_pack(folder: Path, rows: np.ndarray, names: str) -> Path:
    folder.mkdir()
    np.save(folder / "pack.npy", rows)
    (folder / "pack.names.txt").write_text(names)
    return folder / "pack.npy"


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_pack_gives_the_answers_of_its_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = folders.good_files(COUNT)
    folders.write(tmp_path / "images", {**files, "broken.JPEG": b"no image"})
    (tmp_path / "recipe.toml").write_text(eval_case.SPEC.toml())
    model = models.write_model(tmp_path / "m.onnx")
    for format, code in (("pack", 1), ("bin", 1)):
        where = [str(tmp_path / "images"), str(tmp_path / format)]
        recipe = ["--recipe", str(tmp_path / "recipe.toml")]
        assert main(["prep", *where, *recipe, "--format", format]) == code
    common = ["infer", "--model", model, "--output", str(tmp_path / "out"), "--batchsize", "4"]

    def infer(given: Path, dirname: str, *more: str) -> int:
        return main([*common, "--input", str(given), "--output_dirname", dirname, *more])

    assert infer(tmp_path / "bin", "bin") == infer(tmp_path / "pack", "pack") == 0
    assert infer(tmp_path / "pack/pack.npy", "file") == 0
    found = results(tmp_path / "out/pack")
    assert found == results(tmp_path / "out/bin") == results(tmp_path / "out/file")
    for name, row in eval_case.scores_of(files).items():
        answer = np.frombuffer(found[f"{name}_0.bin"], np.float32)
        assert np.allclose(answer, row, rtol=1e-4, atol=1e-4)
    assert len(found) == COUNT

    (tmp_path / "out/pack/img0003_0.bin").unlink()
    capsys.readouterr()
    assert infer(tmp_path / "pack", "pack", "--resume") == 0
    assert f"inferred {COUNT} of {COUNT} files ({COUNT - 1} by an earlier run)" in (
        capsys.readouterr().out
    )
    assert results(tmp_path / "out/pack") == found


def test_rows_of_another_type_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.zeros((3, *models.IMAGE), np.float16)
    pack = write_pack(tmp_path / "p", rows, "a\nb\nc\n")
    model = models.write_model(tmp_path / "m.onnx")
    assert main(["infer", "--model", model, "--input", str(tmp_path / "p")]) == 2
    shown = capsys.readouterr().err
    assert f"{pack}/a and all 3 inputs do not fit the model: float16[3, 4, 4]" in shown


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("a\nb\n", "2 names"),
        ("a\nb\na\n", r"names a twice"),
        ("a\nb\n../c\n", r"'../c' is no image's name"),
        ("a\nb\nc.d\n", r"'c.d' is no image's name"),
        ("a\n\nc\n", r"'' is no image's name"),
    ],
)
def test_hostile_packs_end_in_one_line(tmp_path: Path, names: str, words: str) -> None:
    write_pack(tmp_path / "p", np.zeros((3, *models.IMAGE), np.float32), names)
    with pytest.raises((SourceError, ResultError), match=words) as caught:
        list_inputs(str(tmp_path / "p"))
    assert str(tmp_path / "p/pack.n") in str(caught.value) and "\n" not in str(caught.value)


def test_a_pack_that_is_cut_off_or_replaced(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "p", np.zeros((2, 3), np.float32), "a\nb\n")
    assert list_inputs(str(pack)) == [f"{pack}/a", f"{pack}/b"]
    with pytest.raises(OSError, match=r"has no row c: it was replaced"):
        PackReader().row(f"{pack}/c")
    assert PackReader().row(str(tmp_path / "p/a.bin")) is None
    pack.write_bytes(pack.read_bytes()[:-1])
    with pytest.raises(ResultError, match=r"pack.npy: has 23 bytes of data, not 24"):
        list_inputs(str(pack))
