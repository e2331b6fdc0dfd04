"""ARCHITECTURE.md's rules about imports, read from the imports themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import paths

PACKAGE = paths.ROOT / "zoofast"
# A package imports only from packages above it in this list.
LAYERS = (
    "errors",
    "_core",
    "_logits",
    "base",
    "preprocess",
    "timing",
    "inference",
    "scoring",
    "evaluation",
    "conversion",
    "profiling",
    "report",
    "doctor",
    "commands",
    "cli",
    "guide_script",
)
PRINTS = ("commands", "cli")  # the only packages that write to the terminal
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
def test_the_library_prints_nothing(path: Path) -> None:
    if layer_of(path) in PRINTS:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno}: use a callback"


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 50
    assert {layer_of(path) for path in MODULES} >= set(LAYERS) - {"_core", "_logits"}
