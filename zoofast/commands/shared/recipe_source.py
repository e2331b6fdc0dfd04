"""Loads the recipe that a command was given, and compares an imported one with its library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from zoofast.commands.shared import console
from zoofast.preprocess.importers.first_use import check_first_use, is_installed
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe
from zoofast.preprocess.sources import Item, Source


def load(args: argparse.Namespace) -> Recipe:
    """The recipe of the arguments that arguments.add_recipe adds."""
    return load_recipe(args.recipe, args.test_size)


def load_if_given(args: argparse.Namespace) -> Recipe | None:
    """The recipe of a command that needs none; None without --recipe."""
    return None if args.recipe is None else load(args)


def check_imported(recipe: Recipe, source: Source, items: Sequence[Item], quiet: bool) -> None:
    """Compares an imported recipe with the library's own transform when it is used first, and
    says so.

    Raises RecipeError where they differ.
    """
    imported = recipe.imported
    if imported is None:
        return
    if imported.note and not quiet:
        console.warn(imported.note)
    checked = check_first_use(imported, source, items)
    if quiet:
        return
    if checked is not None and not checked.images:
        console.warn(
            f"recipe {recipe.name}: not compared with {imported.origin}: no image gives a tensor"
        )
    elif checked is not None:
        console.warn(f"recipe {recipe.name}: equal to {imported.origin} on {checked.images} images")
    elif not is_installed(imported.packages):
        console.warn(
            f"recipe {recipe.name}: not compared with {imported.origin}: "
            f"{imported.packages[0]} is not installed"
        )
