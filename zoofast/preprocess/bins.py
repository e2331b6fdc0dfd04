"""Which images each bin of a folder holds, what the bins are called, and the side file of labels.

By default each image has a bin of its own, named after the image. A guide may pack several images
into a bin, number its bins, or add mirrored copies; see zoofast.preprocess.guides. The order of the
images is the source's. An image that cannot be prepared keeps its place, so the others never shift.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zoofast.base.names import name_problem, stem
from zoofast.base.text import counted
from zoofast.errors import OutputError
from zoofast.preprocess.recipe import Size
from zoofast.preprocess.sources import Item

FILLS = ("zero", "drop")
PLAIN_NAMES = "{stem}.bin"
MAX_IMAGES = 1024  # in a bin
MIRRORED = "_flip"  # ends the name of a mirrored copy
_PLACE = re.compile(r"\{(stem|name|folder|i)(?::0([1-9])d)?\}")
_LINE_PLACE = re.compile(r"\{(i|bin|stem|path|labels|height|width)\}")


@dataclass(frozen=True)
class Packing:
    """How images are put into bins.

    images: in a bin. fill: what becomes of the last bin if it is not full: "zero" fills it with
    zeros, "drop" leaves it out. names: of the bins; the places that `bin_names` fills are {stem},
    {name} and {folder}, of the image, and {i}, the number of the bin from 0; {i:05d} has 5 digits.
    mirror: whether each bin gets a second one, of the images mirrored left to right.
    """

    images: int = 1
    fill: str = "zero"
    names: str = PLAIN_NAMES
    mirror: bool = False

    def __post_init__(self) -> None:
        """Raises OutputError for a packing that cannot be."""
        if not 1 <= self.images <= MAX_IMAGES or self.fill not in FILLS:
            raise OutputError(f"a bin holds 1 to {MAX_IMAGES} images; fill is zero or drop")
        literal = _PLACE.sub("", self.names)
        if re.search(r"[{}\0\n\r]", literal) or not self.names.endswith(".bin"):
            raise OutputError(
                f"bin names {self.names[:60]!r}: a name ends in .bin, and its places are {{i}}, "
                "{i:05d}, {stem}, {name} and {folder}"
            )
        by_image = {match[1] for match in _PLACE.finditer(self.names)} - {"folder"}
        if not by_image or (self.images > 1 and by_image != {"i"}):
            raise OutputError(
                f"bin names {self.names[:60]!r}: bins of several images need {{i}}, and bins of "
                "one image {i}, {stem} or {name}"
            )

    @property
    def is_plain(self) -> bool:
        """Whether each image has a bin of its own that is named after it."""
        return self.images == 1 and self.names == PLAIN_NAMES and not self.mirror

    def __str__(self) -> str:
        """As messages name it."""
        mirrored = ", with mirrored copies" if self.mirror else ""
        return f"{counted(self.images, 'image')} a bin, {self.names}, fill {self.fill}{mirrored}"

    @property
    def is_numbered(self) -> bool:
        return any(match[1] == "i" for match in _PLACE.finditer(self.names))

    def name(self, i: int, item: Item) -> str:
        """The name of bin `i`, whose first image is `item`."""
        folder, base = os.path.split(item.path)
        values = {"stem": item.name, "name": base, "folder": os.path.basename(folder)}

        def value(place: re.Match[str]) -> str:
            if place[1] == "i":
                return f"{i:0{place[2] or 1}d}"
            return values[place[1]]

        return _PLACE.sub(value, self.names)


PLAIN = Packing()  # each image has a bin of its own that is named after it


@dataclass(frozen=True)
class Bin:
    """One bin. file, mirrored: relative to the folder; mirrored is "" where there is none.

    images: the names of the images, in the order of the rows; "" for one that has no usable name.
    """

    file: str
    images: tuple[str, ...]
    mirrored: str = ""

    @property
    def files(self) -> list[str]:
        return [self.file, self.mirrored] if self.mirrored else [self.file]


def plan_bins(
    items: Sequence[Item], packing: Packing, numbers: Sequence[int] | None = None
) -> tuple[list[Bin], list[Item]]:
    """The bins of `items`, in order, and the items of the last bin if that is left out.

    numbers: of the bins, where `items` are some of the source's; None: 0, 1, 2 and so on. Raises
    OutputError for two bins of one name, or a name that no file can have.
    """
    bins: list[Bin] = []
    dropped: list[Item] = []
    taken: set[str] = set()
    for k, i in enumerate(range(0, len(items), packing.images)):
        part = items[i : i + packing.images]
        if len(part) < packing.images and packing.fill == "drop":
            dropped = list(part)
            break
        if part[0].problem is not None and not packing.is_numbered:
            continue  # an image whose name cannot be a file's has no bin
        file = packing.name(k if numbers is None else numbers[k], part[0])
        problem = bin_problem(file)
        if problem is not None:
            raise OutputError(f"{part[0].path}: its bin cannot be named {file!r}: {problem}")
        mirrored = mirrored_name(file) if packing.mirror else ""
        made = Bin(file, tuple("" if it.problem else it.name for it in part), mirrored)
        for each in made.files:
            if each in taken:
                raise OutputError(f"two bins would be named {each}; choose other bin names")
            taken.add(each)
        bins.append(made)
    return bins, dropped


def bin_files(items: Sequence[Item], packing: Packing) -> Iterator[str]:
    """The names of the bins that the items would have, in order. It holds no list of them."""
    for k, i in enumerate(range(0, len(items), packing.images)):
        yield packing.name(k, items[i])


def mirrored_name(file: str) -> str:
    """The name of a bin's mirrored copy."""
    return f"{file.removesuffix('.bin')}{MIRRORED}.bin"


