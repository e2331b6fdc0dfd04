"""The NPUs of this machine, from the table that `npu-smi info` prints."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from zoofast.errors import BackendError

TIMEOUT_SECONDS = 60.0  # npu-smi answers in seconds, unless a driver hangs


@dataclass(frozen=True)
class Npu:
    """One NPU chip."""

    npu: int  # the card's id
    chip: int  # the chip's number on the card
    name: str  # such as "310P3"
    device: int | None  # the number that ACL and ais_bench take; None where the table has none

    @property
    def soc(self) -> str:
        """The chip as ATC's --soc_version names it."""
        return f"Ascend{self.name}"


def parse(text: str) -> list[Npu]:
    """The chips in a table of `npu-smi info`, in the table's order.

    Each chip takes two rows. The first begins with the card's id and the chip's name. The second
    begins with the chip's number and, where the header's second line contains `Device` or
    `Phy-ID`, the device number. A table of processes may follow; it is not read.
    """
    header, _, body = text.partition("+==")
    has_device = bool(re.search(r"Chip\s+(Device|Phy-ID)", header))
    chips: list[Npu] = []
    first: re.Match[str] | None = None
    for line in body.splitlines():
        cell = line.strip().strip("|").split("|")[0].strip()
        if re.match(r"NPU\s+Chip", cell):
            break
        if first is None:
            first = re.fullmatch(r"(\d{1,9})\s+(?:Ascend)?(\d{3}\w*)", cell)
            continue
        second = re.match(r"(\d{1,9})(?:\s+(\d{1,9}))?$", cell)
        if second is not None:
            device = int(second[2]) if has_device and second[2] else None
            chips.append(Npu(int(first[1]), int(second[1]), first[2], device))
        first = None
    return chips


def query() -> list[Npu]:
    """The chips of this machine. BackendError when npu-smi is missing, fails or shows none."""
    executable = shutil.which("npu-smi")
    if executable is None:
        raise BackendError(
            "npu-smi is not on this machine (it comes with the Ascend driver); "
            "name the chip yourself, as in --soc 310P3"
        )
    try:
        done = subprocess.run(
            [executable, "info"], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"npu-smi info gave no answer in {TIMEOUT_SECONDS:.0f} s") from None
    except OSError as error:
        raise BackendError(f"{executable}: {error.strerror or error}") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise BackendError(f"npu-smi info failed with code {done.returncode}: {lines[-1]}")
    chips = parse(done.stdout)
    if not chips:
        raise BackendError("npu-smi info shows no NPU; name the chip yourself, as in --soc 310P3")
    return chips


def soc_version(chip: str) -> str:
    """ATC's name of a chip: "310P3" and "Ascend310P3" -> "Ascend310P3"; "auto" asks npu-smi.

    Raises BackendError when "auto" finds no NPU or different NPUs, and for a text that cannot
    be the name of a chip.
    """
    if chip == "auto":
        socs = sorted({npu.soc for npu in query()})
        if len(socs) > 1:
            raise BackendError(f"different NPUs here: {', '.join(socs)}; choose one with --soc")
        return socs[0]
    name = chip.removeprefix("Ascend")
    if not re.fullmatch(r"\d{3}\w*", name, re.ASCII):
        raise BackendError(f"--soc {chip}: not a chip's name, such as 310P3 or Ascend910B3")
    return f"Ascend{name}"
