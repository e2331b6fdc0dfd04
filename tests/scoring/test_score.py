"""`zoofast score`: the guides' numbers, and everything that cannot be scored, by name."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support import oracle
from zoofast.cli import main
from zoofast.errors import LabelError, ResultError
from zoofast.scoring.labels import Labels
from zoofast.scoring.listing import list_results
from zoofast.scoring.mistakes import MAX_EXAMPLES, confusions, most_confident_mistakes
from zoofast.scoring.results import ReadOptions, ResultReader
from zoofast.scoring.score import ScoreOptions, score_folder
from zoofast.scoring.tally import Tally


def write_row(path: Path, row: list[float]) -> None:
    path.write_text("".join(f"{value:f} " for value in row) + "\n")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four samples of three classes: a, b right; c second; d third."""
    results = tmp_path / "results"
    results.mkdir()
    write_row(results / "a_0.txt", [9, 1, 0])
    write_row(results / "b_0.txt", [1, 9, 0])
    write_row(results / "c_0.txt", [1, 9, 5])
    write_row(results / "d_0.txt", [1, 9, 5])
    (tmp_path / "labels.txt").write_text("a.JPEG 0\nb.JPEG 1\nc.JPEG 2\nd.JPEG 0\n")
    return tmp_path


def score(run: Path, *options: str) -> int:
    return main(["score", str(run / "results"), str(run / "labels.txt"), *options])


# ---- against the guides ------------------------------------------------------


@pytest.mark.parametrize("name", ["squeezenet1_1", "squeezenet1_1_1001"])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_golden_json_byte_for_byte(shared: Path, tmp_path: Path, name: str, threads: str) -> None:
    code = main(
        [
            "score",
            str(shared / "golden/txt" / name),
            str(shared / "imagenet-sample/val_label.txt"),
            "-o",
            str(tmp_path / "result.json"),
            "--threads",
            threads,
            "--allow-missing",
        ]
    )
    assert code == 0
    expected = (shared / f"golden/txt/{name}.json").read_bytes()
    assert (tmp_path / "result.json").read_bytes() == expected


def guides_json(rows: dict[str, list[float]], labels: dict[str, int]) -> str:
    """The guides' arithmetic, written anew: full sort, running sum, NumPy's rounding."""
    classes = len(next(iter(rows.values())))
    places = min(classes, 5)
    first_hit = np.zeros(places)
    for name, row in rows.items():
        truth = labels[name] + (classes == 1001)
        order = np.argsort(-np.array(row, np.float32), kind="stable")
        place = int(np.flatnonzero(order == truth)[0])
        if place < places:
            first_hit[place] += 1
    shares = np.cumsum(first_hit) / len(rows)
    value = [("Number of images", str(len(rows))), ("Number of classes", str(classes))]
    value += [(f"Top{i} accuracy", str(round(x * 100, 2)) + "%") for i, x in enumerate(shares, 1)]
    return json.dumps(
        {
            "title": "Overall statistical evaluation",
            "value": [{"key": key, "value": text} for key, text in value],
        }
    )


@pytest.mark.parametrize("classes", [1, 2, 4, 5, 10, 1000, 1001])
def test_json_equals_the_guides_arithmetic(tmp_path: Path, classes: int) -> None:
    rng = np.random.default_rng(classes)
    rows, labels = {}, {}
    for i in range(37):
        row = rng.integers(-30, 30, classes).tolist()  # with many ties
        labels[f"x{i}"] = int(rng.integers(0, 1000 if classes == 1001 else classes))
        rows[f"x{i}"] = row
        if classes == 1:  # one number in a line is one class
            (tmp_path / f"x{i}_0.txt").write_text(f"{row[0]}.000000 \n")
        else:
            write_row(tmp_path / f"x{i}_0.txt", row)
    tally = score_folder(tmp_path, Labels(labels, "here")).tally
    assert tally.result_json() == guides_json(rows, labels)


