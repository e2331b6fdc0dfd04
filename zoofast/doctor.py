"""Examines this machine: what zoofast's commands need, what is missing, and how to get it."""

from __future__ import annotations

import importlib
import io
import os
import platform
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from zoofast import _core
from zoofast.base.cpus import cpu_name, usable_cpus
from zoofast.conversion import atc, npu_smi
from zoofast.errors import BackendError

DISK_BYTES = 64 << 20  # written and read to measure the disk
_BLOCK_BYTES = 4 << 20

# package -> (module to import, its purpose, the cure when it is missing)
PACKAGES = {
    "onnxruntime": ("onnxruntime", "runs ONNX on the CPU", "pip install 'zoofast[infer]'"),
    "onnx": ("onnx", "reads and rewrites ONNX", "pip install 'zoofast[onnx]'"),
    "onnxsim": ("onnxsim", "zoofast simplify", "pip install 'zoofast[onnx]'"),
    "torch": ("torch", "zoofast export", "pip install 'zoofast[torch]'"),
    "torchvision": ("torchvision.models", "AlexNet, ResNet34, …", "pip install 'zoofast[torch]'"),
    "pretrainedmodels": (
        "pretrainedmodels.models",
        "InceptionV4, NASNet",
        "pip install 'zoofast[torch]'",
    ),
    "aclruntime": (
        "aclruntime",
        "runs .om on the NPU",
        "build it from Ascend's ais_bench against this machine's CANN and Python",
    ),
}


@dataclass(frozen=True)
class Finding:
    """The state of one thing that commands need."""

    name: str
    state: str  # ok, missing or broken
    detail: str
    cure: str = ""  # empty when the state is ok


def examine(folder: Path) -> Iterator[Finding]:
    """All findings in turn; the disk is measured in `folder`."""
    yield _machine()
    yield _disk(folder)
    for package, (module, purpose, cure) in PACKAGES.items():
        yield _package(package, module, purpose, cure)
    yield _cann()
    yield _atc()
    yield _npus()


def _machine() -> Finding:
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Finding(
        "CPU",
        "ok",
        f"{cpu_name()}, {usable_cpus()} cores usable, zoofast's level {_core.isa()}, "
        f"{pages * page / 2**30:.0f} GiB memory, Python {platform.python_version()}",
    )


def _disk(folder: Path) -> Finding:
    """Measures how fast the disk writes and reads a file, without the page cache."""
    path = folder / f".zoofast-doctor.{os.getpid()}"
    block = os.urandom(_BLOCK_BYTES)
    try:
        try:
            begin = time.monotonic()
            with path.open("wb", buffering=0) as file:
                for _ in range(DISK_BYTES // _BLOCK_BYTES):
                    file.write(block)
                os.fsync(file.fileno())
                written = time.monotonic()
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            dropped = time.monotonic()
            with path.open("rb", buffering=0) as file:
                while file.read(_BLOCK_BYTES):
                    pass
            read = time.monotonic()
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        return Finding(
            "disk",
            "broken",
            f"{folder}: cannot be written: {error.strerror}",
            "measure another disk with --disk FOLDER",
        )
    write_rate = DISK_BYTES / (written - begin) / 1e6
    read_rate = DISK_BYTES / (read - dropped) / 1e6
    return Finding("disk", "ok", f"{folder}: writes {write_rate:,.0f} MB/s, reads {read_rate:,.0f}")


def _package(package: str, module: str, purpose: str, cure: str) -> Finding:
    try:
        number = version(package)
    except PackageNotFoundError:
        return Finding(package, "missing", purpose, cure)
    try:
        # Some packages print or warn at import; only whether the import works matters.
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            if module.startswith(("torchvision", "pretrainedmodels")):
                from zoofast.conversion.models import torch_compat

                torch_compat.define_missing_operators()
            importlib.import_module(module)
    except Exception as error:  # a broken package may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Finding(package, "broken", f"{number} does not import: {reason}", cure)
    return Finding(package, "ok", f"{number}: {purpose}")


def _cann() -> Finding:
    homes = (os.environ.get(name) for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"))
    home = next(filter(None, homes), None)
    if home is not None:
        return Finding("CANN", "ok", home)
    script = atc.environment_script()
    if script is not None:
        return Finding("CANN", "broken", "its environment is not set", f"source {script}")
    cure = "install the CANN toolkit from hiascend.com, then source its set_env.sh"
    return Finding("CANN", "missing", "compiles and runs .om", cure)


def _atc() -> Finding:
    executable = shutil.which("atc")
    if executable is not None:
        return Finding("atc", "ok", f"{executable}: compiles ONNX to .om")
    return Finding("atc", "missing", "compiles ONNX to .om", "comes with CANN; needs no NPU itself")


def _npus() -> Finding:
    if shutil.which("npu-smi") is None:
        return Finding("npu-smi", "missing", "lists the NPUs", "comes with the Ascend driver")
    try:
        chips = Counter(chip.soc for chip in npu_smi.query())
    except BackendError as error:
        return Finding("npu-smi", "broken", str(error), "reinstall the Ascend driver")
    return Finding("npu-smi", "ok", ", ".join(f"{n} x {soc}" for soc, n in sorted(chips.items())))
