"""Ground truth: each file layout of ImageNet's labels -> class index by sample name.

A class index is the position of the class among the sorted synset ids (n01440764 is 0), as in every
framework. A model with a background class in front needs an offset, which scoring adds.
"""

from __future__ import annotations

import re
import stat
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoofast.base.by_name import NumbersByName
from zoofast.base.files import read_file, text_lines
from zoofast.base.names import stem
from zoofast.base.parsing import parse_json
from zoofast.base.sequences import Strings
from zoofast.base.text import quoted
from zoofast.errors import LabelError
from zoofast.scoring.class_names import name_of_synset
from zoofast.scoring.matfile import read_struct_array

if TYPE_CHECKING:
    from zoofast.preprocess.sources import Source

SYNSET = re.compile(r"n[0-9]{8}")
MAX_CLASS = 999_999_999  # of a label, and the largest ILSVRC id
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
HIAI_INDEX = "HiAI_label.json"  # the only file of a HiAI folder that is not about an image
VALIDATION_NAME = "ILSVRC2012_val_{:08d}"  # the image of line i in a list without names


@dataclass(frozen=True, init=False)
class Labels:
    """Class index by sample name (the image's name up to its first dot)."""

    by_name: NumbersByName
    source: str  # the file or folder, in words
    class_names: dict[int, str]
    class_count: int | None  # None: the layout does not say it

    def __init__(
        self,
        by_name: Mapping[str, int],
        source: str,
        class_names: dict[int, str] | None = None,
        class_count: int | None = None,
    ) -> None:
        """Raises LabelError for a class that no model has."""
        if not isinstance(by_name, NumbersByName):
            by_name = _numbers(by_name.items(), source)
        vars(self).update(
            by_name=by_name,
            source=source,
            class_names=class_names or {},
            class_count=class_count,
        )

    def of(self, names: Container[str]) -> Labels:
        """The labels of `names` alone."""
        ours = self.by_name
        pairs = zip(ours, ours.numbers.tolist(), strict=True)
        return replace(self, by_name=NumbersByName(pair for pair in pairs if pair[0] in names))


def _numbers(pairs: Iterable[tuple[str, int]], source: str) -> NumbersByName:
    try:
        return NumbersByName(pairs)
    except OverflowError as error:
        raise LabelError(f"{source}: a class is no whole number of 31 bits") from error


@dataclass(frozen=True)
class Synsets:
    """The classes of a data set, and their ILSVRC ids."""

    ids: list[str]  # sorted; the position is the class index
    words: dict[str, str]
    by_ilsvrc_id: dict[int, str]  # ids from 1; empty when the list does not say them

    def index(self) -> dict[str, int]:
        return {synset: position for position, synset in enumerate(self.ids)}

    def class_names(self) -> dict[int, str]:
        return {i: self.words[synset] for i, synset in enumerate(self.ids) if synset in self.words}


def load_labels(path: Path | str, synsets: Path | str | None = None) -> Labels:
    """Reads labels of any layout below. Raises LabelError naming the file and line.

    path:
        - a text of `NAME CLASS` lines (the guides' val_label.txt, MLPerf's val_map.txt), CLASS
          a 0-based index or a synset id;
        - a text of one number a line: the devkit's ground truth, ILSVRC ids of the validation
          images in order, mapped through meta.mat beside it or `synsets`;
        - a text of one synset id a line, of the validation images in order;
        - a folder of HiAI JSON files, one per image;
        - a devkit folder;
        - a folder of synset folders (ImageFolder).
    synsets: a meta.mat, or a text of `SYNSET [ILSVRC_ID] [WORDS]` lines.
    """
    path = Path(path)
    synset_list = None if synsets is None else load_synsets(synsets)
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        raise LabelError(f"{path}: no labels can be read: {error.strerror}") from error
    if not is_folder:
        return _from_text(path, synset_list)
    if any(path.glob("*.json")):
        return _from_hiai(path)
    for folder in (path, path / "data"):
        if (folder / GROUND_TRUTH).is_file():
            return _from_text(folder / GROUND_TRUTH, synset_list)
    return labels_from_folders(path, synsets)


