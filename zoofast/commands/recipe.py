"""`zoofast recipe`: shows, checks, compares and saves recipes of any source."""

from __future__ import annotations

import argparse
from typing import Any

from zoofast.base.files import write_atomic
from zoofast.base.text import counted
from zoofast.commands.shared import arguments, console, recipe_source
from zoofast.errors import RecipeError
from zoofast.preprocess.importers.check import check
from zoofast.preprocess.importers.function import transform_at
from zoofast.preprocess.recipe import FLOAT32_FILTER, Normalization, Recipe
from zoofast.preprocess.recipe_file import load_recipe
from zoofast.preprocess.recipe_text import tables_of, to_toml
from zoofast.preprocess.sources import open_source

COUNT = 20  # images, by default
MAX_SHOWN = 10  # images that differ
RESIZES = {
    "short": "the short side to {0} pixels",
    "height": "the height to {0} pixels",
    "exact": "to {0}×{1} pixels",
    "fit": "to fit in {0}×{1} pixels",
    "none": "none",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=help, description=help)

    show = action("show", "what a recipe does, step by step")
    arguments.add_recipe_name(show)
    checked = action("check", "compare a recipe with another code's transform on images")
    arguments.add_recipe_name(checked)
    arguments.add_source(checked)
    checked.add_argument(
        "--against",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="your transform, from a PIL image to a tensor (default: the source's own transform)",
    )
    checked.add_argument(
        "--count",
        type=arguments.positive,
        default=COUNT,
        metavar="N",
        help="the first N images (default: %(default)s)",
    )
    diff = action("diff", "the keys in which two recipes differ; exit code 1 if there are any")
    arguments.add_recipe_name(diff)
    diff.add_argument("other", metavar="OTHER", help="the other recipe, always with its usual size")
    save = action("save", "write a recipe of any source as a .toml file")
    arguments.add_recipe_name(save)
    save.add_argument(
        "-o",
        "--output",
        type=arguments.file_to_write,
        required=True,
        metavar="FILE.toml",
        help="recipe file to write",
    )


def run(args: argparse.Namespace) -> int:
    actions = {"show": _show, "check": _check, "diff": _diff, "save": _save}
    return actions[args.action](args)


def _show(args: argparse.Namespace) -> int:
    recipe = recipe_source.load(args)
    imported = recipe.imported
    table = console.Table("step", "what is done", title=recipe.name, words=2)
    if recipe.summary:
        table.add("summary", recipe.summary)
    if imported is not None:
        table.add("read from", imported.origin)
    for step, text in _steps(recipe):
        table.add(step, text)
    table.print()
    if imported is not None and imported.note:
        console.warn(imported.note)
    return 0


def _steps(recipe: Recipe) -> list[tuple[str, str]]:
    """(step, what it does) in the order of the work."""
    resize = RESIZES[recipe.resize].format(*recipe.resize_size)
    if recipe.resize != "none":
        resize += f", {recipe.filter}"
    if recipe.resize_rounding != "down":
        resize += f"; the sides are rounded: {recipe.resize_rounding}"
    is_float = recipe.resize != "none" and recipe.filter == FLOAT32_FILTER
    is_divided = is_float and recipe.normalization.scale == "0-1"
    if is_float:
        resize += f"; of {'x / 255' if is_divided else 'x'} as float32"
    steps = []
    if recipe.decoder != "pillow":
        steps.append(("decode", f"as {recipe.decoder}, turned by the EXIF orientation"))
    steps.append(("resize", resize))
    if recipe.crop is not None:
        crop = f"{recipe.crop[0]}×{recipe.crop[1]} pixels from the centre"
        steps.append(("crop", f"{crop}; the origin is rounded: {recipe.crop_rounding}"))
    if recipe.pad is not None:
        steps.append(("pad", _padding(recipe)))
    steps.append(("normalize", _formula(recipe.normalization, is_divided)))
    shape = "×".join(map(str, recipe.shape))
    steps.append(("tensor", f"{recipe.dtype} {recipe.layout} {shape}, {recipe.channels}"))
    if recipe.on_device is not None:
        steps.append(("on the NPU", _formula(recipe.on_device)))
    model = "no classes"
    if recipe.classes is not None:
        model = counted(recipe.classes, "class", "classes")
    if recipe.label_offset:
        model += f", label 0 is class {recipe.label_offset}"
    steps.append(("model", f"{recipe.input_name} → {recipe.output_name}, {model}"))
    published = (("top-1", recipe.top1), ("top-5", recipe.top5))
    if any(value is not None for _, value in published):
        text = ", ".join(f"{top} {value:g} %" for top, value in published if value is not None)
        steps.append(("published", text))
    return [*steps, ("digest", recipe.digest)]


