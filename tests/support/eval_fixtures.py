"""Fixtures of the tests that evaluate: images, and a folder with all that an evaluation needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import folders


@pytest.fixture(scope="session")
def files() -> dict[str, bytes]:
    return folders.good_files(23)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Path:
    """A folder with images, labels, a recipe and a model; nothing in it is changed by tests."""
    from tests.support import eval_case, models  # need onnx, which may be missing

    folder = tmp_path_factory.mktemp("eval")
    folders.age(folders.write(folder / "images", files))
    folders.recipe_file(folder, eval_case.SPEC)
    models.write_model(folder / "m.onnx")
    eval_case.write_labels(folder / "labels.txt", [Path(name).stem for name in files])
    return folder