def bin_problem(file: str) -> str | None:
    """Why `file` cannot be a bin's path in its folder; None when it can."""
    folder, _, base = file.rpartition("/")
    if not base.endswith(".bin") or base.startswith("."):
        return "a bin's name ends in .bin and does not begin with a dot"
    if "/" in file and (not folder or "/" in folder or folder in (".", "..")):
        return "it is not in the folder, nor in a folder of it"
    return name_problem(base) or (name_problem(folder) if folder else None)


def side_file(
    path: str,
    line: str,
    bins: Sequence[Bin],
    packing: Packing,
    labels: Mapping[str, int],
    size: Size,
    folder: str,
) -> bytes:
    """The content of the guide's side file: one line a bin, or for `.npy` an array of the labels.

    line: its places are {i}, {bin}, {stem}, {path}, {labels}, {height} and {width}. An array is
    (bins, images) int64, -1 where the last bin has no image. Raises OutputError for an image
    without a label, where labels are needed.
    """
    is_array = path.endswith(".npy")
    wanted = is_array or "{labels}" in line
    missing = [name for each in bins for name in each.images if name and name not in labels]
    if wanted and missing:
        raise OutputError(
            f"{path}: {counted(len(missing), 'image')} without a label ({missing[0]}); give the "
            "labels with --labels"
        )
    if is_array:
        array = np.full((len(bins), packing.images), -1, np.int64)
        for row, each in zip(array, bins, strict=True):
            row[: len(each.images)] = [labels.get(name, -1) for name in each.images]
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()
    lines = []
    for i, each in enumerate(bins):
        values = {
            "i": str(i),
            "bin": each.file,
            "stem": stem(each.file),
            "path": os.path.join(folder, each.file),
            "labels": " ".join(str(labels.get(name, -1)) for name in each.images) if wanted else "",
            "height": str(size[0]),
            "width": str(size[1]),
        }
        parts = _LINE_PLACE.split(line)  # every second part is the name of a place
        parts[1::2] = [values[name] for name in parts[1::2]]
        lines.append("".join(parts) + "\n")
    return os.fsencode("".join(lines))