def _padding(recipe: Recipe) -> str:
    """What is around the picture of a recipe that pads."""
    assert recipe.pad is not None
    place = "in the middle" if recipe.pad_position == "centre" else "at the top left"
    values = ", ".join(f"{value:g}" for value in recipe.pad_value)
    what = "pixels" if recipe.pad_stage == "pixels" else "the tensor's values"
    return f"to {recipe.pad[0]}×{recipe.pad[1]} pixels, the picture {place}; {what} ({values})"


def _formula(normalization: Normalization, is_divided: bool = False) -> str:
    """The normalization of a value x from 0 to 255, in the order of the operations. is_divided: x
    is divided by 255 before."""
    if normalization.is_identity:
        return "none"
    scale = normalization.scale
    formula = f"x × {scale!r}" if isinstance(scale, float) else "x / 255" if scale == "0-1" else "x"
    if is_divided:
        formula = "x"
    default = Normalization()
    for key in ("mean", "second_mean", "std", "second_std"):
        values = getattr(normalization, key)
        if values != getattr(default, key):
            sign = "−" if key.endswith("mean") else "× 1 /" if normalization.reciprocal else "/"
            left = formula if formula == "x" else f"({formula})"
            formula = f"{left} {sign} ({', '.join(f'{value:g}' for value in values)})"
    return f"{formula}, in {normalization.precision}"


def _check(args: argparse.Namespace) -> int:
    recipe = recipe_source.load(args)
    if args.against is not None:
        transform, origin = transform_at(args.against), args.against
    elif recipe.imported is not None:
        transform, origin = recipe.imported.transform(), recipe.imported.origin
    else:
        raise RecipeError(
            f"recipe {args.recipe}: a recipe file has no code to compare it with; name yours with "
            "--against"
        )
    with open_source(args.source) as source:
        checked = check(recipe, transform, source, source.items, args.count)
    for name, what in checked.differing[:MAX_SHOWN]:
        console.warn(f"differs: {name}: {what}")
    equal = checked.images - len(checked.differing)
    console.say(f"{recipe.name}: {equal} of {checked.images} images equal {origin}")
    return 0 if checked.images and not checked.differing else 1


def _diff(args: argparse.Namespace) -> int:
    recipe, other = recipe_source.load(args), load_recipe(args.other)
    mine, theirs = _flat(recipe), _flat(other)
    keys = [key for key in dict.fromkeys([*mine, *theirs]) if mine.get(key) != theirs.get(key)]
    if not keys:
        console.say(f"{recipe.name} and {other.name} make the same tensors")
        return 0
    table = console.Table("key", recipe.name, other.name, words=3)
    for key in keys:
        table.add(key, _shown(mine.get(key)), _shown(theirs.get(key)))
    table.print()
    return 1


def _flat(recipe: Recipe) -> dict[str, Any]:
    """The keys of a recipe file that change a tensor or a score, by path."""
    return {
        f"{table}.{key}": value
        for table, values in tables_of(recipe).items()
        for key, value in values.items()
        if table
    }


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)


def _save(args: argparse.Namespace) -> int:
    recipe = recipe_source.load(args)
    write_atomic(args.output, to_toml(recipe).encode())
    source = f", read from {recipe.imported.origin}" if recipe.imported else ""
    console.say(f"{args.output}: recipe {recipe.name} ({recipe.digest}){source}")
    return 0
