"""Counts and opens Ascend NPUs through ACL's C library, in a process that imports little else."""

from __future__ import annotations

import ctypes
from typing import Any

ACL_LIBRARY = "libascendcl.so"


def probe(device: int | None) -> dict[str, Any]:
    """The number of devices, or what `device` is after opening it; runs in a process of its own.

    The functions are declared in the public documentation of the Ascend Computing Language.
    """
    try:
        acl = ctypes.CDLL(ACL_LIBRARY)
    except OSError:
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
    answer = {"count": count.value, "soc": (acl.aclrtGetSocName() or b"").decode(errors="replace")}
    if device is not None:
        acl.aclrtResetDevice(device)
    acl.aclFinalize()
    return answer
