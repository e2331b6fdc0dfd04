"""`zoofast compare` against NumPy, on files of every kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zoofast.base.rows import NamedRows
from zoofast.cli import main
from zoofast.scoring.compare import compare_logits
from zoofast.scoring.labels import Labels
from zoofast.scoring.logit_sources import SavedLogits

CLASSES = 7


def save(path: Path, rows: np.ndarray, names: list[str] | None = None) -> Path:
    names = [f"i{i}" for i in range(len(rows))] if names is None else names
    writer = NamedRows(path, rows.shape[1:], "float32")
    writer.append(names, np.ascontiguousarray(rows, np.float32))
    writer.finish()
    return path


def folder(path: Path, rows: np.ndarray, kind: str = "txt") -> Path:
    path.mkdir()
    for i, row in enumerate(rows):
        file = path / f"i{i}_0.{kind}"
        if kind == "txt":
            file.write_text(" ".join(f"{x:.9g}" for x in row) + "\n")
        elif kind == "npy":
            with file.open("wb") as out:
                np.save(out, row.astype(np.float32))
        else:
            row.astype(np.float32).tofile(file)
    return path


def logits(seed: int, n: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, CLASSES)).astype(np.float32)


def label_file(path: Path, n: int = 20) -> Path:
    path.write_text("".join(f"i{i}.JPEG {i % CLASSES}\n" for i in range(n)))
    return path


def compared(tmp_path: Path, a: Path, b: Path, *more: str | Path, code: int = 0) -> dict:
    out = tmp_path / "c.json"
    assert main(["compare", str(a), str(b), *map(str, more), "--json", str(out)]) == code
    return json.loads(out.read_text(), parse_constant=lambda text: pytest.fail(text))


@pytest.mark.parametrize("kind", ["txt", "bin", "npy", "saved"])
def test_the_figures_are_numpys(tmp_path: Path, kind: str) -> None:
    a, b = logits(1), logits(1) + 0.2 * logits(2)
    path_a = save(tmp_path / "a.npy", a) if kind == "saved" else folder(tmp_path / "a", a, kind)
    comparison = compared(
        tmp_path, path_a, save(tmp_path / "b.npy", b), label_file(tmp_path / "l.txt")
    )
    differences = np.abs(a.astype(float) - b)
    image, at = np.unravel_index(differences.argmax(), differences.shape)
    assert comparison["max_difference"] == pytest.approx(differences.max(), rel=1e-6)
    assert (
        comparison["largest_differences"][0]["name"],
        comparison["largest_differences"][0]["class_index"],
    ) == (f"i{image}", at)
    cosines = [
        float(x @ y / np.sqrt((x @ x) * (y @ y)))
        for x, y in zip(a.astype(float), b.astype(float), strict=True)
    ]
    assert comparison["min_cosine"] == pytest.approx(min(cosines), abs=1e-9)
    assert comparison["mean_cosine"] == pytest.approx(np.mean(cosines), abs=1e-9)
    assert comparison["lowest_cosines"][0]["name"] == f"i{int(np.argmin(cosines))}"
    flipped = [i for i in range(20) if a[i].argmax() != b[i].argmax()]
    flips = {flip["name"]: (flip["a"], flip["b"], flip["truth"]) for flip in comparison["flips"]}
    assert flips == {f"i{i}": (a[i].argmax(), b[i].argmax(), i % CLASSES) for i in flipped}
    for k in range(1, 6):
        for side, rows in enumerate((a, b)):
            order = np.argsort(-rows, axis=1)[:, :k]
            hits = [i % CLASSES in order[i] for i in range(20)]
            assert comparison["accuracy"][f"top{k}"][side] == pytest.approx(np.mean(hits))


def test_thresholds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = logits(1)
    b = a.copy()
    b[3, 2] = 50.0  # flips image 3
    where = [str(save(tmp_path / "a.npy", a)), str(save(tmp_path / "b.npy", b))]
    labels = str(label_file(tmp_path / "l.txt"))
    assert main(["compare", *where, labels]) == 0
    limits = {
        "--max-flips": ("0", "the class changes in 1 image; the limit is 0"),
        "--min-cosine": ("0.999", "the logits of i3 have cosine"),
        "--max-difference": ("1", "class 2 of i3 differs by"),
    }
    for option, (limit, said) in limits.items():
        capsys.readouterr()
        assert main(["compare", *where, option, limit]) == 1
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    loose = ["--max-flips", "1", "--min-cosine", "-1", "--max-difference", "100"]
    assert main(["compare", *where, *loose]) == 0
    a_labels = tmp_path / "of_a.txt"
    a_labels.write_text("".join(f"i{i}.JPEG {row.argmax()}\n" for i, row in enumerate(a)))
    assert main(["compare", *where, str(a_labels), "--max-accuracy-drop", "5"]) == 0
    capsys.readouterr()
    assert main(["compare", *where, str(a_labels), "--max-accuracy-drop", "4.9"]) == 1
    assert "the accuracy drops by 5.00 points; 4.9 are allowed" in capsys.readouterr().err
    assert main(["compare", *reversed(where), str(a_labels), "--max-accuracy-drop", "0"]) == 0
    assert main(["compare", *where, "--max-accuracy-drop", "1"]) == 2


@given(
    rows=hnp.arrays(
        np.float32,
        (2, 4, 5),
        elements=st.one_of(
            st.sampled_from([0.0, -0.0, 1.0, np.nan, np.inf, -np.inf, float(np.float32(3.4e38))]),
            st.floats(-10, 10, width=32),
        ),
    )
)
def test_nan_and_infinite_logits(
    tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray
) -> None:
    tmp_path = tmp_path_factory.mktemp("c")
    a, b = (SavedLogits(save(tmp_path / f"{i}.npy", rows[i])) for i in (0, 1))
    comparison = compare_logits(a, b)
    json.dumps(comparison.as_dict(), allow_nan=False)
    expected = []
    for x, y in zip(*rows.astype(np.float64), strict=True):
        largest = 0.0
        for one, other in zip(x, y, strict=True):
            if one == other or (np.isnan(one) and np.isnan(other)):
                continue
            finite = np.isfinite(one) and np.isfinite(other)
            largest = max(largest, abs(one - other) if finite else np.inf)
        expected.append(largest)
    assert comparison.max_difference == max(expected)
    order = [
        [sorted(range(5), key=lambda i: (np.isnan(r[i]), -r[i], i))[0] for r in side]
        for side in rows
    ]
    flips = [i for i in range(4) if order[0][i] != order[1][i]]
    assert [flip.name for flip in comparison.flips] == [f"i{i}" for i in flips]


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = folder(tmp_path / "a", logits(1, 5))
    (a / "i1_0.txt").write_text("1 2 x\n")
    (a / "i2_0.txt").write_text("1 2 3\n")
    (a / "i3_0.npy").write_bytes(b"")
    names = ["i0", "i1", "i2", "i3", "new"]
    b = save(tmp_path / "b.npy", logits(1, 5), names)
    labels = tmp_path / "l.txt"
    labels.write_text("i1.JPEG 0\ni0.JPEG 1\n")
    comparison = compared(tmp_path, a, b, labels, code=1)
    assert (comparison["only_a"], comparison["only_b"]) == (["i4"], ["i3", "new"])
    assert sorted(comparison["failed"]) == ["i1", "i2", "i3"]
    assert comparison["images"] == 1
    shown = capsys.readouterr()
    assert "cannot be compared: 3: i3 (several in " in shown.err
    assert "i2 (3 and 7 values, not 7)" in shown.err
    assert "i1_0.txt: not a number at byte 4" in shown.err
    compared(tmp_path, a, b, "--allow-missing")


def test_accuracies_of_other_images_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = folder(tmp_path / "a", logits(1), "npy")
    labels = label_file(tmp_path / "l.txt")
    ours = tmp_path / "s.json"
    assert main(["score", str(a), str(labels), "--json", str(ours)]) == 0
    (a / "i3_0.npy").write_bytes(b"damaged")
    capsys.readouterr()
    made = compared(tmp_path, ours, a, labels, code=1)
    assert list(made["failed"]) == ["i3"] and made["scored"] == [20, 19]
    error = capsys.readouterr().err
    assert "cannot be compared: 1: i3 (" in error
    assert f"different numbers of images: 2: {ours} (of 20), {a} (of 19)" in error
    compared(tmp_path, ours, a, labels, "--allow-missing")
    (a / "i3_0.npy").unlink()
    label_file(tmp_path / "l.txt", 18)
    capsys.readouterr()
    assert compared(tmp_path, ours, a, labels, code=1)["no_label"] == ["i18", "i19"]
    assert "without a label: 2: i18, i19" in capsys.readouterr().err


def test_accuracies_from_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = folder(tmp_path / "a", logits(1))
    labels = label_file(tmp_path / "l.txt")
    guide, ours = tmp_path / "r.json", tmp_path / "s.json"
    assert main(["score", str(a), str(labels), "-o", str(guide), "--json", str(ours)]) == 0
    comparison = compared(tmp_path, guide, ours)
    assert len(comparison["accuracy"]) == 5
    assert all(x == pytest.approx(y, abs=1e-9) for x, y in comparison["accuracy"].values())
    saved = save(tmp_path / "l.npy", logits(1))
    assert compared(tmp_path, ours, saved, labels, "--max-accuracy-drop", "0")["images"] == 20
    for arguments, said in (
        ([ours, saved], "give LABELS"),
        ([ours, guide, "--max-flips", "0"], "--max-flips needs the logits of both"),
        ([labels, guide], "not a folder of results, a .npy of logits or a .json"),
        ([tmp_path / "c.json", guide], "is neither a result.json nor"),
        ([tmp_path / "none.json", guide], "none.json: No such file"),
        ([tmp_path / "none.npy", saved], "none.names.txt: No such file"),
    ):
        (tmp_path / "c.json").write_text("[]")
        capsys.readouterr()
        assert main(["compare", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_other_classes_and_names_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = str(save(tmp_path / "a.npy", logits(1)))
    b = str(save(tmp_path / "b.npy", logits(1)[:, :6]))
    c = str(save(tmp_path / "c.npy", logits(1), [f"x{i}" for i in range(20)]))
    labels = tmp_path / "l.txt"
    labels.write_text("y.JPEG 1\n")
    for arguments, said in (
        ([a, b], "has 7 classes and"),
        ([a, c], "have no sample in common"),
        ([a, a, str(labels)], "no sample has a label"),
    ):
        assert main(["compare", *arguments]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "a.names.txt").write_text("i0\n")
    assert main(["compare", a, a]) == 2
    assert "names" in capsys.readouterr().err


def test_identical_logits_are_called_identical(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = logits(1)
    rows[0, 0], rows[1] = np.nan, np.inf
    a, b = (str(save(tmp_path / name, rows)) for name in ("a.npy", "b.npy"))
    comparison = compared(tmp_path, Path(a), Path(b), "--min-cosine", "1", "--max-difference", "0")
    shown = capsys.readouterr().out
    assert "the logits are identical\n" in shown
    for side in (a, b):
        assert f"NaN in the logits of 1 image of {side}, such as i0\n" in shown
    assert (comparison["nan_a"], comparison["nan_b"]) == (["i0"], ["i0"])
    assert "largest difference" not in shown
    assert (comparison["lowest_cosines"], comparison["largest_differences"]) == ([], [])
    assert (comparison["min_cosine"], comparison["max_difference"]) == (1.0, 0.0)
    rows[2, 3] += 1
    save(tmp_path / "b.npy", rows)
    comparison = compared(tmp_path, Path(a), Path(b))
    assert [each["name"] for each in comparison["largest_differences"]] == ["i2"]
    assert "largest difference: 1 (class 3 of i2)" in capsys.readouterr().out


def test_chunks_do_not_change_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (save(tmp_path / f"{i}.npy", logits(i, 50)) for i in (1, 2))
    labels = Labels({f"i{i}": i % CLASSES for i in range(50)}, "made")
    at_once = compare_logits(SavedLogits(a), SavedLogits(b), labels).as_dict()
    monkeypatch.setattr("zoofast.scoring.compare.IMAGES_PER_CHUNK", 7)
    parts = compare_logits(SavedLogits(a), SavedLogits(b), labels).as_dict()
    assert parts.pop("mean_cosine") == pytest.approx(at_once.pop("mean_cosine"))
    assert parts == at_once


def test_the_installed_command_and_its_page(tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="the extra 'report' is not installed")
    pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")
    from tests.support import browser

    hostile = "<img src=x onerror=alert(1)>"
    a = save(tmp_path / "a.npy", logits(1, 2), [hostile, "plain"])
    b = save(tmp_path / "b.npy", logits(2, 2), [hostile, "plain"])
    command = [Path(sys.executable).with_name("zoofast"), "compare", a, b]
    command += ["--report", tmp_path / "c.html", "--json", tmp_path / "c.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("compared 2 of 2\n")
    shown = browser.show(tmp_path / "c.html")
    assert shown.console == []
    assert hostile in shown.page.text
    assert shown.page.all("img") == []
    comparison = json.loads((tmp_path / "c.json").read_text())
    values = {a["data-path"]: a["value"] for a, _ in shown.page.all("data")}
    assert float(str(values["figures.3.value"])) == comparison["max_difference"]
    assert "hreshold" not in shown.page.text  # none was given


@pytest.mark.parametrize(
    ("flips", "code", "line"),
    [
        ("2", 0, "No threshold that was given is exceeded."),
        ("1", 1, "Beyond the threshold: the class changes in 2 images; the limit is 1."),
    ],
)
def test_the_page_says_what_became_of_the_thresholds(
    tmp_path: Path, flips: str, code: int, line: str
) -> None:
    pytest.importorskip("jinja2", reason="the extra 'report' is not installed")
    pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")
    rows = np.eye(CLASSES, dtype=np.float32)[:3]
    a = save(tmp_path / "a.npy", rows)
    b = save(tmp_path / "b.npy", rows[[1, 0, 2]])
    page = tmp_path / "c.html"
    assert main(["compare", f"{a}", f"{b}", "--max-flips", flips, "--report", f"{page}"]) == code
    assert line in page.read_text(encoding="utf-8")
