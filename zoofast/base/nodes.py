"""What each node of a cluster did in a run, for reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class NodeReport:
    """One node. seconds: that it worked. waited: seconds between two of its tasks, in all. misread:
    the paths of images that it could not read and another node could, of each such task one. lost:
    why it was given up, "" if it was not."""

    name: str
    threads: int = 0
    devices: int = 0
    images: int = 0  # tried
    tasks: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    nbytes_in: int = 0
    misread: list[str] = field(default_factory=list)
    lost: str = ""

    @property
    def images_per_second(self) -> float:
        """Of the time that the node worked."""
        return self.images / self.seconds if self.seconds > 0 else 0.0


def lost_lines(reasons: Iterable[str], what: str = "nodes") -> list[str]:
    """A line for each node, or each of other things, that was given up. reasons: why, "" for one
    that was not."""
    return [f"{reason}; the other {what} computed its batches" for reason in reasons if reason]
