"""Which images are still to be done, as ranges that nodes take."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

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


def parts_of(
    places: Places, total: int, shares: Mapping[str, int], batch: int
) -> dict[str, Places]:
    """Divides all `total` images among nodes, in order, in proportion to `shares`. Returns those of
    `places` (rising) that are in each node's part.

    So a node has the same images whatever is left to be done, apart from fewer than `batch` at each
    end: a part has whole batches of `places`.
    """
    ends = np.cumsum(list(shares.values()), dtype=np.int64) * total // sum(shares.values())
    cuts = np.searchsorted(places, ends[:-1])
    return dict(zip(shares, np.split(places, cuts - cuts % batch), strict=True))


class Ranges:
    """The places that are left to be done, from which ranges are cut as nodes ask for them.

    A node takes those of its own part first, then those of the largest part that is left.
    """

    def __init__(self, parts: Mapping[str, Places]) -> None:
        """parts: by the node's id; or one part for all, of any name."""
        self._parts = dict(parts)
        self._again: deque[Range] = deque()

    @property
    def left(self) -> int:
        """How many images no node has taken."""
        again = sum(len(each.places) for each in self._again)
        return sum(map(len, self._parts.values())) + again

    def take(self, images: int, node: str = "", nodes: Collection[str] = ()) -> Range | None:
        """The next range, of at most `images`; None when there is none for `node`.

        nodes: all nodes that can take ranges. A range that has failed on `node` is left to those
        on which it has not failed yet, if there are any.
        """
        for each in self._again:
            if node not in each.failed_on or each.failed_on.issuperset(nodes):
                self._again.remove(each)
                return each
        parts = self._parts
        largest = max(parts, key=lambda each: len(parts[each]), default="")
        owner = node if len(parts.get(node, ())) else largest
        if not len(parts.get(owner, ())):
            return None
        chosen, parts[owner] = parts[owner][:images], parts[owner][images:]
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
