# CPU levels by name, the same way in both extensions. See csrc/levels.h.

import os

from zoofast.errors import CpuLevelError


cdef extern from "levels.h" nogil:
    ctypedef enum zf_level:
        ZF_LEVEL_COUNT
    const char *zf_level_name(zf_level level)
    bint zf_level_runs_here(zf_level level)
    zf_level zf_level_best()
    zf_level zf_level_named(const char *name)


cdef tuple level_names():
    return tuple(zf_level_name(<zf_level>i).decode() for i in range(ZF_LEVEL_COUNT))


cdef int level_of(isa) except -1:
    """The level named by `isa`, else by ZOOFAST_ISA, else the best one of this CPU."""
    cdef zf_level level
    name = isa or os.environ.get("ZOOFAST_ISA")
    if not name:
        return zf_level_best()
    level = zf_level_named(name.encode())
    if level == ZF_LEVEL_COUNT:
        raise CpuLevelError(f"ZOOFAST_ISA={name}: known: {', '.join(level_names())}")
    if not zf_level_runs_here(level):
        raise CpuLevelError(f"ZOOFAST_ISA={name}: this CPU cannot run it")
    return level
