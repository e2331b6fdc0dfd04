"""`zoofast models`: lists the known models, or shows one in full."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from zoofast.commands.console import (
    STDOUT,
    Table,
    explain,
    say,
    stacked,
    terminal_width,
    write_json,
)
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
        write_json(STDOUT, [_as_dict(known) for known in chosen])
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
    show_source = terminal_width() >= SOURCE_WIDTH
    source = ["source"] if show_source else []
    headings = ("input", "top-1", "top-5", "img/s", "chip")
    table = Table("model and recipe", *source, *headings, words=1 + show_source, frame=False)
    for known in known_models:
        recipe = load_recipe(known.recipe)
        height, width = recipe.input_size
        accuracy = recipe.accuracy or {}
        rates = _best_by_chip(known)
        table.add(
            known.name if known.recipe == known.name else f"{known.name} ({known.recipe})",
            *([known.package] if show_source else []),
            f"{height}x{width}",
            f"{accuracy.get('top1', '')}",
            f"{accuracy.get('top5', '')}",
            stacked(*(f"{rate:,.0f}" for _, rate in rates.values())),
            stacked(*rates),
        )
    table.print()
    explain(
        "top-1 and top-5 accuracy in %, and images/s at the best batch size, as in the guides; "
        "`zoofast models NAME` shows a model in full"
    )


def _best_by_chip(known: KnownModel) -> dict[str, tuple[int, float]]:
    return {chip: known.best(chip) for chip in known.fps}


def _print_one(known: KnownModel) -> None:
    recipe = load_recipe(known.recipe)
    height, width = recipe.input_size
    say(f"{known.name} (guide {known.guide})")
    say(f"network   {known.factory}")
    say(f"weights   {known.weights}, {known.url}")
    output = f"{recipe.output_name}:?,{recipe.classes}"
    say(f"ONNX      {recipe.input_name}:?,3,{height},{width} -> {output}")
    say(f"recipe    {known.recipe}: {recipe.summary}")
    if recipe.accuracy:
        say(f"accuracy  top-1 {recipe.accuracy['top1']} %, top-5 {recipe.accuracy['top5']} %")
    batch = next(iter(_best_by_chip(known).values()))[0]
    model = known.atc_input("{batch}")
    say(f"compile   {atc.build(recipe, model, batch, f'Ascend{next(iter(known.fps))}')}")
    table = Table("batch", *(f"img/s on {chip}" for chip in known.fps), words=0, frame=False)
    for batch in sorted(set().union(*known.fps.values())):
        table.add(str(batch), *(f"{rates[batch]:,.2f}" for rates in known.fps.values()))
    table.print()
