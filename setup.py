"""Builds the C core and its Cython skin. All metadata is in pyproject.toml.

Environment: ZOOFAST_SANITIZE=1 builds with ASan and UBSan, ZOOFAST_DEBUG=1 without
optimization; 0, or unset, means off.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def switched_on(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


class ParallelBuild(build_ext):
    """Compiles as many files at once as there are CPUs; setuptools compiles one after another."""

    def build_extensions(self) -> None:
        self.parallel = True  # all extensions at once
        compile_in_turn = self.compiler.compile
        with ThreadPoolExecutor(os.cpu_count()) as threads:

            def compile_each(sources: list[str], **options: object) -> list[str]:
                # Cython's files take longest, and come first.
                longest_first = sorted(sources, key=os.path.getsize, reverse=True)
                made = threads.map(lambda path: compile_in_turn([path], **options), longest_first)
                return sorted(path for paths in made for path in paths)

            self.compiler.compile = compile_each
            super().build_extensions()


cflags = [
    "-std=c11",
    "-D_GNU_SOURCE",
    "-O3",
    "-g",
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
    extra_compile_args=cflags,
    extra_link_args=[*ldflags, "-lm"],
)

logits = Extension(
    "zoofast._logits",
    ["zoofast/_logits.pyx", *logits_sources],
    include_dirs=["csrc"],
    depends=headers,
    # lets GCC vectorize comparisons of floats: only exception flags change, which nothing reads
    extra_compile_args=[*cflags, "-fno-trapping-math"],
    extra_link_args=[*ldflags, "-lm"],
)

acl = Extension(
    "zoofast._acl",
    ["zoofast/_acl.pyx", *acl_sources],
    include_dirs=["csrc"],
    depends=headers,
    extra_compile_args=cflags,
    extra_link_args=[*ldflags, "-ldl"],
)

setup(
    ext_modules=cythonize([core, logits, acl], language_level=3),
    cmdclass={"build_ext": ParallelBuild},
)
