"""Examines this machine: what zoofast's commands need, what is missing, and how to get it."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from zoofast import _core
from zoofast.base.acl_library import ACL_LIBRARY, cann_version, version_in
from zoofast.base.cpus import cpu_name, usable_cpus
from zoofast.base.extras import reinstall
from zoofast.base.text import counted
from zoofast.base.torchvision_operators import define_missing_operators
from zoofast.conversion import atc, npu_smi
from zoofast.errors import BackendError

DISK_BYTES = 64 << 20  # written and read to measure the disk
DEVICE_SECONDS = 30.0  # within which a device has to open
DRIVER_VERSION = "/usr/local/Ascend/driver/version.info"
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
    "timm": ("timm", "recipes and networks timm:NAME", "pip install 'zoofast[timm]'"),
    "transformers": (
        "transformers",
        "recipes and networks hf:FOLDER",
        "pip install 'zoofast[hf]'",
    ),
    "safetensors": ("safetensors", "weights in .safetensors", "pip install 'zoofast[safetensors]'"),
    "jinja2": ("jinja2", "pages of --report", "pip install 'zoofast[report]'"),
    "matplotlib": ("matplotlib", "charts of --report", "pip install 'zoofast[report]'"),
    "fsspec": ("fsspec", "images at a URL", "pip install 'zoofast[remote]'"),
    "aiohttp": ("aiohttp", "images at http:// and https://", "pip install 'zoofast[remote]'"),
    "s3fs": ("s3fs", "images at s3://", "pip install 'zoofast[remote]'"),
    "pyarrow": ("pyarrow", "Parquet files of images", "pip install 'zoofast[remote]'"),
    "zstandard": ("zstandard", ".tar.zst files of images", "pip install 'zoofast[remote]'"),
    "ray": ("ray", "--ray of prep and eval", "pip install 'zoofast[ray]'"),
    "aclruntime": (
        "aclruntime",
        "runs .om where libascendcl.so cannot be used",
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
    yield from _driver()
    yield from _ais_bench()
    yield from _devices()


def _machine() -> Finding:
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Finding(
        "CPU",
        "ok",
        f"{cpu_name()}, {counted(usable_cpus(), 'core')} usable, zoofast's level {_core.isa()}, "
        f"{pages * page / 2**30:.0f} GiB memory, Python {platform.python_version()}",
    )


def _disk(folder: Path) -> Finding:
    """Measures how fast the disk writes and reads a file, without the page cache."""
    path = folder / f".zoofast-doctor.{os.getpid()}"
    block = os.urandom(_BLOCK_BYTES)
    try:
        # O_EXCL: never write into a file, or through a link, that somebody else put there
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "r+b", buffering=0) as file:
            path.unlink()  # the file ends with the process, however that ends
            begin = time.monotonic()
            for _ in range(DISK_BYTES // _BLOCK_BYTES):
                file.write(block)
            os.fsync(fd)
            written = time.monotonic()
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            dropped = time.monotonic()
            while file.read(_BLOCK_BYTES):
                pass
            read = time.monotonic()
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
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            return Finding(package, "missing", purpose, cure)
        number = "version unknown"  # copied into sys.path rather than installed
    try:
        # Some packages print or warn at import; only whether the import works matters.
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            if module.startswith(("torchvision", "pretrainedmodels", "timm")):
                define_missing_operators()
            imported = importlib.import_module(module)
    except Exception as error:  # a broken package may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if package != "aclruntime":
            cure = reinstall(package)
        elif "cannot open shared object file" in str(error):
            cure = _source_environment()
        return Finding(package, "broken", f"{number} does not import: {reason}", cure)
    if package == "aclruntime":
        number += f", {aclruntime_generation(imported)}"
    return Finding(package, "ok", f"{number}: {purpose}")


def aclruntime_generation(aclruntime: Any) -> str:
    """Which of aclruntime's interfaces the module has, and from when.

    All builds since 2022-11 have the version 0.0.2, so that only the features tell.
    """
    session = aclruntime.InferenceSession
    if hasattr(session, "set_context"):
        return "generation G4 (newest)"
    if hasattr(session, "free_resource"):
        return "generation G3 (from 2023-06)"
    if hasattr(aclruntime, "BaseTensor"):
        return "generation G2 (2022-11 to 2023-06)"
    return "generation G0 or G1 (before 2022-11)"


def _source_environment() -> str:
    """The cure where CANN's environment is not set."""
    script = atc.environment_script()
    if script is not None:
        return f"source {script}"
    return "source CANN's set_env.sh; CANN comes from hiascend.com"


