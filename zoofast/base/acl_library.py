"""Where ACL's C library is; what it says of this machine's NPUs.

`probe` runs in a process of its own that imports little else.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from zoofast import _acl

ACL_LIBRARY = "libascendcl.so"
# ACL's numbers for element types
DTYPES = {
    0: "float32",
    1: "float16",
    2: "int8",
    3: "int32",
    4: "uint8",
    6: "int16",
    7: "uint16",
    8: "uint32",
    9: "int64",
    10: "uint64",
    11: "float64",
    12: "bool",
}
VARIABLE = "ZOOFAST_ACL_LIB"  # the path of the library; what --acl-lib sets
# Set by CANN's set_env.sh, and where CANN is installed by default.
HOME_VARIABLES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
HOMES = (
    "/usr/local/Ascend/ascend-toolkit/latest",
    "/usr/local/Ascend/cann",
    "/usr/local/Ascend/nnrt/latest",
    "/usr/local/Ascend/nnae/latest",
    "~/Ascend/ascend-toolkit/latest",
    "~/Ascend/cann",
)


def candidates() -> list[str]:
    """Names and paths of the library, in the order in which they are tried.

    The first is found by the dynamic linker (LD_LIBRARY_PATH). The folder `stub` of CANN is never
    one of them: its library does nothing.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return [chosen]
    homes = [os.environ.get(name, "") for name in HOME_VARIABLES]
    homes = [home for home in homes if home] + [os.path.expanduser(home) for home in HOMES]
    paths = [os.path.join(home, "lib64", ACL_LIBRARY) for home in dict.fromkeys(homes)]
    return [ACL_LIBRARY, *(path for path in paths if os.path.isfile(path))]


def problem() -> str:
    """Opens the library, if it is not open. Why that fails; "" when it is open."""
    if _acl.is_open():
        return ""
    reasons = []
    for candidate in candidates():
        try:
            _acl.open_library(candidate)
        except _acl.AclError as error:
            reasons.append(str(error))
        else:
            return ""
    return reasons[-1]


def probe(device: int | None) -> dict[str, Any]:
    """The number of devices, or what `device` is after opening it; runs in a process of its own.

    The functions are declared in the public documentation of the Ascend Computing Language.
    """
    acl = _load()
    if acl is None:
        return {"library": False}
    acl.aclGetRecentErrMsg.restype = acl.aclrtGetSocName.restype = ctypes.c_char_p
    count = ctypes.c_uint32()
    calls: list[tuple[str, tuple[Any, ...]]] = [("aclInit", (None,))]
    if device is None:
        calls.append(("aclrtGetDeviceCount", (ctypes.byref(count),)))
    else:
        calls.append(("aclrtSetDevice", (device,)))
    for name, arguments in calls:
        code = getattr(acl, name)(*arguments)
        if code != 0:
            lines = (acl.aclGetRecentErrMsg() or b"").decode(errors="replace").split("\n")
            reason = next((f": {line.strip()}" for line in lines if line.strip()), "")
            return {"error": f"{name} failed with ACL's error {code}{reason}"}
    answer: dict[str, Any] = {
        "count": count.value,
        "soc": (acl.aclrtGetSocName() or b"").decode(errors="replace"),
        "path": loaded_path(),
        "version": _version(acl),
        "memory": 0 if device is None else _memory(acl),
    }
    if device is not None:
        acl.aclrtResetDevice(device)
    acl.aclFinalize()
    return answer


def _load() -> Any:
    for candidate in candidates():
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    return None


def loaded_path() -> str:
    """The file of the library that this process has loaded; "" if it has none."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        paths = (line.split(maxsplit=5)[-1].strip() for line in maps)
        return next((path for path in paths if os.path.basename(path) == ACL_LIBRARY), "")


def _version(acl: Any) -> str:
    """Of the interface, not of CANN; "" if this CANN does not tell."""
    numbers = [ctypes.c_int32() for _ in range(3)]
    if not hasattr(acl, "aclrtGetVersion") or acl.aclrtGetVersion(*map(ctypes.byref, numbers)):
        return ""
    return ".".join(str(number.value) for number in numbers)


def _memory(acl: Any) -> int:
    """Bytes of the current device's memory; 0 if this CANN does not tell."""
    available, total = ctypes.c_size_t(), ctypes.c_size_t()
    for attribute in (1, 0) if hasattr(acl, "aclrtGetMemInfo") else ():  # HBM, DDR
        code = acl.aclrtGetMemInfo(attribute, ctypes.byref(available), ctypes.byref(total))
        if code == 0 and total.value:
            return total.value
    return 0


def cann_version(library: str) -> str:
    """The version that CANN's files near the library name; "" if none does."""
    folder = os.path.dirname(os.path.realpath(library))
    for _ in range(4):
        for name in ("version.cfg", "version.info", os.path.join("runtime", "version.info")):
            version = version_in(os.path.join(folder, name))
            if version:
                return version
        folder = os.path.dirname(folder)
    return ""


def version_in(path: str) -> str:
    """The value of the first line `…version…=…` of a file; "" if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 16).splitlines()
    except OSError:
        return ""
    pairs = (line.partition("=") for line in lines)
    values = (value.strip(" []\"'") for name, _, value in pairs if "version" in name.lower())
    return next((value.rpartition(":")[2] for value in values if value), "")
