"""Which images are still to be done, as ranges that nodes take."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from zoofast.evaluation.answers import Places

FIRST_IMAGES = 256  # of a node's first task, when its speed is not known
MAX_IMAGES = 8192  # of a task: its result must stay small
TASK_SECONDS = 1.0  # that a task should take
MAX_ATTEMPTS = 3


@dataclass(eq=False)
class Range:
    """Images that one task computes. places (n,): in the list of all chosen images.

    failed_on: the nodes on which the range, or an image of it, has failed. unreadable,
    unreadable_on: the path of an image that a node could not read, and that node.
    """

    places: Places
    attempts: int = 0
    failed_on: set[str] = field(default_factory=set)
    unreadable: str = ""
    unreadable_on: str = ""


class Ranges:
    """The places that are left to be done, from which ranges are cut as nodes ask for them."""

    def __init__(self, places: Places) -> None:
        self._places, self._next = places, 0
        self._again: deque[Range] = deque()

    @property
    def left(self) -> int:
        """How many images no node has taken."""
        again = sum(len(each.places) for each in self._again)
        return len(self._places) - self._next + again

    def take(self, images: int, node: str = "", nodes: Collection[str] = ()) -> Range | None:
        """The next range, of at most `images`; None when there is none for `node`.

        nodes: all nodes that can take ranges. A range that has failed on `node` is left to those
        on which it has not failed yet, if there are any.
        """
        for each in self._again:
            if node not in each.failed_on or each.failed_on.issuperset(nodes):
                self._again.remove(each)
                return each
        if self._next >= len(self._places):
            return None
        chosen = self._places[self._next : self._next + images]
        self._next += len(chosen)
        return Range(chosen)

    def put_back(self, taken: Range) -> None:
        """Nodes take it before what no node has tried."""
        self._again.append(taken)


def task_images(rate: float, left: int, nodes: int, batch: int, most: int = MAX_IMAGES) -> int:
    """How many images the next task of a node should have; a multiple of `batch`.

    rate: images a second of the node, 0 if unknown. left: images that no node has taken. most: that
    a task may have, apart from the last batch. Towards the end tasks get smaller, so that all nodes
    end at about the same time.
    """
    wanted = FIRST_IMAGES if rate <= 0 else int(rate * TASK_SECONDS)
    fair = -(-left // (2 * max(nodes, 1)))
    images = max(min(wanted, fair, most, MAX_IMAGES), 1)
    return -(-images // batch) * batch
