"""Sequences of little memory: of millions of texts, and of chosen elements of another sequence."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

S = TypeVar("S")
T = TypeVar("T")
_BLOCK = 16  # texts whose begin is recorded together
_END = b"\xff"  # of a text; UTF-8 does not have this byte


class Strings(Sequence[str]):
    """Texts in 1.5 bytes each besides their UTF-8. Surrogates, as of os.fsdecode, are kept."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._data, self._begins, self._count = bytearray(), array("Q"), 0
        self._last: tuple[int, list[bytes]] = (-1, [])  # the block that was read last
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        if self._count % _BLOCK == 0:
            self._begins.append(len(self._data))
        elif self._last[0] == len(self._begins) - 1:
            self._last = (-1, [])  # this block gets longer
        self._data += text.encode("utf-8", "surrogatepass")
        self._data += _END
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return is_same(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[str]:
        for block in range(len(self._begins)):
            for text in self._block(block):
                yield text.decode("utf-8", "surrogatepass")

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return Selection(self, range(self._count)[index])
        index = range(self._count)[index]
        number, texts = self._last
        if number != index // _BLOCK:
            number = index // _BLOCK
            texts = self._block(number)
            self._last = number, texts
        return texts[index % _BLOCK].decode("utf-8", "surrogatepass")

    def _block(self, number: int) -> list[bytes]:
        end = self._begins[number + 1] if number + 1 < len(self._begins) else len(self._data)
        return bytes(self._data[self._begins[number] : end - 1]).split(_END)


class Selection(Sequence[T]):
    """The elements of `items` at `places`, in the order of `places`. It holds no copy of them."""

    def __init__(self, items: Sequence[T], places: range | NDArray[Any]) -> None:
        self._items, self.places = items, places

    @classmethod
    def where(cls, items: Sequence[T], are_chosen: NDArray[np.bool_]) -> Selection[T]:
        """The elements of `items` for which `are_chosen`, (n,), has True: 4 bytes for each."""
        return cls(items, np.flatnonzero(are_chosen).astype(np.int32))

    def __len__(self) -> int:
        return len(self.places)

    def __eq__(self, other: object) -> bool:
        return is_same(self, other)

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Selection[T]: ...
    def __getitem__(self, index: int | slice) -> T | Selection[T]:
        if isinstance(index, slice):
            return Selection(self._items, self.places[index])
        return self._items[int(self.places[index])]

    def __iter__(self) -> Iterator[T]:
        return map(self._items.__getitem__, map(int, self.places))


class Mapped(Sequence[T]):
    """What `function` gives for each of `items`, when it is asked for. It holds no copy."""

    def __init__(self, items: Sequence[S], function: Callable[[S], T]) -> None:
        self._items, self._function = items, function

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Mapped[T]: ...
    def __getitem__(self, index: int | slice) -> T | Mapped[T]:
        if isinstance(index, slice):
            return Mapped(self._items[index], self._function)
        return self._function(self._items[index])

    def __iter__(self) -> Iterator[T]:
        return map(self._function, self._items)


def is_same(one: Sequence[Any], other: object) -> bool:
    """Whether `other` is a sequence of equal elements."""
    return (
        isinstance(other, Sequence)
        and len(one) == len(other)
        and all(a == b for a, b in zip(one, other, strict=True))
    )
