"""What `zoofast doctor` finds, on machines made up for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import fake_aclruntime, folders, paths
from zoofast import doctor
from zoofast.base.parsing import parse_toml
from zoofast.cli import main
from zoofast.conversion import atc

PACKAGES = dict(doctor.PACKAGES)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without Ascend software; returns the folder of its programs."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        "zoofast.conversion.atc.ENVIRONMENT_SCRIPTS", (str(tmp_path / "set_env.sh"),)
    )
    monkeypatch.setattr(doctor, "PACKAGES", {"numpy": ("numpy", "arrays", "pip install numpy")})
    monkeypatch.setattr(doctor, "DISK_BYTES", doctor._BLOCK_BYTES)
    monkeypatch.chdir(tmp_path)
    return programs


def examine(folder="."):
    return {finding.name: finding for finding in doctor.examine(Path(folder))}


def test_a_bare_machine(machine, tmp_path):
    findings = examine()
    assert {name: finding.state for name, finding in findings.items()} == {
        "CPU": "ok",
        "disk": "ok",
        "numpy": "ok",
        "CANN": "missing",
        "atc": "missing",
        "npu-smi": "missing",
        "devices": "missing",
    }
    assert all(bool(finding.cure) == (finding.state != "ok") for finding in findings.values())
    assert re.search(r"\d+ cores? usable", findings["CPU"].detail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["programs"]


def test_an_ascend_machine(machine, monkeypatch):
    monkeypatch.setenv("ASCEND_HOME_PATH", "/ascend")
    row = "| 0       310P3     | OK |\n| 0       0         | 0000:82:00.0 |\n"
    table = f"| NPU Name |\n| Chip    Device |\n+===+\n{row}{row.replace('0 ', '1 ', 1)}"
    for name, script in (("atc", "exit 0"), ("npu-smi", f"cat <<END\n{table}\nEND")):
        (machine / name).write_text(f"#!/bin/sh\n{script}\n")
        (machine / name).chmod(0o755)
    findings = examine()
    assert findings["CANN"].detail == "/ascend"
    assert findings["atc"].detail == f"{machine / 'atc'}: compiles ONNX to .om"
    assert findings["npu-smi"].detail == "2 x Ascend310P3"


def test_an_environment_that_is_not_set(machine, tmp_path):
    (tmp_path / "set_env.sh").write_text("")
    assert examine()["CANN"].cure == f"source {tmp_path / 'set_env.sh'}"
    assert examine()["CANN"].state == "broken"


def test_a_driver_that_does_not_answer(machine):
    (machine / "npu-smi").write_text("#!/bin/sh\necho dcmi failed; exit 1\n")
    (machine / "npu-smi").chmod(0o755)
    assert examine()["npu-smi"].state == "broken"
    assert "dcmi failed" in examine()["npu-smi"].detail


def test_packages(machine, monkeypatch, tmp_path):
    packages = {
        "no-such-package": ("no_such", "nothing", "pip install it"),
        "pytest": ("broken_here", "tests", "pip install pytest"),
    }
    monkeypatch.setattr(doctor, "PACKAGES", packages)
    (tmp_path / "broken_here.py").write_text("raise RuntimeError('built for another Python')\n")
    monkeypatch.syspath_prepend(tmp_path)
    findings = examine()
    assert findings["no-such-package"].state == "missing"
    assert findings["pytest"].state == "broken"
    assert "RuntimeError: built for another Python" in findings["pytest"].detail
    assert findings["no-such-package"].cure == "pip install it"
    assert findings["pytest"].cure == "pip install --force-reinstall pytest"


def test_every_package_of_the_extras_is_looked_for():
    extras = parse_toml((paths.ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    required = {
        re.match(r"[\w-]+", requirement)[0]
        for extra in extras
        if not extra.startswith(("test", "bench", "dev", "opencv"))
        for requirement in extras[extra]
    }
    assert required - {"six", "zoofast"} <= set(PACKAGES)


def test_an_aclruntime_that_finds_no_cann(machine, monkeypatch, tmp_path):
    """It is installed; what is missing is the environment, not a build."""
    monkeypatch.setattr(doctor, "PACKAGES", {"aclruntime": PACKAGES["aclruntime"]})
    (tmp_path / "aclruntime.py").write_text(
        "raise ImportError('libascendcl.so: cannot open shared object file: No such file')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    finding = examine()["aclruntime"]
    assert finding.state == "broken"
    assert finding.cure == "source CANN's set_env.sh; CANN comes from hiascend.com"
    (tmp_path / "set_env.sh").write_text("")
    assert examine()["aclruntime"].cure == f"source {tmp_path / 'set_env.sh'}"
    (tmp_path / "aclruntime.py").write_text("raise ImportError('undefined symbol: _PyLong')\n")
    assert examine()["aclruntime"].cure.startswith("build it from Ascend's ais_bench")


@pytest.mark.parametrize("generation", fake_aclruntime.GENERATIONS)
def test_the_generation_of_aclruntime(machine, monkeypatch, generation):
    module = fake_aclruntime.build(generation)
    monkeypatch.setitem(sys.modules, "aclruntime", module)
    monkeypatch.setattr(doctor, "PACKAGES", {"aclruntime": PACKAGES["aclruntime"]})
    monkeypatch.setattr(doctor, "version", lambda package: "0.0.2")
    finding = examine()["aclruntime"]
    assert finding.state == "ok"
    words = re.findall(r"\bG\d\b", finding.detail)
    assert generation in words
    assert len(words) == (2 if generation in ("G0", "G1") else 1)


# ACL as far as doctor calls it. ACL_STUB: fail (device 1 does not open), hang (the same, for ever),
# crash, none (no device).
STUB = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int is(const char *word) {
    const char *mode = getenv("ACL_STUB");
    return mode && !strcmp(mode, word);
}
int aclInit(const char *path) { puts("[INFO] acl init success"); return path ? 1 : 0; }
int aclFinalize(void) { return 0; }
int aclrtGetDeviceCount(unsigned *count) { *count = is("none") ? 0 : 2; return 0; }
int aclrtResetDevice(int device) { return device < 2 ? 0 : 1; }
const char *aclrtGetSocName(void) { return "Ascend310P3"; }
const char *aclGetRecentErrMsg(void) { return "\n the driver is busy\n see the log"; }
int aclrtSetDevice(int device) {
    if (device == 1 && is("hang")) pause();
    if (device == 1 && is("crash")) abort();
    return device == 1 && is("fail") ? 507033 : 0;
}
"""


