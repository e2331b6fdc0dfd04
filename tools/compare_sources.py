"""Compares recipes with the libraries that they are read from, and writes the table of the docs.

    python tools/compare_sources.py [--images SRC] [--sample N] [--write]

Every distinct data configuration of timm's pretrained models, every weights of torchvision's
classifiers, and every image processor of transformers that zoofast knows prepare the same images:
by zoofast's recipe, and by the library itself. A configuration is equal if all images give the
same bytes. A library that is not installed is left out.

--images: any source of zoofast prep; by default seven made images of odd and even sizes.
--sample: only every N-th configuration. --write: put the table into docs/recipe-sources.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from images import picture
from PIL import Image

from zoofast.base.torchvision_operators import define_missing_operators
from zoofast.errors import ZoofastError
from zoofast.preprocess.importers import huggingface, timm, torchvision
from zoofast.preprocess.importers.check import check
from zoofast.preprocess.importers.imported import Imported, Transform
from zoofast.preprocess.sources import Source, open_source

SIZES = [(375, 500), (500, 333), (501, 377), (224, 224), (97, 301), (640, 481), (33, 40)]
PAGE = Path(__file__).parent.parent / "docs" / "recipe-sources.md"
BEGIN, END = "<!-- compared: begin -->\n", "<!-- compared: end -->\n"
# Of each processor: the class's own values; sizes and filter as in older files; and those of a
# larger crop, which pads.
VARIANTS: list[dict[str, Any]] = [
    {},
    {"size": 193, "crop_size": 176, "resample": 0, "do_center_crop": True},
    {"size": {"shortest_edge": 160}, "crop_size": 203, "do_center_crop": True, "resample": 1},
]


@dataclass
class Case:
    """One configuration: its name, the recipe, and the library's own transform."""

    name: str
    imported: Callable[[], Imported]
    transform: Callable[[Imported], Transform]


@dataclass
class Row:
    """What was compared of one library."""

    what: str
    packages: str
    total: int = 0
    equal: int = 0
    exceptions: list[str] = field(default_factory=list)


def cases_of_timm() -> Iterator[Case]:
    """The distinct configurations, with each model's usual size and its size for tests."""
    from timm import list_pretrained
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    seen = set()
    for name in list_pretrained():
        config = get_pretrained_cfg(name).to_dict()
        for test_size in (False, True):
            # timm's own reading of the configuration, not ours
            data = resolve_data_config(pretrained_cfg=config, use_test_size=test_size)
            key = repr(sorted((k, str(v)) for k, v in data.items()))
            if key in seen:
                continue
            seen.add(key)
            yield Case(
                name + (" --test-size" if test_size else ""),
                lambda c=config, n=name, t=test_size: timm.from_config(c, n, t),
                lambda imported: imported.transform(),
            )


def cases_of_torchvision() -> Iterator[Case]:
    for kind, weights in torchvision.weights_enums().items():
        for tag in list(weights):
            name = f"{kind}.{tag.name}"
            yield Case(
                name, lambda n=name: torchvision.load(n), lambda imported: imported.transform()
            )


def cases_of_transformers() -> Iterator[Case]:
    for kind, processor in huggingface.PROCESSORS.items():
        for number, variant in enumerate(VARIANTS):
            values = dict(variant)
            short_only = processor.int_is_short or "size" not in values
            if isinstance(values.get("size"), dict) and not short_only:
                values["size"] = {"height": 160, "width": 171}
            if kind == "ConvNextImageProcessor":
                values.pop("do_center_crop", None)
            config = {"image_processor_type": kind, **values}
            name = f"{kind} ({number + 1} of {len(VARIANTS)})"
            yield Case(
                name,
                lambda c=config, n=name: huggingface.from_config(c, n),
                lambda imported: imported.transform(),
            )


SOURCES = [
    ("distinct data configurations of timm's pretrained models", ("timm",), cases_of_timm),
    ("weights of torchvision's classifiers", ("torchvision",), cases_of_torchvision),
    (
        f"{len(huggingface.PROCESSORS)} image processors of transformers, {len(VARIANTS)} each",
        ("transformers",),
        cases_of_transformers,
    ),
]


def compare(case: Case, source: Source) -> str:
    """In what the case differs; "" where all images are equal."""
    try:
        imported = case.imported()
    except ZoofastError as error:
        return str(error).removeprefix(f"{case.name}: ")
    checked = check(
        imported.recipe, case.transform(imported), source, source.items, len(source.items)
    )
    if not checked.images:
        return "no image could be compared"
    return "; ".join(f"{name}: {what}" for name, what in checked.differing[:1])


def compare_all(source: Source, sample: int) -> list[Row]:
    rows = []
    for what, packages, cases in SOURCES:
        try:
            versions = ", ".join(f"{p} {version(p)}" for p in (*packages, "torch", "pillow"))
        except PackageNotFoundError as error:
            print(f"left out: {what}: {error}", file=sys.stderr)
            continue
        define_missing_operators()
        row = Row(what, versions)
        for case in list(cases())[::sample]:
            difference = compare(case, source)
            row.total += 1
            row.equal += not difference
            if difference:
                row.exceptions.append(f"{case.name}: {difference}")
            if row.total % 20 == 0:
                print(f"{what}: {row.total} compared, {row.equal} equal", file=sys.stderr)
        rows.append(row)
    return rows


def table(rows: list[Row], images: int) -> str:
    lines = [
        f"| compared on {images} images | versions | compared | equal |",
        "|---|---|---|---|",
        *(f"| {row.what} | {row.packages} | {row.total} | {row.equal} |" for row in rows),
    ]
    exceptions = [f"- {exception}" for row in rows for exception in row.exceptions]
    if exceptions:
        lines += ["", "Not equal, or not to be said:", "", *exceptions]
    return "\n".join(lines) + "\n"


def make_images(folder: Path) -> Path:
    for number, (height, width) in enumerate(SIZES):
        pixels = picture(width, height, np.random.default_rng(number))
        Image.fromarray(pixels).save(folder / f"{height}x{width}.jpeg", quality=90)
    return folder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", metavar="SRC")
    parser.add_argument("--sample", type=int, default=1, metavar="N")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        images = args.images or str(make_images(Path(folder)))
        with open_source(images) as source:
            rows = compare_all(source, args.sample)
            text = table(rows, len(source.items))
    print(text, end="")
    if args.write:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(before + BEGIN + text + END + after, encoding="utf-8")
    return 0 if all(row.equal == row.total for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
