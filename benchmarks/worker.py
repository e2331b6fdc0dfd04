"""One peer in its own process: `worker.py PEER IMAGES REFERENCE`. Started by harness.py.

IMAGES is a text file of paths, REFERENCE a folder with what Pillow makes of them (see
harness.write_reference). Every line on standard input is a command, answered by a line of JSON:

    hello    what the peer is
    verify   how many of its answers equal the reference, and the largest difference
    time     seconds, by the clock and of CPU, for one pass over all images
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


class Worker:
    """A peer and the images it works on, their bytes held in memory."""

    def __init__(self, name: str, paths: list[Path], reference: Path) -> None:
        self.peer = importlib.import_module(f"peers.{name}")
        self.paths, self.reference = paths, reference
        self.images = [path.read_bytes() for path in paths]
        self.kind = "decode" if hasattr(self.peer, "decode") else "prepare"

    def answers(self) -> Iterator[NDArray[Any]]:
        """What the peer makes of each image; valid until the next one."""
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
            made = next(answers)
            if made.shape != expected.shape or made.dtype != expected.dtype:
                raise ValueError(
                    f"made {made.shape} {made.dtype}, not {expected.shape} {expected.dtype}"
                )
            if made.tobytes() == expected.tobytes():
                equal += 1
            else:
                difference = np.abs(made.astype(np.float64) - expected.astype(np.float64))
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
    # What a peer prints goes to standard error; only answers go to standard output.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        try:
            if worker is None:
                paths = [Path(path) for path in Path(images).read_text("utf-8").splitlines()]
                worker = Worker(name, paths, Path(reference))
            answer = getattr(worker, line.strip())()
        except Exception as error:  # handed to the runner, which reports it
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
