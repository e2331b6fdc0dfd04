from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from zoofast.conversion import models


@pytest.fixture
def slim_nasnet(monkeypatch: pytest.MonkeyPatch) -> models.KnownModel:
    """The known model nasnetalarge with its whole graph, but few filters: seconds, not minutes."""
    for package in ("torch", "pretrainedmodels", "onnxsim"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"no {package}")
    slim = replace(
        models.load("nasnetalarge"),
        factory="pretrainedmodels.models.nasnet:NASNetALarge",
        arguments={"num_classes": 1001, "stem_filters": 24, "penultimate_filters": 192},
    )
    monkeypatch.setitem(models._models(), "nasnetalarge", slim)
    return slim
