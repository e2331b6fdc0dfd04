"""How to evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoofast.base.checks import ON_ERROR, check_least, check_one_of
from zoofast.base.files import MAX_FILE_BYTES
from zoofast.inference.spec import DEVICE_TIMEOUT, ModelSpec
from zoofast.preprocess.cache import PixelCache
from zoofast.scoring.score import ScoreOptions


@dataclass(frozen=True)
class EvalOptions:
    """How to evaluate.

    specs: the model, once for each device. threads, depth (of the ring, in batches): None for
    defaults. output_index: which of the model's outputs are the logits, from 0. scoring: see
    ScoreOptions. on_error: "skip", or "stop" at the first image that fails. max_file_bytes: of an
    image file; a larger one fails. timeout: seconds that a device may take for a batch; one that
    takes longer is given up. journal: the file that a stopped run is resumed from. resume: continue
    from the answers in the journal. overwrite: forget what the journal holds.
    logits: a .npy file for all scores. trace: a file to write, see zoofast.timing.trace. details:
    record the loader's threads too, for a report. cache: of the images' pixels.

    Raises ValueError for an option out of range.
    """

    specs: Sequence[ModelSpec]
    threads: int | None = None
    depth: int | None = None
    output_index: int = 0
    scoring: ScoreOptions = field(default_factory=ScoreOptions)
    on_error: str = "skip"
    max_file_bytes: int = MAX_FILE_BYTES
    timeout: float = DEVICE_TIMEOUT
    journal: Path | None = None
    logits: Path | None = None
    resume: bool = False
    overwrite: bool = False
    trace: Path | None = None
    details: bool = False
    cache: PixelCache | None = None

    def __post_init__(self) -> None:
        if not self.specs:
            raise ValueError("specs must name the model once for each device, and is empty")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, not {self.timeout}")
        check_one_of(ON_ERROR, on_error=self.on_error)
        check_least(0, output_index=self.output_index)
        check_least(1, threads=self.threads, depth=self.depth, max_file_bytes=self.max_file_bytes)
