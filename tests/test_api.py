"""The public names: a written list, so that no name comes or goes unnoticed."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest

import zoofast
from tests.support import paths

ERRORS = {
    "BackendError",
    "CpuLevelError",
    "ImageError",
    "LabelError",
    "ModelError",
    "OutputError",
    "RecipeError",
    "ResultError",
    "SourceError",
    "ZoofastError",
}
TYPES = {
    "EvalOptions",
    "Evaluation",
    "Failure",
    "Item",
    "Labels",
    "Loader",
    "ModelSpec",
    "PixelCache",
    "PrepOptions",
    "PrepReport",
    "Prepared",
    "ReadOptions",
    "Recipe",
    "Score",
    "ScoreOptions",
    "Source",
}
FUNCTIONS = {
    "evaluate",
    "load_labels",
    "load_recipe",
    "open_source",
    "prepare",
    "prepare_folder",
    "score_folder",
}


def test_the_public_names() -> None:
    assert sorted(zoofast.__all__) == sorted(ERRORS | TYPES | FUNCTIONS | {"__version__"})
    assert set(zoofast.__all__) <= set(dir(zoofast))


@pytest.mark.parametrize("name", sorted(ERRORS | TYPES | FUNCTIONS))
def test_each_is_there_and_says_what_it_is(name: str) -> None:
    thing = getattr(zoofast, name)
    assert inspect.getdoc(thing)
    assert inspect.isfunction(thing) == (name in FUNCTIONS)
    if name in ERRORS:
        assert issubclass(thing, zoofast.ZoofastError)


def test_every_error_type_is_public() -> None:
    from zoofast import errors

    assert {name for name, value in vars(errors).items() if inspect.isclass(value)} == ERRORS


def test_the_version_is_that_of_the_distribution() -> None:
    assert zoofast.__version__ == version("zoofast")


def test_other_names_are_missing_with_the_usual_error() -> None:
    with pytest.raises(AttributeError, match="module 'zoofast' has no attribute 'prepared'"):
        _ = zoofast.prepared  # type: ignore[attr-defined]


def test_importing_zoofast_imports_no_other_package() -> None:
    code = "import sys, zoofast; print(sorted({'numpy', 'PIL', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_citation_has_the_version() -> None:
    citation = (paths.ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version('zoofast')}\n" in citation
