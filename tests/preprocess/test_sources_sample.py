"""A sample of what tools/compare_sources.py compares with the libraries themselves."""

from __future__ import annotations

import importlib
import sys

import pytest

from tests.support import paths
from zoofast.preprocess.sources import open_source

STEP = 65  # of the configurations, every 65th is compared
# What recipes cannot say; docs/recipe-sources.md names the models.
NOT_SAID = "crop_mode 'border'"


def test_a_sample_of_all_configurations(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(paths.ROOT / "tools")
    monkeypatch.delitem(sys.modules, "images", raising=False)
    tool = importlib.import_module("compare_sources")
    folder = tool.make_images(tmp_path_factory.mktemp("images"))
    with open_source(str(folder)) as source:
        rows = tool.compare_all(source, STEP)
    if not rows:
        pytest.skip("neither timm nor torchvision nor transformers is installed")
    for row in rows:
        others = [text for text in row.exceptions if NOT_SAID not in text]
        assert not others, row.what
        assert row.equal >= max(1, row.total - len(row.exceptions))
