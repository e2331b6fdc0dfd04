"""One peer in its own process: `worker.py PEER IMAGES REFERENCE`. Started by harness.py.

IMAGES is a text file of paths, REFERENCE a folder with the results of Pillow (see
harness.write_reference). The worker answers each line on standard input by a line of JSON:

    hello    the peer's name, kind, claim and versions
    verify   how many of its results equal the reference, and the largest difference
    time     wall and CPU seconds of one pass over all images
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What a peer does, by the name of its function.
KINDS = ("decode", "prepare", "prepare_uint8")


class Worker:
    """A peer and its images, whose bytes are in memory."""

    def __init__(self, name: str, paths: list[Path], reference: Path) -> None:
        self.peer = importlib.import_module(f"peers.{name}")
        self.paths, self.reference = paths, reference
        self.images = [path.read_bytes() for path in paths]
        files = hasattr(self.peer, "prepare_files")
        self.kind = "prepare" if files else next(k for k in KINDS if hasattr(self.peer, k))

    def answers(self) -> Iterator[NDArray[Any]]:
        """The peer's result for each image, valid until the next result."""
        if hasattr(self.peer, "prepare_files"):
            return iter(self.peer.prepare_files(self.paths))
        return map(getattr(self.peer, self.kind), self.images)

    def hello(self) -> dict[str, Any]:
        versions = {package: version(package) for package in self.peer.PACKAGES}
        if hasattr(self.peer, "versions"):
            versions |= self.peer.versions()
        return {
            "label": self.peer.LABEL,
            "kind": self.kind,
            "exact": self.peer.EXACT,
            "versions": versions,
        }

    def verify(self) -> dict[str, Any]:
        equal, largest = 0, 0.0
        answers = self.answers()
        for i, _ in enumerate(self.paths):
            expected = np.load(self.reference / f"{i}.{self.kind}.npy")
            result = next(answers)
            if result.shape != expected.shape or result.dtype != expected.dtype:
                raise ValueError(
                    f"{result.shape} {result.dtype}, not {expected.shape} {expected.dtype}"
                )
            if result.tobytes() == expected.tobytes():
                equal += 1
            else:
                difference = np.abs(result.astype(np.float64) - expected.astype(np.float64))
                largest = max(largest, float(difference.max()))
        return {"images": len(self.paths), "equal": equal, "largest_difference": largest}

    def time(self) -> dict[str, Any]:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        done = sum(1 for _ in self.answers())
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
        if done != len(self.paths):
            raise ValueError(f"{done} answers for {len(self.paths)} images")
        return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def main() -> int:
    name, images, reference = sys.argv[1:]
    # Only answers go to standard output; what a peer prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        try:
            if worker is None:
                paths = [Path(path) for path in Path(images).read_text("utf-8").splitlines()]
                worker = Worker(name, paths, Path(reference))
            answer = getattr(worker, line.strip())()
        except Exception as error:  # the harness reports it
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
