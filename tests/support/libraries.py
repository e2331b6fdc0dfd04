"""The libraries that models come from, as tests import them."""

from __future__ import annotations

from typing import Any

import pytest

from zoofast.base.torchvision_operators import define_missing_operators


def load(name: str) -> Any:
    """The module `name`, which builds on torchvision; skips the test where it is not installed."""
    pytest.importorskip("torch")
    define_missing_operators()
    return pytest.importorskip(name)
