"""CIFAR's pickles and pickles of JPEGs as sources; hostile pickles run nothing."""

from __future__ import annotations

import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import jpegs, oracle
from zoofast import prepare
from zoofast.cli import main
from zoofast.errors import SourceError
from zoofast.preprocess.recipe_file import parse_recipe
from zoofast.preprocess.sources import open_source
from zoofast.preprocess.sources.pickles import read_pictures

COUNT = 5
PICTURES = np.random.default_rng(1).integers(0, 256, (COUNT, 32, 32, 3), np.uint8)
DATA = np.ascontiguousarray(PICTURES.transpose(0, 3, 1, 2)).reshape(COUNT, 3072)
LABELS = [3, 8, 0, 6, 1]
SPEC = oracle.Spec(mode="none", crop=None, out=(32, 32))


def batch(**changes: Any) -> dict[bytes, Any]:
    """CIFAR-10's dictionary."""
    names = [f"cat_s_{i:06d}.png".encode() for i in range(COUNT)]
    content = {"batch_label": b"testing batch", "labels": LABELS, "data": DATA, "filenames": names}
    return {key.encode(): value for key, value in (content | changes).items()}


def python2() -> bytes:
    """As Python 2 wrote CIFAR's files, operation by operation: texts are bytes."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85" + text(
        b"b"
    )
    array += b"\x87R" + b"(K\x01" + b"K\x05M\x00\x0c\x86"
    array += b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    array += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array += b"\x89T" + struct.pack("<I", DATA.nbytes) + DATA.tobytes() + b"tb"
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in LABELS) + b"e"
    return b"\x80\x02}q\x00(" + text(b"data") + array + text(b"labels") + labels + b"u."


def pixels(folder: Path, content: bytes) -> NDArray[np.float32]:
    path = folder / "test_batch"
    path.write_bytes(content)
    recipe = parse_recipe(SPEC.toml(), "t")
    with open_source(path) as source:
        assert [item.name for item in source.items] == [f"{i:05d}" for i in range(COUNT)]
        assert source.read_labels() == {f"{i:05d}": label for i, label in enumerate(LABELS)}
        return np.stack([prepare(source.read(item), recipe) for item in source.items])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["cifar-10", "cifar-100", "texts"])
def test_cifar(tmp_path: Path, protocol: int, kind: str) -> None:
    content: dict[Any, Any] = batch()
    if kind == "cifar-100":
        content[b"fine_labels"] = content.pop(b"labels")
        content[b"coarse_labels"] = [0] * COUNT
    elif kind == "texts":
        content = {key.decode(): value for key, value in content.items()}
    made = pixels(tmp_path, pickle.dumps(content, protocol))
    assert np.array_equal(made, np.stack([oracle.tensor(rgb, SPEC) for rgb in PICTURES]))


def test_cifar_as_python_2_wrote_it(tmp_path: Path) -> None:
    loaded = pickle.loads(python2(), encoding="bytes")  # the file is right: pickle reads it
    assert np.array_equal(loaded[b"data"], DATA)
    made = pixels(tmp_path, python2())
    assert np.array_equal(made, np.stack([oracle.tensor(rgb, SPEC) for rgb in PICTURES]))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_of_jpegs(tmp_path: Path, protocol: int) -> None:
    files = [jpegs.jpeg(32, 32, seed) for seed in range(4)]
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((files, [True, False]), protocol))
    with open_source(path) as source:
        assert [source.read(item) for item in source.items] == files
        assert source.read_labels() is None


def test_prep_writes_the_guides_bins_and_labels(tmp_path: Path) -> None:
    (tmp_path / "test").write_bytes(pickle.dumps(batch(), 2))
    side, out = tmp_path / "img_label.txt", tmp_path / "bins"
    options = ["--recipe", "resnet50_mmlab", "--side-file", str(side), "--quiet"]
    assert main(["prep", str(tmp_path / "test"), str(out), *options]) == 0
    assert side.read_text() == "img0 3\nimg1 8\nimg2 0\nimg3 6\nimg4 1\n"
    for i in range(COUNT):
        assert (out / f"img{i}.bin").read_bytes() == PICTURES[i].tobytes()


class Runs:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def refused(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "hostile"
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        open_source(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    hostile = pickle.dumps(batch(filenames=Runs(tmp_path / "made")), protocol)
    assert "mkdir" in refused(tmp_path, hostile)
    assert not (tmp_path / "made").exists()
    pickle.loads(hostile)  # it would have run
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02cbuiltins\neval\n(U\x011tR.",
        b"\x80\x02cnumpy\ndtype\n(U\x02O8K\x00K\x01tR.",  # objects
        b"\x80\x02cnumpy\ndtype\n(U\x0c{'a':print()}tR.",  # NumPy parses it as Python
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nJ\xff\xff\xff\x7fU\x01btR.",
        b"\x80\x02(i__builtin__\neval\n.",
        b"\x80\x02]r\xff\xff\xff\xff.",  # a memo of 4,294,967,295 places
        b"\x80\x02" + b"(" * 1000 + b"t" * 1001 + b".",
        b"\x80\x02)" + b"\x85" * 200_000 + b".",
        b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",  # as a key, it would be hashed
        b"\x80\x02}U\x04dataK\x01s.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.",  # 2**63 - 1 bytes
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x02.",
        b"\x80\x02",
        b"\x80\x02h\x07.",
        b"\x80\x02\x81.",
        b"\x80\x05\x97.",
    ],
    ids=range(17),
)
def test_pickles_that_are_none_of_cifar(tmp_path: Path, content: bytes) -> None:
    refused(tmp_path, content)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": [1, 2]}, "is not 2 pictures"),
        ({"labels": ["a"] * COUNT}, "no list of whole numbers"),
        ({"data": DATA[:, :3000]}, "3072 bytes"),
        ({"data": DATA.astype(np.float32)}, "a call that no such file has"),
        ({"data": np.asfortranarray(DATA)}, "C order"),
        ({"data": DATA.tobytes()}, "no array 'data'"),
    ],
)
def test_other_content_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in refused(tmp_path, pickle.dumps(batch(**changes), 2))


def test_any_damage_is_an_error_or_pictures() -> None:
    draw = random.Random(5)
    whole = python2()
    head = whole[:400] + whole[-60:]
    for _ in range(3000):
        data = bytearray(whole if draw.random() < 0.2 else head)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(2, min(len(data), 400))] = draw.randrange(256)
        try:
            pictures = read_pictures(bytes(data))
        except ValueError:
            continue
        assert len(pictures.files) == COUNT
        assert all(len(file) == 3072 + 13 for file in pictures.files)
