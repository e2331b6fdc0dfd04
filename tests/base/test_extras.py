"""Optional packages that are missing, or that are installed and cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoofast.base.extras import needs
from zoofast.errors import BackendError


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that Python finds first."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_missing_package() -> None:
    with (
        pytest.raises(BackendError, match=r"'no_such' is missing: pip install 'zoofast\[infer\]'"),
        needs("infer", BackendError),
    ):
        import no_such.part  # type: ignore[import-not-found]  # noqa: F401


def test_a_package_whose_library_is_missing(packages: Path) -> None:
    """As Python says it of a compiled module."""
    (packages / "lacks_library.py").write_text(
        "raise ImportError('libx.so.1: cannot open shared object file', name='lacks_library._c')"
    )
    message = (
        r"^Python package 'lacks_library' cannot be imported: libx.so.1: cannot open shared object "
        r"file; install it anew: pip install --force-reinstall lacks_library$"
    )
    with pytest.raises(BackendError, match=message), needs("infer", BackendError):
        import lacks_library  # type: ignore[import-not-found]  # noqa: F401


def test_a_package_that_does_not_say_its_name(packages: Path) -> None:
    (packages / "too_old.py").write_text("raise ImportError('other>=2 is required\\nTry this')")
    message = r"a Python package of 'zoofast\[hf\]' cannot be imported: other>=2 is required; `zoof"
    with pytest.raises(BackendError, match=message), needs("hf", BackendError):
        import too_old  # type: ignore[import-not-found]  # noqa: F401


def test_a_command_ends_with_one_line(packages: Path) -> None:
    (packages / "jinja2.py").write_text("raise ImportError('no symbol', name='jinja2')")
    words = ["score", packages, packages, "--report", packages / "r.html"]
    done = subprocess.run(
        [sys.executable, "-m", "zoofast", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(packages)},
    )
    assert done.returncode == 2
    assert done.stderr == (
        "zoofast: error: Python package 'jinja2' cannot be imported: no symbol; install it anew: "
        "pip install --force-reinstall jinja2\n"
    )