def labels_from_folders(path: Path | str, synsets: Path | str | None = None) -> Labels:
    """ImageFolder: every file in `path`/CLASS/ is an image of CLASS.

    The class index is the position of CLASS among the sorted folders, or among `synsets`. A data
    set that lacks some classes needs `synsets`. Raises LabelError.
    """
    path = Path(path)
    folders = [entry for entry in _list_folder(path) if entry.is_dir()]
    synset_list = None if synsets is None else load_synsets(synsets)
    index = (
        synset_list.index() if synset_list else {folder.name: i for i, folder in enumerate(folders)}
    )

    def pairs() -> Iterator[tuple[str, int]]:
        for folder in folders:
            if folder.name not in index:
                raise LabelError(f"{folder}: not a class of {synsets}")
            for entry in _list_folder(folder):
                if entry.is_file() and not entry.name.startswith("."):
                    yield entry.name, index[folder.name]

    by_name = _by_name(pairs(), path)
    if not by_name:
        raise LabelError(f"{path}: holds no labels: neither JSON files nor class folders of images")
    return Labels(
        by_name,
        f"{len(folders)} class folders of {path}",
        synset_list.class_names()
        if synset_list
        else {index[folder.name]: name_of_synset(folder.name) for folder in folders},
        len(index),
    )


def labels_from_source(source: Source, synsets: Path | str | None = None) -> Labels:
    """The labels that a pickle, Parquet files or tars in WebDataset's layout hold.

    Raises LabelError for a source without labels; SourceError for a label that cannot be read.
    """
    labels = source.read_labels()
    if labels is None:
        raise LabelError(
            f"{source.where}: holds no labels (CIFAR's pickles, Parquet files, and tars with "
            "NAME.cls or NAME.json beside NAME.jpg do); give the labels: LABELS or "
            "--labels-from SRC"
        )
    return Labels(
        labels,
        source.where,
        load_synsets(synsets).class_names() if synsets else {},
    )


def _list_folder(path: Path) -> list[Path]:
    """The entries of a folder, sorted."""
    try:
        return sorted(path.iterdir())
    except OSError as error:
        raise LabelError(f"{path}: cannot be listed: {error.strerror}") from error


def load_synsets(path: Path | str) -> Synsets:
    """Reads the devkit's meta.mat, or a text of `SYNSET [ILSVRC_ID] [WORDS]` lines.

    In a text without ILSVRC ids, the line number is the id. A sorted list has no ids: it is in the
    order of class indices, in which ILSVRC ids never are. Raises LabelError.
    """
    path = Path(path)
    if path.is_dir():
        path = path / META
    if path.suffix == ".mat":
        return _synsets_of_devkit(path)
    numbered: dict[int, str] = {}
    words: dict[str, str] = {}
    for number, line in _lines(path):
        match = re.fullmatch(r"(n[0-9]{8})(?!\S)(?:\s+([0-9]+)(?!\S))?\s*(.*)", line)
        if not match:
            raise LabelError(
                f"{path}, line {number}: {quoted(line)} does not begin with a synset id"
            )
        synset, ilsvrc_id, text = match.groups()
        if synset in words:
            raise LabelError(f"{path}, line {number}: {synset} is listed twice")
        try:
            numbered[_whole_number(ilsvrc_id) if ilsvrc_id else number] = synset
        except ValueError as error:
            raise LabelError(f"{path}, line {number}: the ILSVRC id {error}") from error
        words[synset] = text
    if len(numbered) != len(words):
        raise LabelError(f"{path}: two synsets have the same ILSVRC id")
    in_order = [numbered[i] for i in sorted(numbered)]
    ids = sorted(words)
    by_id = {} if in_order == ids and len(ids) > 1 else numbered
    return Synsets(ids, {k: v for k, v in words.items() if v}, by_id)