@pytest.fixture
def acl(machine, tmp_path, monkeypatch):
    """A function that builds ACL in the given mode and examines the devices."""
    (tmp_path / "stub.c").write_text(STUB)
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    words = ["cc", "-shared", "-fPIC", "-o", "libascendcl.so", "stub.c"]
    subprocess.run(words, cwd=tmp_path, check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))

    def devices(mode):
        monkeypatch.setenv("ACL_STUB", mode)
        return examine()["devices"]

    return devices


def test_devices_that_open(acl):
    finding = acl("")
    assert (finding.state, finding.detail) == ("ok", "2 of 2 open: 2 x Ascend310P3")


def test_canns_library_and_driver(acl, machine, tmp_path, monkeypatch):
    acl("")
    (tmp_path / "version.cfg").write_text("# CANN\nrunning_version=[8.0.RC2.1:8.0.RC2]\n")
    (tmp_path / "driver").write_text("package=driver\nVersion=24.1.0\n")
    monkeypatch.setattr(doctor, "DRIVER_VERSION", str(tmp_path / "driver"))
    findings = examine()
    assert findings["libascendcl.so"].detail == f"{tmp_path / 'libascendcl.so'}, CANN 8.0.RC2"
    assert findings["driver"].detail == "24.1.0"


def test_the_other_ais_bench(machine, monkeypatch, tmp_path):
    (machine / "ais_bench").write_text("#!/bin/sh\n")
    (machine / "ais_bench").chmod(0o755)
    assert "is another program, for language models" in examine()["ais_bench"].detail
    (tmp_path / "ais_bench/infer").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert examine()["ais_bench"].detail.endswith("with ais_bench.infer of the guides")


def test_devices_that_do_not_open(acl):
    finding = acl("fail")
    assert finding.state == "broken"
    assert finding.detail == (
        "1 of 2 open; device 1: aclrtSetDevice failed with ACL's error 507033: the driver is busy"
    )
    assert finding.cure.startswith("is the driver loaded")
    assert acl("crash").detail == (
        "1 of 2 open; device 1: the process that opens it ended with code -6"
    )
    assert acl("none").detail == "ACL counts no NPU"


def test_a_device_that_hangs_is_named_in_bounded_time(acl, monkeypatch):
    """The processes that answer have all the time that they need on a busy machine."""
    finish = doctor._finish

    def patient(process, deadline):
        return finish(process, deadline if "probe(1)" in process.args[-1] else deadline + 600)

    monkeypatch.setattr(doctor, "_finish", patient)
    monkeypatch.setattr(doctor, "DEVICE_SECONDS", 1.0)
    finding = acl("hang")
    assert finding.detail == "1 of 2 open; device 1: no answer within 1 s"
    assert finding.cure.startswith("see npu-smi info")


def test_an_acl_library_without_canns_environment(machine, tmp_path):
    assert examine()["devices"].cure == "comes with CANN"
    (tmp_path / "set_env.sh").write_text("")
    assert examine()["devices"].cure == f"source {tmp_path / 'set_env.sh'}"


def test_a_home_that_cannot_be_read(open_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(open_folder / "home"))
    (open_folder / "home").mkdir(mode=0)
    with folders.without_privileges():
        assert atc.environment_script() is None


def test_the_disks_file_is_not_written_through_a_link(machine, tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / f".zoofast-doctor.{os.getpid()}").symlink_to("precious")
    assert examine()["disk"].state == "broken"
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_disk_that_cannot_be_written(machine):
    finding = examine("no/such/folder")["disk"]
    assert (finding.state, finding.cure) == ("broken", "measure another disk with --disk FOLDER")


def test_the_command(machine, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "cure: comes with the Ascend driver" in out
    assert main(["doctor", "--json", "--disk", "no"]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert {"name": "disk", "state": "broken"}.items() <= findings[1].items()
