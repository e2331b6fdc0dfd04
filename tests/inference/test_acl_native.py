"""The C code of the backend acl under sanitizers, on ACL's emulation.

With $ZOOFAST_SANITIZED_ACL the emulation is built with the sanitizer too, which takes a minute and
finds what only its threads can show. `tools/check.sh acl-asan` and `acl-tsan` do so.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import emulator, native, once

pytestmark = pytest.mark.slow
KINDS = {"asan": "checked", "tsan": "threads"}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """One of a fixed batch size, and one with gears."""
    fixed = emulator.write_om(tmp_path / "m4.om", image=(3, 8, 8))
    gears = emulator.write_om(
        tmp_path / "gears.om", batch=None, image=(3, 8, 8), dynamic_batch=[1, 2, 4, 8]
    )
    return [fixed, gears]


def run(
    made: once.Once, kind: str, how: str, models: list[str], **settings: object
) -> subprocess.CompletedProcess[str]:
    """What the program printed."""
    emulation = emulator.build(made, kind if "ZOOFAST_SANITIZED_ACL" in os.environ else "")
    command = native.program(made, "acl", KINDS[kind], "-ldl", sources="acl_*.c")
    done = subprocess.run(
        [*command, how, str(emulation.library), "2", *models],
        env=emulation.environment(FPS=4000, **settings),
        capture_output=True,
        text=True,
        timeout=600,
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer does not run on this kernel")
    assert done.returncode == 0, done.stdout + done.stderr[:4000]
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    return done


def test_batches_on_two_devices(made: once.Once, kind: str, models: list[str]) -> None:
    done = run(made, kind, "run", models)
    assert done.stdout == "0 of 4 failed\n"
    assert "aclFinalize: nothing leaked" in done.stderr


def test_devices_that_hang(made: once.Once, kind: str, models: list[str]) -> None:
    done = run(made, kind, "hang", models[:1], FAULT="hang_execute:9")
    assert done.stdout.endswith("1 of 2 failed\n")


@pytest.mark.parametrize(
    "call",
    [
        "aclrtSetDevice:2",
        "aclrtCreateContext:1",
        "aclrtCreateStream:5",
        "aclmdlLoadFromFile:2",
        "aclmdlGetDesc:1",
        "aclrtMalloc:7",
        "aclrtMallocHost:3",
        "aclmdlAddDatasetBuffer:3",
        "aclrtCreateEventExWithFlag:4",
        "aclmdlSetDynamicBatchSize:2",
        "aclrtMemcpyAsync:6",
        "aclmdlExecuteAsync:5",
        "aclrtRecordEvent:11",
        "aclrtStreamWaitEvent:3",
        "aclrtSynchronizeEventWithTimeout:4",
    ],
)
def test_every_call_may_fail(made: once.Once, kind: str, models: list[str], call: str) -> None:
    done = run(made, kind, "fail", models, FAIL=f"{call}:507899")
    name = call.partition(":")[0].removesuffix("WithTimeout")
    assert f"{name}: 507899\n" in done.stdout
    assert done.stdout.endswith("1 of 4 failed\n")
    assert "aclFinalize: nothing leaked" in done.stderr