def _synsets_of_devkit(path: Path) -> Synsets:
    by_id: dict[int, str] = {}
    words: dict[str, str] = {}
    for entry in read_struct_array(path, "synsets"):
        try:
            # leaves alone are classes; inner nodes of the WordNet tree have larger ids
            if int(entry["num_children"]) == 0:
                synset, text = entry["WNID"], entry["words"]
                if not isinstance(text, str) or not SYNSET.fullmatch(synset):
                    raise ValueError(f"{quoted(str(synset))} is no synset id")
                by_id[int(entry["ILSVRC2012_ID"])] = synset
                words[synset] = text
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise LabelError(f"{path}: is not the devkit's meta.mat ({error!r})") from error
    if not words or len(by_id) != len(words):
        raise LabelError(f"{path}: is not the devkit's meta.mat: its synsets and ids do not match")
    return Synsets(sorted(words), words, by_id)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of the lines that are not blank, at least one."""
    is_empty, number = True, 0
    try:
        for number, line in enumerate(text_lines(path), 1):
            if text := line.strip():
                is_empty = False
                yield number, text
    except OSError as error:
        raise LabelError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabelError(
            f"{path}: line {number + 1} is no UTF-8: not a text file, or save it as UTF-8"
        ) from error
    if is_empty:
        raise LabelError(f"{path}: is empty")


def _whole_number(text: str) -> int:
    """A whole number from 0 to MAX_CLASS. Raises ValueError with the reason in words."""
    digits = text.lstrip("0")
    # int() itself takes time that grows with the square of the digits
    if not (text.isascii() and text.isdecimal() and len(digits) <= len(str(MAX_CLASS))):
        raise ValueError(f"{quoted(text)} is no whole number from 0 to {MAX_CLASS}")
    return int(digits or "0")


def _from_text(path: Path, synsets: Synsets | None) -> Labels:
    rows = ((number, line.split()) for number, line in _lines(path))
    first = next(rows)
    if len(first[1]) == 1:
        return _from_ordered_list(path, Strings(_single_words(path, first, rows)), synsets)
    numbers = array("I")  # of the lines
    of_synset = array("I")  # lines whose label is in the list of synsets
    pairs = _pairs(path, chain([first], rows), synsets, numbers, of_synset)
    by_name = NumbersByName(pairs)
    place = by_name.repeated()
    if place >= 0:
        name = by_name.names[place]
        raise LabelError(f"{path}, line {numbers[place]}: {name} has a label already")
    # A class that is a place in the list of synsets is one of as many.
    count = len(synsets.ids) if synsets and of_synset else None
    return Labels(by_name, str(path), synsets.class_names() if synsets else {}, count)


_Row = tuple[int, list[str]]  # the number of a line, and its words


def _single_words(path: Path, first: _Row, rows: Iterable[_Row]) -> Iterator[str]:
    """The words of lines of one word."""
    yield first[1][0]
    for _, words in rows:
        if len(words) != 1:
            raise LabelError(f"{path}, line {first[0]}: has 1 words, not NAME CLASS")
        yield words[0]


def _pairs(
    path: Path,
    rows: Iterable[_Row],
    synsets: Synsets | None,
    numbers: array[int],
    of_synset: array[int],
) -> Iterator[tuple[str, int]]:
    """Name and class of each line, whose number it adds to `numbers`, and to `of_synset` where its
    label is in the list of synsets."""
    index = synsets.index() if synsets else {}
    for number, words in rows:
        if len(words) != 2:
            raise LabelError(f"{path}, line {number}: has {len(words)} words, not NAME CLASS")
        name, label = stem(words[0]), words[1]
        if label in index:
            value = index[label]
            if not of_synset:  # the first one is enough
                of_synset.append(number)
        elif SYNSET.fullmatch(label):
            raise LabelError(
                f"{path}, line {number}: {label} is a synset id; give --synsets, the list of all"
            )
        else:
            try:
                value = _whole_number(label)
            except ValueError as error:
                raise LabelError(f"{path}, line {number}: the class {error}") from error
        if not name:
            raise LabelError(f"{path}, line {number}: {quoted(words[0])} is no image's name")
        numbers.append(number)
        yield name, value


def _from_ordered_list(path: Path, labels: Sequence[str], synsets: Synsets | None) -> Labels:
    """One label a line; line i is of validation image i."""
    if all(SYNSET.fullmatch(label) for label in labels):
        ids = synsets.ids if synsets else sorted(set(labels))
        index = {synset: i for i, synset in enumerate(ids)}
        missing = next((label for label in labels if label not in index), None)
        if missing:
            raise LabelError(f"{path}: {missing} is not in the list of synsets")
        classes = (index[label] for label in labels)
        class_names = {i: name_of_synset(synset) for i, synset in enumerate(ids)}
        if synsets:
            class_names = synsets.class_names()
    elif all(label.isdecimal() for label in labels):
        if synsets is None:
            if not (path.parent / META).is_file():
                raise LabelError(
                    f"{path}: holds ILSVRC ids, which are not class indices; put the devkit's "
                    f"{META} beside it, or give it (or a synset list) with --synsets"
                )
            synsets = _synsets_of_devkit(path.parent / META)
        if not synsets.by_ilsvrc_id:
            raise LabelError(
                f"{path}: holds ILSVRC ids, but the synset list is sorted and does not say them; "
                f"give the devkit's {META}, or lines of SYNSET ILSVRC_ID"
            )
        index = synsets.index()
        by_id = {number: index[synset] for number, synset in synsets.by_ilsvrc_id.items()}
        for label in labels:
            try:
                number = _whole_number(label)
            except ValueError as error:
                raise LabelError(f"{path}: the ILSVRC id {error}") from error
            if number not in by_id:
                raise LabelError(f"{path}: ILSVRC id {number} is not in the list of synsets")
        classes = (by_id[int(label)] for label in labels)
        ids, class_names = synsets.ids, synsets.class_names()
    else:
        raise LabelError(f"{path}: is neither NAME CLASS lines nor a list of ids of one kind")
    pairs = ((VALIDATION_NAME.format(i), value) for i, value in enumerate(classes, 1))
    return Labels(NumbersByName(pairs), str(path), class_names, len(ids))


def _from_hiai(path: Path) -> Labels:
    pairs = []
    class_names: dict[int, str] = {}
    for file in sorted(path.glob("*.json")):
        if file.name == HIAI_INDEX:
            continue
        try:
            annotation = parse_json(read_file(file))["image"]["annotations"][0]
            category = annotation["category_id"]
        except OSError as error:
            raise LabelError(f"{file}: cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise LabelError(f"{file}: has no image.annotations[0].category_id") from error
        try:
            label = _category_index(category)
        except ValueError as error:
            raise LabelError(f"{file}: category_id {error}") from error
        pairs.append((file.name, label))
        name = annotation.get("category_name")
        if isinstance(name, str) and name:
            class_names[label] = name
    if not pairs:
        raise LabelError(f"{path}: holds no JSON file about an image")
    return Labels(_by_name(pairs, path), f"{len(pairs)} JSON files of {path}", class_names)


def _category_index(value: Any) -> int:
    """The class of a JSON value: a whole number, also as text or with a point (3.0)."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_CLASS:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"{quoted(str(value))} is no whole number from 0 to {MAX_CLASS}")
    if isinstance(value, int):
        # hex, because str() refuses integers of more than 4,300 digits
        value = str(value) if abs(value) <= MAX_CLASS else hex(value)
    return _whole_number(value.strip())


def _by_name(pairs: Iterable[tuple[str, int]], path: Path) -> NumbersByName:
    by_name = NumbersByName((stem(file), label) for file, label in pairs)
    place = by_name.repeated()
    if place >= 0:
        raise LabelError(
            f"{path}: two files are named {by_name.names[place]} (up to the first dot)"
        )
    return by_name
