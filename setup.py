"""Builds the C core and its Cython skin. All metadata is in pyproject.toml.

Environment: ZOOFAST_SANITIZE=1 builds with ASan and UBSan, ZOOFAST_DEBUG=1 without
optimization; 0, or unset, means off. ZOOFAST_TARGET is a machine and its oldest glibc, such as
aarch64-linux-gnu.2.17; the compiler of PyPI's ziglang then builds for it, without symbols of
debugging. tools/wheels.py sets it.
"""

import os
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def switched_on(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


TARGET = os.environ.get("ZOOFAST_TARGET", "")
# Python's stable ABI, so that one build serves all versions from 3.11 on. The stable ABI of 3.10
# has no buffers, a Python without GIL has no stable ABI.
STABLE_ABI = sys.version_info >= (3, 11) and not sysconfig.get_config_var("Py_GIL_DISABLED")
LIMITED = {
    "py_limited_api": STABLE_ABI,
    "define_macros": [("Py_LIMITED_API", "0x030B0000")] if STABLE_ABI else [],
}


class ParallelBuild(build_ext):
    """Compiles as many files at once as there are CPUs; setuptools compiles one after another."""

    def build_extensions(self) -> None:
        self.parallel = True  # all extensions at once
        if TARGET:
            zig = [sys.executable, "-m", "ziglang", "cc", "-target", TARGET]
            self.compiler.set_executables(
                compiler_so=[*zig, "-fPIC"], linker_so=[*zig, "-shared", "-s"]
            )
            # Debian's Python.h looks for a pyconfig.h of the target. That of this machine serves
            # as well: zoofast/_core.pyx checks what it says of the target.
            self.compiler.include_dirs.insert(0, os.path.dirname(sysconfig.get_config_h_filename()))
        compile_in_turn = self.compiler.compile
        with ThreadPoolExecutor(os.cpu_count()) as threads:

            def compile_each(sources: list[str], **options: object) -> list[str]:
                # Cython's files take longest, and come first.
                longest_first = sorted(sources, key=os.path.getsize, reverse=True)
                made = threads.map(lambda path: compile_one(path, **options), longest_first)
                return sorted(path for paths in made for path in paths)

            def compile_one(path: str, **options: object) -> list[str]:
                if path.startswith("zoofast/"):  # Cython's file: its warnings are not ours
                    options["extra_postargs"] = [*options["extra_postargs"], "-w"]
                return compile_in_turn([path], **options)

            self.compiler.compile = compile_each
            super().build_extensions()

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        for extension in self.extensions:
            name = os.path.basename(self.get_ext_filename(extension.name))
            for path in Path("zoofast").glob(f"{name.partition('.')[0]}.*.so"):
                if path.name != name:  # of an earlier build: Python might import it instead
                    path.unlink()


cflags = [
    "-std=c11",
    "-D_GNU_SOURCE",
    "-O3",
    "-g0" if TARGET else "-g",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
]
ldflags: list[str] = ["-pthread"]
if switched_on("ZOOFAST_DEBUG"):
    cflags += ["-O0"]
if switched_on("ZOOFAST_SANITIZE"):
    sanitize = [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-omit-frame-pointer",
    ]
    cflags += ["-O1", *sanitize]
    ldflags += sanitize

# The extension _logits reads results without the rest of the core.
logits_sources = sorted(map(str, Path("csrc").glob("logits_*.c")))
# _acl needs no CANN to build: it opens CANN's library when it runs.
acl_sources = sorted(map(str, Path("csrc").glob("acl_*.c")))
core_sources = sorted(
    {str(path) for path in Path("csrc").glob("*.c")} - {*logits_sources, *acl_sources}
)
logits_sources += ["csrc/levels.c", "csrc/threads.c"]
headers = [str(path) for path in Path("csrc").glob("*.h")]

core = Extension(
    "zoofast._core",
    ["zoofast/_core.pyx", *core_sources],
    include_dirs=["csrc"],
    depends=headers,
    **LIMITED,
    extra_compile_args=cflags,
    extra_link_args=[*ldflags, "-lm"],
)

logits = Extension(
    "zoofast._logits",
    ["zoofast/_logits.pyx", *logits_sources],
    include_dirs=["csrc"],
    depends=headers,
    **LIMITED,
    # lets GCC vectorize comparisons of floats: only exception flags change, which nothing reads
    extra_compile_args=[*cflags, "-fno-trapping-math"],
    extra_link_args=[*ldflags, "-lm"],
)

acl = Extension(
    "zoofast._acl",
    ["zoofast/_acl.pyx", *acl_sources],
    include_dirs=["csrc"],
    depends=headers,
    **LIMITED,
    extra_compile_args=cflags,
    extra_link_args=[*ldflags, "-ldl"],
)

setup(
    ext_modules=cythonize([core, logits, acl], language_level=3),
    cmdclass={"build_ext": ParallelBuild},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE_ABI else {},
)