def _cann() -> Finding:
    homes = (os.environ.get(name) for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"))
    home = next(filter(None, homes), None)
    if home is not None:
        return Finding("CANN", "ok", home)
    if atc.environment_script() is not None:
        return Finding("CANN", "broken", "its environment is not set", _source_environment())
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


def _driver() -> Iterator[Finding]:
    """The version of the Ascend driver, where it is installed."""
    if os.path.isfile(DRIVER_VERSION):
        yield Finding("driver", "ok", version_in(DRIVER_VERSION) or f"{DRIVER_VERSION}: no version")


def _ais_bench() -> Iterator[Finding]:
    """A command `ais_bench`: the guides' tool has none, another program of that name has one."""
    command = shutil.which("ais_bench")
    if command is None:
        return
    spec = importlib.util.find_spec("ais_bench")
    places = [] if spec is None else spec.submodule_search_locations or []
    if any(os.path.isdir(os.path.join(place, "infer")) for place in places):
        yield Finding("ais_bench", "ok", f"{command}, with ais_bench.infer of the guides")
        return
    yield Finding(
        "ais_bench",
        "ok",
        f"{command} is another program, for language models; instead of the ais_bench of the "
        "guides, use zoofast infer and bench, which take its options",
    )


def _devices() -> Iterator[Finding]:
    """CANN's library and its devices. Opens every NPU, each in a process of its own, since a hung
    device never returns."""
    answer = _finish(_start_probe(), time.monotonic() + DEVICE_SECONDS)
    if answer.get("library") is False:
        cure = "comes with CANN" if atc.environment_script() is None else _source_environment()
        yield Finding("devices", "missing", f"{ACL_LIBRARY}: opens the NPUs", cure)
        return
    if answer.get("path"):
        yield _library(answer)
    yield _opened(answer)


def _library(answer: dict[str, Any]) -> Finding:
    path = str(answer["path"])
    texts = [path]
    if cann_version(path):
        texts.append(f"CANN {cann_version(path)}")
    if answer.get("version"):
        texts.append(f"ACL {answer['version']}")
    return Finding(ACL_LIBRARY, "ok", ", ".join(texts))


def _opened(answer: dict[str, Any]) -> Finding:
    if "error" in answer:
        return Finding("devices", "broken", answer["error"], _device_cure(answer))
    count = int(answer["count"])
    if count == 0:
        return Finding("devices", "missing", "ACL counts no NPU", "check npu-smi info")
    probes = [_start_probe(device) for device in range(count)]
    deadline = time.monotonic() + DEVICE_SECONDS
    answers = [_finish(probe, deadline) for probe in probes]
    failures = [(device, answer) for device, answer in enumerate(answers) if "error" in answer]
    if failures:
        errors = "; ".join(f"device {device}: {answer['error']}" for device, answer in failures)
        detail = f"{count - len(failures)} of {count} open; {errors}"
        return Finding("devices", "broken", detail, _device_cure(failures[0][1]))
    chips = Counter(_chip(answer) for answer in answers)
    named = ", ".join(f"{n} x {soc}" for soc, n in sorted(chips.items()))
    return Finding("devices", "ok", f"{count} of {count} open: {named}")


def _chip(answer: dict[str, Any]) -> str:
    chip = str(answer["soc"]) or "an unknown chip"
    return f"{chip} with {answer['memory'] / 2**30:.0f} GiB" if answer.get("memory") else chip


def _device_cure(answer: dict[str, Any]) -> str:
    if answer.get("timed_out"):
        return "see npu-smi info: is another process using the NPU? Else reset the card, or reboot"
    return "is the driver loaded (npu-smi info), and may this user open /dev/davinci*?"


def _start_probe(device: int | None = None) -> subprocess.Popen[str]:
    """A process that counts the devices, or opens one, and prints a line of JSON."""
    call = (
        "import json; from zoofast.base.acl_library import probe; "
        f"print(json.dumps(probe({device})))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", call],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )


def _finish(process: subprocess.Popen[str], deadline: float) -> dict[str, Any]:
    """The answer of a probe; one with "error" when there is none by `deadline` (monotonic)."""
    try:
        output, _ = process.communicate(timeout=max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # a process stuck in the driver cannot end
            process.communicate(timeout=1)
        return {"error": f"no answer within {DEVICE_SECONDS:.0f} s", "timed_out": True}
    for line in reversed(output.splitlines()):  # ACL prints lines of its own
        with suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict):
                return answer
    return {"error": f"the process that opens it ended with code {process.returncode}"}
