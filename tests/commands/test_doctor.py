"""What `zoofast doctor` finds, on machines made up for it."""

from __future__ import annotations

import json
import os

import pytest

from zoofast import doctor
from zoofast.cli import main


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without Ascend software; returns the folder of its programs."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        "zoofast.conversion.atc.ENVIRONMENT_SCRIPTS", (str(tmp_path / "set_env.sh"),)
    )
    monkeypatch.setattr(doctor, "PACKAGES", {"numpy": ("numpy", "arrays", "pip install numpy")})
    monkeypatch.setattr(doctor, "DISK_BYTES", doctor._BLOCK_BYTES)
    monkeypatch.chdir(tmp_path)
    return programs


def examine(folder="."):
    return {finding.name: finding for finding in doctor.examine(doctor.Path(folder))}


def test_a_bare_machine(machine, tmp_path):
    findings = examine()
    assert {name: finding.state for name, finding in findings.items()} == {
        "CPU": "ok",
        "disk": "ok",
        "numpy": "ok",
        "CANN": "missing",
        "atc": "missing",
        "npu-smi": "missing",
    }
    assert all(bool(finding.cure) == (finding.state != "ok") for finding in findings.values())
    assert "cores usable" in findings["CPU"].detail
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
