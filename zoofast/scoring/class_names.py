"""Names of a model's classes: from the labels, or else ImageNet's.

IMAGENET_NAMES.txt tells where the lists come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

IMAGENET_1K, IMAGENET_21K = "imagenet1k.txt", "imagenet21k.txt"
NOT_IN_21841 = ("n03931044", "n09859684")  # classes that models of 21,841 classes lack
BACKGROUND = "background"


@dataclass(frozen=True)
class ClassNames:
    """Names by the model's class. label_offset: a label and the offset make the model's class.
    of_imagenet: the names are not from the labels, but those of ImageNet."""

    by_class: Mapping[int, str] = field(default_factory=dict)
    label_offset: int = 0
    of_imagenet: bool = False

    def name(self, index: int) -> str:
        """The name of class `index` of the model; '' when unknown."""
        return self.by_class.get(index, "")

    def label(self, index: int) -> int | None:
        """The label of class `index` of the model; None for a class without one, the background."""
        return index - self.label_offset if index >= self.label_offset else None

    def describe(self, index: int) -> str:
        """Class `index` of the model as text: "4 hammerhead", or "5 (label 4) hammerhead" where the
        label is another number."""
        label = self.label(index)
        number = f"{index} (label {label})" if label not in (index, None) else str(index)
        return f"{number} {self.name(index)}".rstrip()


def name_classes(
    classes: int, label_offset: int, by_label: Mapping[int, str] | None = None
) -> ClassNames:
    """The names of a model's classes. by_label: the names that the labels themselves give.

    Without such names, a model of as many classes as ImageNet has (1000, 1001, 21841 or 21843)
    gets ImageNet's names.
    """
    if by_label:
        names = {label + label_offset: name for label, name in by_label.items()}
        return ClassNames({0: BACKGROUND} | names if label_offset == 1 else names, label_offset)
    names = dict(enumerate(_imagenet(classes)))
    return ClassNames(names, label_offset, of_imagenet=bool(names))


def _imagenet(classes: int) -> list[str]:
    """ImageNet's names in the order of a model's classes; [] for another number of classes."""
    if classes == 1000:
        return list(_read_list(IMAGENET_1K).values())
    if classes == 1001:
        return [BACKGROUND, *_read_list(IMAGENET_1K).values()]
    if classes in (21841, 21843):
        names = _read_list(IMAGENET_21K)
        absent = NOT_IN_21841 if classes == 21841 else ()
        return [name for synset, name in names.items() if synset not in absent]
    return []


def name_of_synset(synset: str) -> str:
    """The name of an ImageNet synset; the id itself where the lists do not have it."""
    return _read_list(IMAGENET_1K).get(synset) or _read_list(IMAGENET_21K).get(synset, synset)


@cache
def _read_list(file: str) -> dict[str, str]:
    """Synset id -> name, in the order of class indices."""
    lines = Path(__file__).with_name(file).read_text(encoding="ascii").splitlines()
    return dict(line.split(" ", 1) for line in lines)
