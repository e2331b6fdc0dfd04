"""The recipe that a command was given: read, and proven where it comes from another library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from zoofast.commands import console
from zoofast.preprocess import importers
from zoofast.preprocess.importers.first_use import check_first_use, is_installed
from zoofast.preprocess.importers.imported import Imported
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe
from zoofast.preprocess.sources import Item, Source


def load(args: argparse.Namespace) -> tuple[Recipe, Imported | None]:
    """The recipe of --recipe and --test-size; and the import that it comes from, if any."""
    if importers.is_import(args.recipe):
        imported = importers.load(args.recipe, args.test_size)
        return imported.recipe, imported
    return load_recipe(args.recipe, args.test_size), None


def prove(imported: Imported | None, source: Source, items: Sequence[Item], quiet: bool) -> None:
    """Compares an import with the library's own transform when it is used first.

    Raises RecipeError where they differ.
    """
    if imported is None:
        return
    if imported.note and not quiet:
        console.warn(imported.note)
    checked = check_first_use(imported, source, items)
    if quiet:
        return
    if checked is not None:
        console.warn(
            f"recipe {imported.recipe.name}: equal to {imported.origin} on {checked.images} images"
        )
    elif not is_installed(imported.packages):
        console.warn(
            f"recipe {imported.recipe.name}: not compared with {imported.origin}: "
            f"{imported.packages[0]} is not installed"
        )
