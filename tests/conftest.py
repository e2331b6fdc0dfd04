from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden files, beside the checkout or at ZOOFAST_SHARED."""
    folder = Path(os.environ.get("ZOOFAST_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no golden files at {folder}; set ZOOFAST_SHARED")
    return folder
