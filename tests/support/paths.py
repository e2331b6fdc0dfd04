"""Where the checkout and the golden files are."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("ZOOFAST_SHARED", ROOT.parent / "shared"))