def test_percentages_round_as_numpys() -> None:
    for hits in range(0, 801):
        tally = Tally(10)
        tally.images, tally.hits[:] = 800, hits
        percent = f"{round(np.float64(hits) / 800 * 100, 2)}%"
        assert json.loads(tally.result_json())["value"][2]["value"] == percent


# ---- the command -------------------------------------------------------------


def test_report_and_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [str(run / name) for name in ("r.json", "c.csv", "all.json")]
    assert score(run, "-o", outputs[0], "--per-class", outputs[1], "--json", outputs[2]) == 0
    shown = capsys.readouterr()
    assert "top-1 │  50.00 %" in shown.out
    assert shown.out.endswith("scored 4 of 4\n")
    assert shown.err == ""
    assert [item["value"] for item in json.loads(Path(outputs[0]).read_text())["value"]] == [
        "4",
        "3",
        "50.0%",
        "75.0%",
        "100.0%",
    ]
    with Path(outputs[1]).open() as file:
        by_class = {row["model_class"]: row for row in csv.DictReader(file)}
    assert by_class["0"]["images"] == "2"
    assert by_class["0"]["top1"] == "0.5"
    assert by_class["0"]["mistaken_for_model_class"] == by_class["0"]["mistaken_for_label"] == "1"
    everything = json.loads(Path(outputs[2]).read_text())
    assert everything["accuracy"] == {"top1": 0.5, "top2": 0.75, "top3": 1.0}
    assert everything["confused"] == [
        {"true": 0, "predicted": 1, "true_label": 0, "predicted_label": 1, "images": 1},
        {"true": 2, "predicted": 1, "true_label": 2, "predicted_label": 1, "images": 1},
    ]
    assert not any(everything["problems"].values())


def test_top_k_and_quiet(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(run, "--top-k", "2", "-o", str(run / "r.json"), "--quiet") == 0
    assert capsys.readouterr().out == "top-1 50.00 %, top-2 75.00 %\nscored 4 of 4\n"
    assert len(json.loads((run / "r.json").read_text())["value"]) == 4
    with pytest.raises(SystemExit, match="2"):
        score(run, "--top-k", "0")


def everything_wrong(run: Path) -> None:
    results = run / "results"
    write_row(results / "unlabelled_0.txt", [1, 2, 3])
    shutil.copy(results / "b_0.txt", results / "b_0.npy")
    (results / "c_0.txt").write_text("")
    write_row(results / "d_0.txt", [1, 2])
    (results / "thumbs.db").touch()
    (results / "_summary.json").write_text("{}")
    with (run / "labels.txt").open("a") as labels:
        labels.write("missing.JPEG 1\n")


def test_what_is_not_scored_is_named_and_counted(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything_wrong(run)
    assert score(run, "--json", str(run / "all.json"), "-o", str(run / "r.json")) == 1
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "zoofast: result without a label: 1: unlabelled",
        "zoofast: label without a result: 1: missing",
        "zoofast: sample with several results: 1: b (b_0.npy, b_0.txt)",
        "zoofast: result file that cannot be read: 1: c_0.txt (no number in its first row)",
        "zoofast: result with another number of classes: 1: d_0.txt (2 values)",
        "zoofast: file that is not a result: 1: thumbs.db",
    ]
    assert shown.out.endswith("scored 1 of 6\n")
    assert json.loads((run / "all.json").read_text())["problems"] == {
        "failed": {},
        "no_label": ["unlabelled"],
        "no_result": ["missing"],
        "duplicates": {"b": ["b_0.npy", "b_0.txt"]},
        "unreadable": {"c_0.txt": "no number in its first row"},
        "wrong_length": {"d_0.txt": 2},
        "nan_scores": [],
        "unrecognized_files": ["thumbs.db"],
    }
    assert '"Number of images", "value": "1"' in (run / "r.json").read_text()
    assert score(run, "--allow-missing") == 0


def test_an_unrecognized_file_alone_is_no_failure(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "results" / "notes.md").touch()
    (run / "results" / "sqz_summary.json").write_text("{}")
    assert score(run) == 0
    assert capsys.readouterr().err == "zoofast: file that is not a result: 1: notes.md\n"


def test_rows_of_nan_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "results" / "a_0.txt").write_text("nan nan nan \n")
    assert score(run) == 1
    assert "result whose best score is NaN: 1: a\n" in capsys.readouterr().err


