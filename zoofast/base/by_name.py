"""Finds names, and the number of each of them, in a fraction of a dictionary's memory."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from zoofast.base.sequences import Strings

_AT_ONCE = 65_536  # names that are looked up together
_PLACE = 0xFFFFFFFF  # the bits of a key that are a place
_HASH = _PLACE << 32  # those that are of a hash


class NameIndex:
    """Finds names in a sequence of them. It takes 8 bytes a name besides the names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        # (n,): 32 bits of a name's hash above 32 bits of its place, sorted. So equal names stay in
        # their order, and the first of them is found.
        self._keys = np.empty(len(names), np.uint64)
        left = iter(names)
        for begin in range(0, len(names), _AT_ONCE):
            hashes = _hashes(list(islice(left, _AT_ONCE)))
            places = np.arange(begin, begin + len(hashes), dtype=np.uint64)
            self._keys[begin : begin + len(hashes)] = hashes | places
        self._keys.sort()

    def __len__(self) -> int:
        return len(self.names)

    def place(self, name: str) -> int:
        """The place of `name`, from 0; -1 if it is not there."""
        of_name = int(_hashes([name])[0])
        at = int(np.searchsorted(self._keys, np.uint64(of_name)))
        while at < len(self._keys) and int(self._keys[at]) & _HASH == of_name:
            place = int(self._keys[at]) & _PLACE
            if self.names[place] == name:
                return place
            at += 1  # another name has the same hash
        return -1

    def places(self, names: Collection[str]) -> NDArray[np.int32]:
        """(n,): the place of each name, from 0; -1 for one that is not there."""
        found, left = np.full(len(names), -1, np.int32), iter(names)
        for begin in range(0, len(names) if len(self) else 0, _AT_ONCE):
            part = list(islice(left, _AT_ONCE))
            at = np.searchsorted(self._keys, _hashes(part))
            at[at == len(self._keys)] = 0
            first = (self._keys[at] & np.uint64(_PLACE)).tolist()
            found[begin : begin + len(part)] = [
                place if self.names[place] == name else self.place(name)
                for place, name in zip(first, part, strict=True)
            ]
        return found

    def repeated(self) -> int:
        """The place of the first name that stands at an earlier place, too; -1 for none."""
        hashes = self._keys >> np.uint64(32)
        same = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
        places = (self._keys[same] & np.uint64(_PLACE)).tolist()
        return min((i for i in places if self.place(self.names[i]) < i), default=-1)


def _hashes(names: Sequence[str]) -> NDArray[np.uint64]:
    """(n,): the lower 32 bits of each name's hash, as the upper 32 bits of a key."""
    hashes = np.fromiter(map(hash, names), np.int64, len(names))
    return hashes.view(np.uint64) << np.uint64(32)


class NumbersByName(Mapping[str, int]):
    """A whole number of less than 32 bits for each name.

    It takes 5.5 bytes a name besides the names' UTF-8, and 8 bytes more from when names are first
    looked up in another order than its own.

    names: in the order of `numbers`, (n,) int32.
    """

    def __init__(self, pairs: Iterable[tuple[str, int]] = ()) -> None:
        """Where a name is repeated, the first number counts. Raises OverflowError."""
        names, numbers = Strings(), array("i")
        for name, number in pairs:
            names.append(name)
            numbers.append(number)
        self.names: Sequence[str] = names
        self.numbers = np.array(numbers, np.int32)
        self._index: NameIndex | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> int:
        place = self._indexed().place(name)
        if place < 0:
            raise KeyError(name)
        return int(self.numbers[place])

    def places(self, names: Sequence[str]) -> NDArray[np.int32]:
        """(n,): the place of each name in `names` and `numbers`; -1 for a name without a number."""
        found = np.arange(len(names), dtype=np.int32)
        if names is self.names:
            return found
        same = 0
        for ours, name in zip(self.names, names, strict=False):
            if ours != name:
                break
            same += 1
        if same < len(names):
            found[same:] = self._indexed().places(names[same:])
        return found

    def share(self, names: Sequence[str]) -> None:
        """Holds `names`, which do not change, in place of a copy of its own, and has their order
        from now on; does nothing if these are not the same names."""
        if len(names) != len(self) or names is self.names:
            return
        places = self.places(names)
        is_there = np.zeros(len(names), bool)
        is_there[places[places >= 0]] = True
        if is_there.all():
            self.names, self.numbers, self._index = names, self.numbers[places], None

    def repeated(self) -> int:
        """The place of the first name that is repeated; -1 if none is."""
        return NameIndex(self.names).repeated()

    def _indexed(self) -> NameIndex:
        if self._index is None:
            self._index = NameIndex(self.names)
        return self._index
