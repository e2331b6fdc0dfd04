"""`zoofast merge` of evaluations: what one machine would have written of the whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.support import eval_case, folders, in_process, models

N = 3


@pytest.fixture(scope="module")
def case(
    run: Path, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A folder of images and labels, and of each shard's files s1.json …; the words of eval."""
    folder = tmp_path_factory.mktemp("shards")
    mixed = {**files, **folders.BAD_FILES}
    folders.write(folder / "images", mixed)
    eval_case.write_labels(folder / "labels.txt", [Path(name).stem for name in mixed])
    words = eval_case.words(run, "--quiet", images=folder / "images")
    words[3] = str(folder / "labels.txt")
    for i in range(1, N + 1):
        assert evaluate(folder, words, f"s{i}", "--shard", f"{i}/{N}") == 1
    return folder, words


def evaluate(folder: Path, words: list[str], name: str, *more: str) -> int:
    out = ["-o", folder / f"{name}.json", "--save-logits", folder / f"{name}.npy"]
    return in_process.zoofast(*words, *out, *more, "--batchsize", "2").returncode


def merge(folder: Path, *shards: object, labels: Path | None = None) -> in_process.Ended:
    more = ["--labels", labels or folder / "labels.txt", "--json", folder / "m.all.json"]
    more += ["--save-logits", folder / "m.npy", "--per-class", folder / "m.csv"]
    return in_process.zoofast("merge", folder / "m.json", *shards, *more)


def score_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_shards_become_what_one_machine_writes(case: tuple[Path, list[str]]) -> None:
    folder, words = case
    whole = ["--json", str(folder / "w.all.json"), "--per-class", str(folder / "w.csv")]
    assert evaluate(folder, words, "w", *whole) == 1
    assert evaluate(folder, words, "s2", "--shard", f"2/{N}", "--resume") == 1
    done = merge(folder, folder / "s3.json", folder / "s1.json.journal", folder / "s2.json")
    assert done.returncode == 1
    assert f"scored {eval_case.COUNT} of {eval_case.COUNT + len(folders.BAD_FILES)}" in done.stdout
    assert "image that cannot be prepared: 3: bad_cut (" in done.stderr
    for end in (".json", ".npy", ".names.txt", ".csv"):
        assert (folder / f"m{end}").read_bytes() == (folder / f"w{end}").read_bytes(), end
    assert score_of(folder / "m.all.json") == score_of(folder / "w.all.json")["score"]
    assert (folder / "m.json").read_text() == eval_case.result_of(
        {path.name: path.read_bytes() for path in sorted((folder / "images").glob("img*"))}
    )


def test_what_is_missing_double_or_other_is_named(case: tuple[Path, list[str]]) -> None:
    def said(*shards: str) -> str:
        done = merge(folder, *(folder / f"{name}.json" for name in shards))
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        return done.stderr

    folder, words = case
    assert "1 shard of 3 missing: 3/3" in said("s2", "s1")
    assert "are both shard 1/3; give one of them" in said("s1", "s2", "s1", "s3")
    assert "none.json: no such shard: no folder, and no journal" in said("s1", "none")
    assert evaluate(folder, words, "k3", "--shard", "2/3", "--top-k", "3") == 1
    assert "is of another top-k (3) than" in said("s1", "k3", "s3")
    assert evaluate(folder, words, "first", "--shard", "2/3", "--limit", "2") == 1
    assert "is of another limit (2) than" in said("s1", "first", "s3")
    journal = folder / "s2.json.journal"
    lines = journal.read_text().splitlines()
    end = json.loads(lines[-1])
    for damage, what in (
        ({"places": end["places"][8:]}, "the last line is damaged"),
        ({"failures": []}, "the last line is damaged"),
        ({"images": -5}, "the last line is damaged"),
        ({"shard": "4/3"}, "the last line is damaged"),
        ({"logits": "s1.npy"}, "s1.npy: is not of the run of"),
        ({"logits": None}, "its run saved no logits"),
    ):
        text = "\n".join([*lines[:-1], json.dumps({**end, **damage}), ""])
        (folder / "other.json.journal").write_text(text)
        assert what in said("s1", "other", "s3"), damage
    batches = [line for line in lines if "ended" not in line]
    (folder / "other.json.journal").write_text("\n".join([*batches, ""]))
    assert "has not ended; continue it with --resume" in said("s1", "other", "s3")
    (folder / "other.json.journal").write_text("\n".join([*batches, '{"ended": true}', ""]))
    assert "not the journal of a shard" in said("s1", "other", "s3")
    first, mine = (
        json.loads((folder / f"{name}.json.journal").read_text().splitlines()[1])["names"][0]
        for name in ("s1", "s2")
    )
    text = journal.read_text().replace(f'"{mine}"', f'"{first}"')
    (folder / "other.json.journal").write_text(text)
    assert f"in two shards: {first} (in " in said("s1", "other", "s3")


def test_limits_and_labels(
    case: tuple[Path, list[str]], run: Path, tmp_path: Path, files: dict[str, bytes]
) -> None:
    words = eval_case.words(run, "--quiet", "--limit", "2", "-o")
    for i in (1, 2):
        assert (
            in_process.zoofast(*words, tmp_path / f"{i}.json", "--shard", f"{i}/2").returncode == 0
        )
    shards = [tmp_path / "1.json", tmp_path / "2.json"]
    labelled = ["--labels", run / "labels.txt", "--quiet"]
    assert in_process.zoofast("merge", tmp_path / "m.json", *shards, *labelled).returncode == 0
    first = {name: files[name] for name in sorted(files)[:4]}
    assert (tmp_path / "m.json").read_text() == eval_case.result_of(first)
    done = in_process.zoofast("merge", tmp_path / "m.json", *shards)
    assert "give the labels" in done.stderr and done.returncode == 2
    eval_case.write_labels(tmp_path / "labels.txt", ["x"])
    done = in_process.zoofast(
        "merge", tmp_path / "m.json", *shards, "--labels", tmp_path / "labels.txt"
    )
    assert "no image of the shards has a label" in done.stderr and done.returncode == 2
    assert (tmp_path / "m.json").read_text() == eval_case.result_of(first)
    done = in_process.zoofast("merge", tmp_path / "m.json", *shards, tmp_path / "3.json")
    assert "3.json: no such shard" in done.stderr and done.returncode == 2
    done = in_process.zoofast("merge", tmp_path / "m.json", run / "images", tmp_path / "1.json")
    assert "is a folder, and the other shards are files" in done.stderr


