"""<folder>_run.json beside a folder of results: the run that made them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoofast.base.files import read_file, write_atomic
from zoofast.base.parsing import parse_json
from zoofast.errors import ResultError
from zoofast.inference.outputs import FORMATS, sibling_path

DTYPE = re.compile(r"bool|float(16|32|64)|u?int(8|16|32|64)")  # of an output


@dataclass(frozen=True)
class RecordedOutput:
    """One output of the model, as one result file has it. dtype: "float32" and so on; shape: of the
    file's content, the images first."""

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if not all(type(size) is int and size >= 0 for size in self.shape):
            raise ValueError(f"{self.shape} is no shape")
        # NumPy parses other texts as Python code, and fails in many ways
        if not (isinstance(self.dtype, str) and DTYPE.fullmatch(self.dtype)):
            raise ValueError("an output has no known dtype")

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class RunRecord:
    """A run of `zoofast infer`.

    model: the digest of the model. input: where the images' files were. recipe: what recipe_of says
    of the input; None where no manifest tells it. outfmt: BIN, NPY or TXT.
    images_per_file: images whose results one file holds. outputs: in the model's order; empty
    before the model is loaded. samples: the names of the results, without `_0.bin`; empty when they
    are not recorded. images: of each sample that is not one image of this name: the name of the
    image in each row, "" for none.
    """

    model: str
    input: str | None
    outfmt: str
    images_per_file: int = 1
    outputs: tuple[RecordedOutput, ...] = ()
    samples: tuple[str, ...] = ()
    images: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    recipe: str | None = None

    def write(self, folder: Path) -> None:
        """Writes the record of `folder`. Raises OutputError."""
        write_atomic(record_path(folder), json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: Path) -> RunRecord | None:
        """The record of `folder`; None when there is none. Raises ResultError for a damaged one."""
        path = record_path(folder)
        try:
            return cls._of_json(parse_json(read_file(path)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResultError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ResultError(
                f"{path}: is a damaged record of {folder}; delete it, or run infer anew"
            ) from error

    @classmethod
    def _of_json(cls, content: Any) -> RunRecord:
        outputs = tuple(
            RecordedOutput(output["dtype"], output["shape"])
            for output in content.get("outputs", ())
        )
        record = cls(
            content["model"],
            content["input"],
            content["outfmt"],
            content.get("images_per_file", 1),
            outputs,
            tuple(content.get("samples", ())),
            {name: tuple(images) for name, images in content.get("images", {}).items()},
            content.get("recipe"),
        )
        if not isinstance(content.get("samples", []), list):
            raise ValueError("samples are no list")
        named = [image for images in record.images.values() for image in images if image != ""]
        texts = (record.model, record.input or "", record.recipe or "", *record.samples, *named)
        if record.outfmt not in FORMATS or not all(isinstance(text, str) for text in texts):
            raise ValueError("a key of the record has another type")
        if type(record.images_per_file) is not int or record.images_per_file < 1:
            raise ValueError("images_per_file is no number from 1")
        if any(len(images) != record.images_per_file for images in record.images.values()):
            raise ValueError("a sample has another number of images")
        if len(set(named)) != len(named):
            raise ValueError("an image has two results")
        return record


def record_path(folder: Path) -> Path:
    """<folder>_run.json. A relative folder such as `.` gets its full name first."""
    return sibling_path(Path(os.path.abspath(folder)), "_run.json")
