"""`zoofast models`: lists the guides' models, or shows one with all commands of its guide."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from zoofast.base.text import quoted
from zoofast.commands.shared import arguments
from zoofast.commands.shared.console import (
    STDOUT,
    Table,
    explain,
    say,
    say_command,
    stacked,
    terminal_width,
    write_json,
)
from zoofast.conversion import atc, models
from zoofast.conversion.models import KnownModel
from zoofast.errors import ModelError, RecipeError
from zoofast.preprocess.guides import TASKS, Guide, guides
from zoofast.preprocess.recipe import DTYPES, Recipe, Size
from zoofast.preprocess.recipe_file import load_recipe, nearest

if TYPE_CHECKING:
    from rich.text import Text

NO_RECIPE = "-"
SOURCES = {  # what the guide reads in place of a folder of images -> the file in its data set
    "CIFAR-10 pickle": "cifar-10-batches-py/test_batch",
    "CIFAR-100 pickle": "cifar-100-python/test",
    "pickle of JPEGs": "lfw.bin",
}
WIDE = 76  # columns of a terminal that has space for the whole list
DEFAULT_BATCH = 8  # in the commands, where the guide names no best batch size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="show this model, and its guide's commands"
    )
    parser.add_argument(
        "--input", type=_size, metavar="N|HxW", help="only models with this input size in pixels"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="only models with tensors of this type")
    parser.add_argument("--task", choices=TASKS, help="only models for this task")
    arguments.add_json_instead(parser, "everything", _json_file)


def _json_file(text: str) -> str:
    if text in guides():
        raise argparse.ArgumentTypeError(f"{text} is a model; write `zoofast models {text} --json`")
    return arguments.result_file(text)


def _size(text: str) -> Size:
    match = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a size such as 224 or 256x128")
    return int(match[1]), int(match[2] or match[1])


def run(args: argparse.Namespace) -> int:
    if args.name is not None and args.name not in guides():
        hint = nearest(args.name, guides())
        raise ModelError(f"unknown model {args.name!r}{hint}; `zoofast models` lists all")
    chosen = [
        guide
        for guide in guides().values()
        if args.name in (None, guide.name) and _matches(guide, args)
    ]
    if not chosen:
        raise ModelError("no model has this input size, type and task; `zoofast models` lists all")
    if args.json is not None:
        write_json(args.json, [_as_dict(guide) for guide in chosen])
    if args.json is STDOUT:
        return 0
    if args.name:
        _print_one(chosen[0])
    else:
        _print_all(chosen)
    return 0


def _recipe(guide: Guide) -> Recipe | None:
    try:
        return load_recipe(guide.name)
    except RecipeError:
        return None


def _known(guide: Guide) -> KnownModel | None:
    """How zoofast converts the guide's model, where it can."""
    return models.load(guide.name) if guide.name in models.names() else None


def _rates(guide: Guide) -> Mapping[str, tuple[int, float]]:
    """Chip -> (batch size, images/s): the guide's best."""
    known = _known(guide)
    return {chip: known.best(chip) for chip in known.fps} if known else guide.rates


def _input_size(guide: Guide, recipe: Recipe | None) -> Size | None:
    """Of the ONNX's input, or of the picture that the guide makes it from."""
    return guide.size or (recipe.input_size if recipe else None)


def _matches(guide: Guide, args: argparse.Namespace) -> bool:
    recipe = _recipe(guide)
    return (
        args.input in (None, _input_size(guide, recipe))
        and args.dtype in (None, recipe and recipe.dtype)
        and args.task in (None, guide.task)
    )


def _as_dict(guide: Guide) -> dict[str, object]:
    known, recipe = _known(guide), _recipe(guide)
    entry: dict[str, object] = {**asdict(guide), "rates": _rates(guide), "accuracy": None}
    if known is not None:
        entry |= asdict(known)
    if recipe is not None:
        entry |= {
            "input": recipe.input_name,
            "output": recipe.output_name,
            "size": recipe.input_size,
            "dtype": recipe.dtype,
            "layout": recipe.layout,
            "classes": recipe.classes,
            "accuracy": recipe.accuracy,
        }
    return entry


def _print_all(chosen: list[Guide]) -> None:
    headings = ["model", "input", "type", "top-1", "top-5", "img/s", "chip"]
    columns = [heading for heading in headings if _has_space(heading)]
    table = Table(*columns, words=1, frame=False)
    for guide in chosen:
        recipe, rates = _recipe(guide), _rates(guide)
        cells: dict[str, str | Text] = {
            "model": guide.name,
            "input": "x".join(map(str, _input_size(guide, recipe) or ())),
            "type": recipe.dtype if recipe else NO_RECIPE,
            "top-1": f"{guide.top1 or ''}",
            "top-5": f"{guide.top5 or ''}",
            "img/s": stacked(*(_rate(rate) for _, rate in rates.values())),
            "chip": stacked(*rates),
        }
        table.add(*(cells[column] for column in columns))
    table.print()
    lacking = sum(guide.recipe is None for guide in chosen) if "type" in columns else 0
    explain(
        f"{len(chosen)} models; accuracy in %, and images/s at the best batch size, as in the "
        "guides",
        *([f"{NO_RECIPE}: there is no recipe; `zoofast models NAME` says why"] if lacking else []),
        "`zoofast models NAME` shows a model and its guide's commands",
    )


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _has_space(heading: str) -> bool:
    """Whether a terminal of this width shows the column of the list."""
    return terminal_width() >= WIDE or heading not in ("type", "top-5")


