"""A sample of what tools/compare_sources.py compares with the libraries themselves."""

from __future__ import annotations

import importlib
import sys

import pytest

from tests.support import libraries, paths
from zoofast.preprocess.sources import open_source

STEP = 99  # of the configurations, every 99th is compared


@pytest.mark.slow  # imports timm
def test_a_sample_of_all_configurations(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for package in ("timm", "transformers"):
        libraries.load(package)
    monkeypatch.syspath_prepend(paths.ROOT / "tools")
    monkeypatch.delitem(sys.modules, "images", raising=False)
    tool = importlib.import_module("compare_sources")
    folder = tool.make_images(tmp_path_factory.mktemp("images"))
    with open_source(str(folder)) as source:
        rows = tool.compare_all(source, STEP)
    assert len(rows) == 3
    for row in rows:
        assert row.equal == row.total > 0, row.exceptions