def test_many_names_are_cut(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (run / "labels.txt").open("a") as labels:
        labels.writelines(f"m{i}.JPEG 1\n" for i in range(8))
    assert score(run) == 1
    assert "result: 8: m0, m1, m2, m3, m4 and 3 more\n" in capsys.readouterr().err


def test_other_outputs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abcd":
        write_row(run / "results" / f"{name}_1.txt", [0, 0, 1])
    assert score(run) == 0
    assert "4 files of output 1 are not (--output-index)" in capsys.readouterr().err
    assert score(run, "--output-index", "1", "-o", str(run / "r.json")) == 0
    assert '"Top1 accuracy", "value": "25.0%"' in (run / "r.json").read_text()
    assert score(run, "--output-index", "2") == 2
    assert "no results of output 2, only of 0, 1" in capsys.readouterr().err


def test_one_format_of_several(run: Path) -> None:
    for name, row in (("a", [0, 9, 0]), ("b", [9, 0, 0]), ("c", [9, 0, 0]), ("d", [0, 9, 0])):
        np.save(run / "results" / f"{name}_0.npy", np.array([row], np.float32))
    assert score(run) == 2  # every sample has two results
    assert score(run, "--format", "txt", "-o", str(run / "txt.json")) == 0
    assert score(run, "--format", "npy", "-o", str(run / "npy.json")) == 0
    assert '"Top1 accuracy", "value": "50.0%"' in (run / "txt.json").read_text()
    assert '"Top1 accuracy", "value": "0.0%"' in (run / "npy.json").read_text()


def test_folders_of_several_devices(run: Path) -> None:
    for device, moved in (("device0", "ab"), ("device1_1", "cd")):
        (run / "results" / device).mkdir()
        for name in moved:
            (run / "results" / f"{name}_0.txt").rename(run / "results" / device / f"{name}_0.txt")
    (run / "results" / "other").mkdir()
    listing = list_results(run / "results")
    assert listing.names == ["a", "b", "c", "d"]
    assert listing.unrecognized_files == ["other/"]
    assert score(run, "-o", str(run / "r.json")) == 0
    assert '"Top2 accuracy", "value": "75.0%"' in (run / "r.json").read_text()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_files_of_unusual_names_are_ranked_in_their_place(tmp_path: Path, threads: int) -> None:
    """Names that are not guessed before the folder is sorted are read as well."""
    names = [f"{i:03d}" for i in range(60)]
    for i, name in enumerate(names):
        ending = ("_0.txt", "_00.txt", "_0.TXT", "_0.npy")[i % 4]
        if ending == "_0.npy":
            np.save(tmp_path / (name + ending), np.eye(60, dtype=np.float32)[i])
        else:
            write_row(tmp_path / (name + ending), np.eye(60)[i].tolist())
    counted = []
    with ResultReader(tmp_path, 1, ReadOptions(threads=threads)) as reader:
        assert reader.listing.names == names
        results, top_k = reader.finish(lambda done, total: counted.append((done, total)))
    assert top_k.classes[:, 0].tolist() == list(range(60))
    assert (results["count"] == 60).all()
    assert counted[0] == (0, 60)
    assert counted[-1] == (60, 60)


def test_a_reader_may_be_closed_before_it_has_finished(run: Path) -> None:
    for _ in range(20):
        with ResultReader(run / "results", 2, ReadOptions(threads=3)):
            pass
    with pytest.raises(ResultError, match="has no results of output 7"):
        ResultReader(run / "results", 2, ReadOptions(7, threads=3))


def test_label_offset_is_automatic_or_forced(tmp_path: Path) -> None:
    row = np.zeros(1001)
    row[4] = 1
    write_row(tmp_path / "a_0.txt", row.tolist())
    assert score_folder(tmp_path, Labels({"a": 3}, "here")).tally.hits[0] == 1
    assert (
        score_folder(tmp_path, Labels({"a": 4}, "here"), ScoreOptions(label_offset=0)).tally.hits[0]
        == 1
    )
    assert (
        score_folder(tmp_path, Labels({"a": 6}, "here"), ScoreOptions(label_offset=-2)).tally.hits[
            0
        ]
        == 1
    )


def test_labels_outside_the_model_are_refused(run: Path) -> None:
    with pytest.raises(LabelError, match="label of a is 3, with offset 0 outside the model's 3"):
        score_folder(run / "results", Labels({"a": 3}, "here"))
    with pytest.raises(LabelError, match="set --label-offset"):
        score_folder(run / "results", Labels({"a": 0}, "here"), ScoreOptions(label_offset=-1))
    with pytest.raises(LabelError, match="has 2 classes, the results 3; give the list"):
        score_folder(run / "results", Labels({"a": 1}, "here", class_count=2))


def test_labels_from_class_folders(run: Path) -> None:
    for synset, images in (("n1", "ad"), ("n2", "b"), ("n3", "c")):
        (run / "val" / synset).mkdir(parents=True)
        for name in images:
            (run / "val" / synset / f"{name}.JPEG").touch()
    results, out = str(run / "results"), str(run / "r.json")
    assert main(["score", results, "--labels-from", str(run / "val"), "-o", out]) == 0
    assert '"Top1 accuracy", "value": "50.0%"' in Path(out).read_text()
    assert main(["score", results]) == 2
    assert main(["score", results, str(run / "val"), "--labels-from", str(run / "val")]) == 2


def test_folders_that_cannot_be_scored(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = Labels({"z": 0}, "elsewhere")
    with pytest.raises(ResultError, match=r"names do not match \(a against z\)"):
        score_folder(run / "results", labels)
    with pytest.raises(ResultError, match="cannot be listed: No such file"):
        score_folder(run / "absent", labels)
    (run / "empty").mkdir()
    with pytest.raises(ResultError, match="holds no result files"):
        score_folder(run / "empty", labels)
    (run / "empty" / "x_0.txt").touch()
    with pytest.raises(ResultError, match=r"no result can be read \(x_0.txt: no number"):
        score_folder(run / "empty", labels)
    assert main(["score", str(run / "absent"), str(run / "labels.txt")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("zoofast: error: ")
    assert error.count("\n") == 1
    for words in (["score", "/", str(run / "labels.txt")], ["compare", "/", str(run / "results")]):
        assert main(words) == 2
        assert "/: holds no result files" in capsys.readouterr().err


def test_outputs_that_cannot_be_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        score(run, "-o", str(run / "absent" / "r.json"))
    assert "/absent does not exist: mkdir -p" in capsys.readouterr().err
    longest = os.pathconf(run, "PC_NAME_MAX") - len(".part") - 1
    score(run, "-o", str(run / ("x" * longest)))
    with pytest.raises(SystemExit, match="2"):
        score(run, "-o", str(run / ("x" * (longest + 1))))
    assert "the name is 1 byte too long" in capsys.readouterr().err


# ---- the tally ---------------------------------------------------------------


def test_tally_does_not_depend_on_portions() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 20, 500)
    rows = rng.standard_normal((500, 20)).astype(np.float32).round(1)
    ranked = np.argsort(-rows, axis=1, kind="stable").astype(np.int32)[:, :6]
    values = np.take_along_axis(rows, ranked, 1)
    confidence = rng.random(500).astype(np.float32)
    at_once, in_parts = Tally(20), Tally(20)
    at_once.add(truth, ranked, values, confidence)
    for begin in (*range(0, 500, 64), 500):
        part = slice(begin, begin + 64)
        in_parts.add(truth[part], ranked[part], values[part], confidence[part])
    assert at_once.result_json() == in_parts.result_json()
    assert at_once.confused() == in_parts.confused()
    assert at_once.ece() == pytest.approx(in_parts.ece())
    assert at_once.ties.tolist() == in_parts.ties.tolist()
    assert at_once.ties.tolist() == [
        int((values[:, i] == values[:, i + 1]).sum()) for i in range(5)
    ]
    assert at_once.class_hits.sum(axis=0).tolist() == at_once.hits.tolist()
    wrong = ranked[:, 0] != truth
    assert sum(n for _, _, n in at_once.confused()) == wrong.sum()


def test_calibration_error_against_its_definition() -> None:
    rng = np.random.default_rng(4)
    n = 1000
    confidence = rng.random(n).astype(np.float32)
    confidence[:3] = (0.2, 1.0, 1 / 15)  # on edges
    right = rng.random(n) < confidence
    ranked = np.where(right, 0, 1).astype(np.int32)[:, None]
    tally = Tally(2, 1)
    tally.add(np.zeros(n, np.int64), ranked, None, confidence)
    expected = 0.0
    for i in range(15):
        inside = (confidence.astype(float) * 15 > i) & (confidence.astype(float) * 15 <= i + 1)
        if inside.any():
            expected += inside.sum() / n * abs(right[inside].mean() - confidence[inside].mean())
    assert tally.ece() == pytest.approx(expected, rel=1e-6)
    assert sum(part["images"] for part in tally.calibration()) == n
    assert Tally(2, 1).ece() is None


def test_mistakes_and_confusions_against_plain_sorting() -> None:
    rng = np.random.default_rng(7)
    n, classes = 400, 4
    truth, predicted = rng.integers(0, classes, (2, n))
    confidence = rng.integers(1, 9, n) / 8  # many are equal
    confidence[rng.random(n) < 0.1] = np.nan
    names = [f"img{i}" for i in rng.permutation(n)]
    wrong = sorted(
        (-confidence[i], names[i], truth[i], predicted[i])
        for i in range(n)
        if truth[i] != predicted[i] and not np.isnan(confidence[i])
    )
    mistakes = most_confident_mistakes(names, truth, predicted, confidence, 30)
    assert [(-m.confidence, m.name, m.truth, m.predicted) for m in mistakes] == wrong[:30]
    pairs = [(3, 1, 17), (0, 2, 5), (2, 2, 0)]  # the counts are passed on
    confused = confusions(pairs, names, truth, predicted, confidence)
    for pair, got in zip(pairs, confused, strict=True):
        assert (got.truth, got.predicted, got.images) == pair
        expected = [name for _, name, *classes in wrong if tuple(classes) == pair[:2]]
        assert [m.name for m in got.examples] == expected[:MAX_EXAMPLES]


def test_probabilities_are_told_from_logits(tmp_path: Path) -> None:
    labels = Labels({"a": 0, "b": 1}, "here")
    write_row(tmp_path / "a_0.txt", [0.75, 0.25])
    write_row(tmp_path / "b_0.txt", [0.75, 0.25])
    score = score_folder(tmp_path, labels)
    assert score.scores == "probabilities"
    assert score.tally.ece() == pytest.approx(0.25)
    forced = score_folder(tmp_path, labels, ScoreOptions(scores="logits"))
    assert forced.tally.ece() == pytest.approx(1 / (1 + np.exp(-0.5)) - 0.5, rel=1e-6)
    write_row(tmp_path / "b_0.txt", [np.nan, 0.25])  # says nothing of the others
    assert score_folder(tmp_path, labels).scores == "probabilities"
    write_row(tmp_path / "b_0.txt", [7.5, 2.5])
    assert score_folder(tmp_path, labels).scores == "logits"
    for row in ([7.5, 2.5], [0.5, -0.5]):
        write_row(tmp_path / "b_0.txt", row)
        with pytest.raises(ResultError, match=r"b: its scores are not all from 0 to 1"):
            score_folder(tmp_path, labels, ScoreOptions(scores="probabilities"))


def test_published_accuracy_is_compared_on_all_of_imagenet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from zoofast.commands.shared.scoring import print_score
    from zoofast.scoring.score import Problems, Score

    def shown(images: int) -> str:
        tally = Tally(1000)
        ranked = np.tile(np.arange(5, dtype=np.int32), (images, 1))
        tally.add(np.arange(images) % 1000 // 600, ranked)  # 60 % class 0, the others class 1
        score = Score(tally, Problems(), images, 0, 0, {}, "logits", Labels({}, "here"), [], [])
        assert print_score(score, False, published={"top1": 59.5, "top5": 100.0}) == 0
        return capsys.readouterr().out

    complete = shown(50_000)
    assert "┃ published ┃" in complete
    assert "60.00 % │ 30000 │    0 │    59.5 % │      +0.50 │" in complete
    some = shown(49_000)
    assert "┃ published ┃" not in some
    assert "not compared with the published accuracy (top-1 59.5 %, top-5 100.0 %)" in some


def test_a_recipe_without_a_published_accuracy_says_so(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = run / "r.toml"
    recipe.write_text(oracle.Spec().toml())
    assert score(run, "--recipe", str(recipe)) == 0
    assert "has no published accuracy to compare with\n" in capsys.readouterr().out


def test_models_of_1001_classes_show_labels_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r").mkdir()
    for name, best in (("a", 5), ("b", 0), ("c", 1)):
        write_row(tmp_path / "r" / f"{name}_0.txt", np.eye(1001)[best].tolist())
    labels, synsets = tmp_path / "labels.txt", tmp_path / "synsets.txt"
    labels.write_text("a.JPEG 3\nb.JPEG 3\nc.JPEG 0\n")
    synsets.write_text("".join(f"n{i:08d} word{i}\n" for i in range(1000)))
    csv_file, json_file = tmp_path / "c.csv", tmp_path / "s.json"
    options = ["--synsets", str(synsets), "--per-class", str(csv_file), "--json", str(json_file)]
    assert main(["score", str(tmp_path / "r"), str(labels), *options]) == 0
    shown = capsys.readouterr().out
    assert "most confused (classes of the model: label +1)" in shown
    assert "4 (label 3) word3 │ 5 (label 4) word4 " in shown
    assert "4 (label 3) word3 │ 0 background " in shown
    with csv_file.open() as file:
        rows = {row["model_class"]: row for row in csv.DictReader(file)}
    assert (rows["4"]["label"], rows["4"]["name"]) == ("3", "word3")
    assert (rows["4"]["mistaken_for_model_class"], rows["4"]["mistaken_for_label"]) == ("0", "")
    confused = json.loads(json_file.read_text())["confused"]
    assert [(pair["true"], pair["true_label"]) for pair in confused] == [(4, 3), (4, 3)]
    assert [pair["predicted_label"] for pair in confused] == [None, 4]
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "r", other)
    write_row(other / "a_0.txt", np.eye(1001)[4].tolist())
    compared = ["compare", str(tmp_path / "r"), str(other), str(labels), "--synsets", str(synsets)]
    assert main(compared) == 0
    shown = capsys.readouterr().out
    assert "changed their class (classes of the model: label +1)" in shown
    assert "│ a     │ 5 (label 4) word4 │ 4 (label 3) word3 │ 4 (label 3) word3 │" in shown
