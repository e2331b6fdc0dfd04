"""ARCHITECTURE.md's rules about imports, read from the imports themselves; and what is packaged."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import paths
from zoofast.cli import COMMANDS

PACKAGE = paths.ROOT / "zoofast"
# A package imports only from packages above it in this list.
LAYERS = (
    "errors",
    "_core",
    "_logits",
    "_acl",
    "base",
    "preprocess",
    "timing",
    "inference",
    "scoring",
    "evaluation",
    "cluster",
    "ray",
    "conversion",
    "profiling",
    "report",
    "doctor",
    "commands",
    "cli",
    "guide_script",
    "__main__",
)
PRINTS = ("commands", "cli")  # the only packages that write to the terminal
NOT_DATA = {".c", ".md", ".pxd", ".pyc", ".pxi", ".pyx", ".so"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    """The first name below zoofast/: a package, or a module of the package's top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_module(dotted: str) -> bool:
    path = paths.ROOT / dotted.replace(".", "/")
    return path.is_dir() or any(path.with_suffix(end).exists() for end in (".py", ".pyx"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all that a module imports, at its head or in a function.

    `from zoofast.base import names` gives zoofast.base.names where that is a module.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                yield node.lineno, dotted if is_module(dotted) else node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    mine = layer_of(path)
    if mine == "__init__":  # names the public API; nothing imports from it
        return
    assert mine in LAYERS, f"{path}: add {mine} to LAYERS and to ARCHITECTURE.md"
    for line, name in imports(path):
        if name.split(".")[0] == "zoofast":
            assert name != "zoofast", f"{path}:{line}: import from the defining module"
            theirs = name.split(".")[1]
            assert LAYERS.index(theirs) <= LAYERS.index(mine), f"{path}:{line}: imports {name}"
        if name.split(".")[0] == "rich":
            assert mine in PRINTS, f"{path}:{line}: the library does not import rich"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_a_subcommand(path: Path) -> None:
    """`cli` loads a subcommand by its name; what several of them need has a module of its own."""
    for line, name in imports(path):
        parts = name.split(".")
        if parts[:2] == ["zoofast", "commands"]:
            assert parts[2] not in COMMANDS, f"{path}:{line}: imports the subcommand {name}"


def test_each_module_of_commands_is_a_subcommand() -> None:
    """What several of them share lies in commands/shared."""
    modules = {path.stem for path in (PACKAGE / "commands").glob("*.py")}
    assert modules - {"__init__"} == set(COMMANDS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_prints_nothing(path: Path) -> None:
    if layer_of(path) in PRINTS:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno}: use a callback"


@pytest.mark.parametrize(
    "path", sorted((paths.ROOT / "tests").rglob("*.py")), ids=lambda path: path.stem
)
def test_tests_import_modules_of_support(path: Path) -> None:
    """`from tests.support import jpegs`: one way, and no test imports another."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests"):
            assert node.module == "tests.support", (
                f"{path}:{node.lineno}: import the module: from tests.support import …"
            )


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 50
    assert {layer_of(path) for path in MODULES} >= set(LAYERS) - {"_core", "_logits", "_acl"}


def test_all_packages_and_data_files_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What setuptools copies into a wheel is what lies in the folder."""
    setuptools = pytest.importorskip("setuptools", minversion="77")
    monkeypatch.chdir(paths.ROOT)
    distribution = setuptools.Distribution({"script_name": "setup.py"})
    distribution.parse_config_files(["pyproject.toml"])
    distribution.include_package_data = False  # would add what an earlier build has listed
    packages = {".".join(path.parent.relative_to(paths.ROOT).parts) for path in MODULES}
    assert sorted(distribution.packages) == sorted(packages)
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    copied = {Path(module[2]) for module in command.find_all_modules()}
    for _, source, _, names in command.data_files:
        copied |= {Path(source, name) for name in names}
    files = {path.relative_to(paths.ROOT) for path in PACKAGE.rglob("*") if path.is_file()}
    assert copied == {path for path in files if path.suffix not in NOT_DATA}
