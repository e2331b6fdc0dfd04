"""The answers of an evaluation, each at the place of its image in the list of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.sequences import Selection
from zoofast.preprocess.sources import Item, Names
from zoofast.scoring.topk import TopK

Places = NDArray[np.int32]  # numbers of images in a list of images
MAX_INT16 = 32_767
AT_ONCE = 65_536  # answers whose classes are copied


class Answers:
    """The best classes of the images that are done, each at the place of its image in `items`."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self.names_of_items = Names(items)
        self._order = np.empty(len(items), np.int32)  # the places in the order of the answers
        self.count = 0
        self._best: TopK | None = None

    def add(self, places: Places, best: TopK) -> None:
        """Takes the answers of at least one image. places (n,): of the images in the items."""
        # Allocated once, for all images: many small arrays that outlive large ones fragment the
        # heap.
        if self._best is None:
            self._best = TopK.empty(len(self._items), best.classes.shape[1], np.int16)
        if self._best.classes.dtype == np.int16 and best.classes.max() > MAX_INT16:
            self._best = replace(self._best, classes=self._best.classes.astype(np.int32))
        # The images of a batch are in the source's order, mostly without a gap.
        first, end = int(places[0]), int(places[-1]) + 1
        is_run = end - first == len(places) and bool((np.diff(places) == 1).all())
        self._best.put(slice(first, end) if is_run else places, best)
        self._order[self.count : self.count + len(places)] = places
        self.count += len(places)

    @property
    def order(self) -> Places:
        """(n,): the places of the images in the order of their answers."""
        return self._order[: self.count]

    def reorder(self, places: Places) -> None:
        """Takes the answers in another order. places (n,): as of `order`."""
        self._order[: self.count] = places

    def source_order(self) -> NDArray[np.intp]:
        """(n,): numbers of the answers, sorted by the place of the image."""
        return np.argsort(self.order)

    def names(self) -> Names:
        """The names of the images in the order of their answers."""
        return Names(Selection(self._items, self.order))

    def classes(self, first: int = 0) -> Iterator[tuple[Places, NDArray[np.signedinteger[Any]]]]:
        """The answers from number `first` on, in their order, some at a time: the places of their
        images (n,), and their best classes (n, k)."""
        if self._best is not None:
            for begin in range(first, self.count, AT_ONCE):
                places = self.order[begin : begin + AT_ONCE]
                yield places, self._best.classes[places]

    def in_source_order(self) -> tuple[Sequence[str], TopK] | None:
        """All names and answers; None when there is no answer."""
        if self._best is None:
            return None
        if self.count == len(self._items):
            return self.names_of_items, self._best
        places = np.sort(self.order)
        return Names(Selection(self._items, places)), self._best[places]
