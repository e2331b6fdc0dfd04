from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support import once, paths
from zoofast import _core

# A shell's background jobs ignore Ctrl-C, nohup's ignore SIGHUP, and so would the processes that
# the tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Tests start many processes on few CPUs. Each would start a thread per CPU for linear algebra,
# which takes as long as all else of NumPy's import, and, where the environment says so, compile
# every module anew.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Every run sees the same examples; HYPOTHESIS_PROFILE=explore looks for new ones. "few" is for runs
# beside a whole one, with other versions or kernels.
# No test fails because the machine is busy: older versions limit the time to draw examples, too.
patient: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, max_examples=60, **patient)
settings.register_profile("few", derandomize=True, max_examples=20, **patient)
settings.register_profile("explore", max_examples=600, **patient)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden files, beside the checkout or at ZOOFAST_SHARED."""
    if not (paths.SHARED / "golden").is_dir():
        pytest.skip(f"no golden files at {paths.SHARED}; set ZOOFAST_SHARED")
    return paths.SHARED


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> once.Once:
    """What is made once a run; see tests/support/once.py."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # each worker has a folder in that of the run
    return once.Once(folder / "made")


ONE_LEVEL = os.environ.get("ZOOFAST_TEST_LEVELS") == "one"


def levels() -> list[Any]:
    """Parameters of `isa`.

    A CPU with AVX2 uses ssse3 on demand only: there its tests are slow ones, but for those of
    tests/core/test_native.py.
    """
    if ONE_LEVEL:
        return [_core.isa()]
    slow = () if _core.isa() == "ssse3" else pytest.mark.slow
    return [pytest.param(n, marks=slow if n == "ssse3" else ()) for n in _core.isa_names()]


@pytest.fixture(scope="session", params=levels())
def isa(request: pytest.FixtureRequest) -> str:
    """Every CPU level that the build knows; those that this CPU lacks are skipped.

    ZOOFAST_TEST_LEVELS=one: only the level in use, for checks that are not about kernels.
    """
    name: str = request.param
    try:
        return _core.isa(name)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike tmp_path."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