def test_weights_in_a_further_file_are_of_the_model(run: Path, tmp_path: Path) -> None:
    images = folders.write(tmp_path / "images", {**folders.good_files(6), **folders.BAD_FILES})
    weights = models.write_external_model(tmp_path / "m.onnx")
    words = eval_case.words(run, "--quiet", images=images)
    words[1] = str(tmp_path / "m.onnx")
    shards = [tmp_path / "1.json", tmp_path / "2.json"]
    assert in_process.zoofast(*words, "--shard", "1/2", "-o", shards[0]).returncode == 1
    models.change_byte(weights)
    done = in_process.zoofast(*words, "--shard", "1/2", "-o", shards[0], "--resume")
    assert "1.json.journal: is of another model (" in done.stderr and done.returncode == 2
    assert in_process.zoofast(*words, "--shard", "2/2", "-o", shards[1]).returncode == 1
    labels = ["--labels", run / "labels.txt", "--quiet"]
    done = in_process.zoofast("merge", tmp_path / "m.json", *shards, *labels)
    assert "2.json.journal: is of another model (" in done.stderr and done.returncode == 2


def test_shards_whose_images_all_failed(run: Path, tmp_path: Path, files: dict[str, bytes]) -> None:
    """The third shard has bad images only; then all three."""
    good = {name: files[name] for name in sorted(files)[:4]}
    mixed = dict(good)
    for i, data in enumerate([b"no image", b""]):
        mixed[f"img{2 * i + 1:04d}b.JPEG"] = data
    images = folders.write(tmp_path / "images", mixed)
    eval_case.write_labels(tmp_path / "labels.txt", [Path(name).stem for name in mixed])
    words = eval_case.words(run, "--quiet", images=images)
    words[3] = str(tmp_path / "labels.txt")
    shards = [tmp_path / f"s{i}.json" for i in range(1, N + 1)]
    for i in range(1, N + 1):
        code = evaluate(tmp_path, words, f"s{i}", "--shard", f"{i}/{N}")
        assert code == (1 if i == N else 0)
    assert evaluate(tmp_path, words, "s3", "--shard", "3/3", "--resume") == 1
    assert evaluate(tmp_path, words, "w") == 1
    done = merge(tmp_path, *shards)
    assert done.returncode == 1 and "scored 4 of 6" in done.stdout
    assert "image that cannot be prepared: 2: img0001b (" in done.stderr
    for end in (".json", ".npy", ".names.txt"):
        assert (tmp_path / f"m{end}").read_bytes() == (tmp_path / f"w{end}").read_bytes(), end
    assert evaluate(tmp_path, words, "k3", "--shard", "3/3", "--top-k", "3") == 1
    done = merge(tmp_path, *shards[:2], tmp_path / "k3.json")
    assert "k3.json.journal: is of another top-k (3) than" in done.stderr
    for name in good:
        (images / name).write_bytes(b"no image")
    for i in range(1, N + 1):
        assert evaluate(tmp_path, words, f"s{i}", "--shard", f"{i}/{N}", "--overwrite") == 1
    done = merge(tmp_path, *shards)
    assert done.returncode == 1 and "scored 0 of 6" in done.stdout
    assert "img0001b" in done.stderr and "img0000" in done.stderr


def test_a_pipe_is_not_replaced_by_a_file(case: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, _ = case
    os.mkfifo(tmp_path / "l.npy")
    shards = [folder / f"s{i}.json" for i in range(1, N + 1)]
    more = ["--labels", folder / "labels.txt", "--save-logits", tmp_path / "l.npy"]
    done = in_process.zoofast("merge", tmp_path / "m.json", *shards, *more)
    assert "l.npy is a device or a pipe; name a file" in done.stderr and done.returncode == 2
    assert [path.is_fifo() for path in tmp_path.iterdir()] == [True]


@pytest.mark.parametrize(
    "file", ["s2.json", "s2.json.journal", "s2.npy", "s2.names.txt", "labels.txt"]
)
@pytest.mark.parametrize("option", ["OUT", "--json", "--save-logits"])
def test_no_output_replaces_a_file_of_a_shard(
    case: tuple[Path, list[str]], tmp_path: Path, option: str, file: str
) -> None:
    folder, _ = case
    before = (folder / file).read_bytes()
    shards = [folder / f"s{i}.json" for i in range(1, N + 1)]
    words = {"OUT": tmp_path / "m.json", "--json": tmp_path / "m.all.json"}
    words[option] = folder / file
    out = words.pop("OUT")
    more = [word for pair in words.items() for word in pair]
    done = in_process.zoofast("merge", out, *shards, "--labels", folder / "labels.txt", *more)
    assert done.returncode == 2
    other = "--labels" if file == "labels.txt" else f"SHARD {folder}/s2.json.journal"
    assert f"{file}: {option} would replace the file of {other}; name" in done.stderr
    assert (folder / file).read_bytes() == before
    assert list(tmp_path.iterdir()) == []