def _print_one(guide: Guide) -> None:
    known, recipe = _known(guide), _recipe(guide)
    say(f"{guide.name} (guide {guide.path})")
    if known is not None:
        say(f"network   {known.factory}", f"weights   {known.weights}, {known.url}")
    if recipe is not None:
        height, width = recipe.input_size
        output = guide.answers or f"{recipe.output_name}:?,{recipe.classes or '?'}"
        say(f"ONNX      {recipe.input_name}:?,3,{height},{width} -> {output}")
        explain(f"recipe    {guide.recipe}: {load_recipe(guide.recipe or guide.name).summary}")
    else:
        explain(f"recipe    there is none: {guide.missing}")
    accuracy = [
        f"top-{k} {share} %" for k, share in ((1, guide.top1), (5, guide.top5)) if share is not None
    ]
    if accuracy:
        say(f"accuracy  {', '.join(accuracy)}")
    for note in _notes(guide):
        explain(f"note      {note}")
    if recipe is not None:
        say("commands")
        for command in _commands(guide, recipe, known):
            say_command(command)
    if known is not None:
        table = Table("batch", *(f"img/s on {chip}" for chip in known.fps), words=0, frame=False)
        for batch in sorted(set().union(*known.fps.values())):
            table.add(str(batch), *(f"{rates[batch]:,.2f}" for rates in known.fps.values()))
        table.print()
        return
    for chip, (batch, rate) in guide.rates.items():
        say(f"speed     {rate:,.2f} img/s on {chip} at batch size {batch}")


def _notes(guide: Guide) -> Iterator[str]:
    """What the guide does otherwise than zoofast."""
    if guide.note:
        yield guide.note
    packing = guide.packing
    if packing.images > 1:
        last = "fills the last bin with zeros"
        if packing.fill == "drop":
            last = "leaves out the images of a last bin that is not full"
        yield f"a bin holds {packing.images} images; prep {last}, as the guide does"
    if packing.mirror:
        yield "each image has a second bin, NAME_flip.bin, mirrored"
    if guide.answers:
        yield f"the output holds {guide.answers}; zoofast score needs a logit for each class"


def _commands(guide: Guide, recipe: Recipe, known: KnownModel | None) -> Iterator[str]:
    """The guide's whole way, from images and weights to the accuracy."""
    batch = next((batch for batch, _ in _rates(guide).values()), DEFAULT_BATCH)
    if batch % guide.packing.images:
        batch = guide.packing.images
    images = SOURCES.get(guide.source, "IMAGES")
    side, labels = _side_file(guide)
    yield f"zoofast prep {images} bins --recipe {guide.name}{side}"
    if known is None:
        onnx = f"{guide.name}.onnx"
        yield f"# export {onnx} with the guide's own script"
    else:
        onnx = known.atc_input(batch)
        exported, simplified = f"{known.onnx}.onnx", f"{known.onnx}_sim{batch}.onnx"
        yield f"zoofast export {guide.name} --weights {known.weights} -o {exported}"
        if known.simplify:
            yield f"zoofast simplify {exported} -o {simplified} --batchsize {batch}"
            for rewrite in known.rewrites:
                yield f"zoofast optimize {simplified} -o {onnx} -k {rewrite}"
    if recipe.on_device is not None:
        yield f"zoofast aipp {guide.name}"
    yield f"zoofast atc {onnx} --recipe {guide.name} --batchsize {batch}"
    # The same for every chip: only the name of the .om is taken from the command.
    om = atc.build(recipe, onnx, batch, "Ascend310P3").output
    result = f"result/bs{batch}"
    yield (
        f"zoofast infer --model {om} --input bins --output result --output_dirname bs{batch} "
        "--outfmt TXT"
    )
    if not guide.answers:
        yield f"zoofast score {result} {labels} -o result.json"
        given = " LABELS" if images == "IMAGES" else ""  # a pickle of CIFAR has its labels
        yield f"zoofast eval {om} {images}{given} --recipe {guide.name}  # without bins"


def _side_file(guide: Guide) -> tuple[str, str]:
    """The options of prep for the guide's side file, and the labels for score."""
    if guide.source.startswith("CIFAR"):  # the labels are in the pickle; score needs them as a file
        if "{labels}" in guide.side_line and guide.side_line != "{labels}":
            return f" --side-file {guide.side_file}", guide.side_file
        return " --side-file labels.txt --side-line '{stem} {labels}'", "labels.txt"
    if not guide.side_file:
        return "", "LABELS"
    needs_labels = guide.side_file.endswith(".npy") or "{labels}" in guide.side_line
    return f" --side-file {guide.side_file}{' --labels LABELS' if needs_labels else ''}", "LABELS"
