"""`zoofast models`: lists the known models, or shows one in full."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from zoofast.conversion import atc, models
from zoofast.conversion.models import KnownModel
from zoofast.preprocess.recipe_file import load_recipe

SOURCE_WIDTH = 76  # columns of a terminal that has room for the source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="show this model in full")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    chosen = [models.load(name) for name in ([args.name] if args.name else models.names())]
    if args.json:
        print(json.dumps([_as_dict(known) for known in chosen], indent=1))
    elif args.name:
        _print_one(chosen[0])
    else:
        _print_all(chosen)
    return 0


def _as_dict(known: KnownModel) -> dict[str, object]:
    recipe = load_recipe(known.recipe)
    return {
        **asdict(known),
        "input": recipe.input_name,
        "output": recipe.output_name,
        "size": recipe.input_size,
        "classes": recipe.classes,
        "accuracy": recipe.accuracy,
    }


def _print_all(known_models: list[KnownModel]) -> None:
    console = Console()
    show_source = console.width >= SOURCE_WIDTH
    table = Table(box=None, pad_edge=False)
    table.add_column("model and recipe", overflow="fold")  # only names are broken, no numbers
    if show_source:
        table.add_column("source", no_wrap=True)
    for heading in ("input", "top-1", "top-5", "img/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("chip", no_wrap=True)
    for known in known_models:
        recipe = load_recipe(known.recipe)
        height, width = recipe.input_size
        accuracy = recipe.accuracy or {}
        rates = _best_by_chip(known)
        table.add_row(
            known.name if known.recipe == known.name else f"{known.name} ({known.recipe})",
            *([known.package] if show_source else []),
            f"{height}x{width}",
            f"{accuracy.get('top1', '')}",
            f"{accuracy.get('top5', '')}",
            "\n".join(f"{rate:,.0f}" for _, rate in rates.values()),
            "\n".join(rates),
        )
    console.print(table)
    console.print(
        "top-1 and top-5 accuracy in %, and images/s at the best batch size, as in the guides; "
        "`zoofast models NAME` shows a model in full",
        highlight=False,
    )


def _best_by_chip(known: KnownModel) -> dict[str, tuple[int, float]]:
    return {chip: known.best(chip) for chip in known.fps}


def _print_one(known: KnownModel) -> None:
    recipe = load_recipe(known.recipe)
    height, width = recipe.input_size
    print(f"{known.name} (guide {known.guide})")
    print(f"network   {known.factory}")
    print(f"weights   {known.weights}, {known.url}")
    print(f"ONNX      {recipe.input_name}:?,3,{height},{width} -> {recipe.output_name}:?,", end="")
    print(recipe.classes)
    print(f"recipe    {known.recipe}: {recipe.summary}")
    if recipe.accuracy:
        print(f"accuracy  top-1 {recipe.accuracy['top1']} %, top-5 {recipe.accuracy['top5']} %")
    batch = next(iter(_best_by_chip(known).values()))[0]
    model = known.atc_input("{batch}")
    print(f"compile   {atc.build(recipe, model, batch, f'Ascend{next(iter(known.fps))}')}")
    table = Table("batch", box=None, pad_edge=False)
    for chip in known.fps:
        table.add_column(f"img/s on {chip}", justify="right")
    for batch in sorted(set().union(*known.fps.values())):
        table.add_row(str(batch), *(f"{rates[batch]:,.2f}" for rates in known.fps.values()))
    Console().print(table)
