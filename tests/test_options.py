"""Options out of range are refused: several were taken, and gave another run than was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import folders
from zoofast import (
    EvalOptions,
    ModelSpec,
    OutputError,
    PixelCache,
    PrepOptions,
    ReadOptions,
    Recipe,
    RecipeError,
    ScoreOptions,
    load_recipe,
)
from zoofast.cli import main

SPECS = [ModelSpec("m.onnx")]
OUT_OF_RANGE: list[tuple[Any, dict[str, Any], str]] = [
    (PrepOptions, {"format": "tar"}, "format must be one of bin, npy, pack, not 'tar'"),
    (PrepOptions, {"on_error": "Stop"}, "on_error must be one of skip, stop, not 'Stop'"),
    (PrepOptions, {"limit": -1}, "limit must be at least 1, not -1"),
    (PrepOptions, {"limit": 0}, "limit must be at least 1, not 0"),
    (PrepOptions, {"threads": 0}, "threads must be at least 1, not 0"),
    (PrepOptions, {"verify": -1}, "verify must be at least 0, not -1"),
    (PrepOptions, {"max_file_bytes": 0}, "max_file_bytes must be at least 1, not 0"),
    *(
        (PrepOptions, {"shard": shard}, "shard must be (i, n) with i from 1 to n, not")
        for shard in ((0, 3), (4, 3), (-1, 3), (1, 0))
    ),
    (EvalOptions, {"specs": []}, "specs must name the model once for each device"),
    (EvalOptions, {"specs": SPECS, "output_index": -1}, "output_index must be at least 0"),
    (EvalOptions, {"specs": SPECS, "on_error": "ignore"}, "on_error must be one of skip, stop"),
    (EvalOptions, {"specs": SPECS, "depth": 0}, "depth must be at least 1, not 0"),
    (EvalOptions, {"specs": SPECS, "threads": -1}, "threads must be at least 1, not -1"),
    (EvalOptions, {"specs": SPECS, "timeout": 0}, "timeout must be more than 0 seconds, not 0"),
    (EvalOptions, {"specs": SPECS, "timeout": float("nan")}, "timeout must be more than 0"),
    (ModelSpec, {"model": "m.onnx", "batch": 0}, "batch must be at least 1, not 0"),
    (ModelSpec, {"model": "m.onnx", "default_batch": 0}, "default_batch must be at least 1"),
    (ModelSpec, {"model": "m.onnx", "cpus": -1}, "cpus must be at least 1, not -1"),
    (PixelCache, {"folder": "c", "max_bytes": -1}, "max_bytes must be at least 0, not -1"),
    (ScoreOptions, {"top_k": 0}, "top_k must be at least 1, not 0"),
    (ScoreOptions, {"scores": "softmax"}, "scores must be one of auto, logits, probabilities"),
    (ReadOptions, {"threads": 0}, "threads must be at least 1, not 0"),
    (ReadOptions, {"kind": "csv"}, "kind must be one of txt, bin, npy, not 'csv'"),
    (ReadOptions, {"bin_dtype": "float8"}, "bin_dtype must be one of float32,"),
    (ReadOptions, {"output_index": -1}, "output_index must be at least 0, not -1"),
]


@pytest.mark.parametrize(("options", "given", "message"), OUT_OF_RANGE)
def test_out_of_range(options: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        options(**given)
    assert str(raised.value).startswith(message)


def test_a_recipe_is_named_by_a_path_too(tmp_path: Path) -> None:
    file = folders.recipe_file(tmp_path)
    assert isinstance(load_recipe(Path(file)), Recipe)
    assert load_recipe(Path(file)) == load_recipe(file)
    with pytest.raises(RecipeError, match="cannot read recipe"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="null"):
        load_recipe("a\0b.toml")


def test_a_cache_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an unset variable of a shell gives it; its files would lie in the current folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="the folder of the cache has no name"):
        PixelCache("")
    images = folders.write(tmp_path / "images", folders.good_files(2))
    words = ["prep", str(images), "out", "--recipe", folders.recipe_file(tmp_path), "--cache", ""]
    assert main(words) == 2
    assert "the folder of the cache has no name" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.pixels"))
