"""Shards: the i-th of n takes every n-th image of the source, from the i-th, i from 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoofast.base.text import counted, listed
from zoofast.errors import OutputError

NAMES_SHOWN = 5


def parse_shard(text: str) -> tuple[int, int]:
    """I/N as a record has it. Raises ValueError."""
    i, n = map(int, text.split("/"))
    if not 1 <= i <= n:
        raise ValueError(f"there is no shard {text}")
    return i, n


def shard_places(shard: tuple[int, int], total: int) -> NDArray[np.int64]:
    """The places in the source of the `total` images of a shard."""
    i, n = shard
    return np.arange(total, dtype=np.int64) * n + i - 1


def shard_total(shard: tuple[int, int], images: int, limit: int | None) -> int:
    """How many images a shard has of a source of `images`, at most `limit`."""
    i, n = shard
    total = len(range(i - 1, images, n))
    return total if limit is None else min(total, limit)


def check_shards(shards: Sequence[tuple[str, tuple[int, int]]]) -> None:
    """Raises OutputError unless `shards`, (where it lies, shard), are all of one set, each once."""
    first, (_, n) = shards[0]
    holders: dict[int, str] = {}  # of each shard: where it lies
    for where, (i, of) in shards:
        if of != n:
            raise OutputError(f"{where} is a shard of {of}, but {first} is one of {n}")
        if i in holders:
            raise OutputError(f"{holders[i]} and {where} are both shard {i}/{n}; give one of them")
        holders[i] = where
    missing = [f"{i}/{n}" for i in range(1, n + 1) if i not in holders]
    if missing:
        raise OutputError(
            f"{counted(len(missing), 'shard')} of {n} missing: {listed(missing, NAMES_SHOWN)}"
        )


def check_names(shards: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Raises OutputError where an image is in two of `shards`, (where it lies, its images)."""
    first: dict[str, str] = {}
    twice: list[str] = []
    for where, names in shards:
        twice += [f"{name} (in {first[name]} and {where})" for name in names if name in first]
        first.update(dict.fromkeys(names, where))
    if twice:
        raise OutputError(
            f"{counted(len(twice), 'image')} in two shards: {listed(twice, NAMES_SHOWN)}"
        )
