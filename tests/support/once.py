"""What is expensive to make, made once a run, also where several processes run its tests."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path


class Once:
    """Folders by name below `root`, which all processes of a run share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder `name`; `make(folder)` fills it, unless another test of this run did.

        Who asks while it is being made waits. Where `make` raises, who asks next tries again.
        """
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        made = folder.with_name(name + ".made")
        with folder.with_name(name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                make(folder)
                made.touch()
        return folder
