"""Names and numbers that are found as a dictionary finds them."""

from __future__ import annotations

import numpy as np
import pytest

from zoofast.base import by_name
from zoofast.base.by_name import NameIndex, NumbersByName

NAMES = [f"ILSVRC2012_val_{i:08d}" for i in range(300)] + ["", "é", "\udc80"]
NUMBERS = [i * i % 1009 - 3 for i in range(len(NAMES))]
PAIRS = dict(zip(NAMES, NUMBERS, strict=True))


@pytest.fixture(params=["its own hash", "the same hash for many names"])
def hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "its own hash":
        monkeypatch.setattr(by_name, "hash", lambda name: len(name) - 9, raising=False)


@pytest.mark.usefixtures("hashes")
def test_numbers_are_those_of_a_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_name, "_AT_ONCE", 64)
    numbers = NumbersByName(PAIRS.items())
    assert numbers == PAIRS and list(numbers) == NAMES and len(numbers) == len(NAMES)
    assert "ILSVRC2012" not in numbers and "zz" not in numbers
    shuffled = np.random.default_rng(1).permutation([*NAMES, "ILSVRC2012", "zz", "ê"]).tolist()
    after_a_while = [*NAMES[:200], "zz", *NAMES[200:]]
    for asked in (NAMES, NAMES[:7], NAMES[7:], shuffled, after_a_while, [*NAMES, "zz"], []):
        places = numbers.places(asked)
        assert places.tolist() == [NAMES.index(name) if name in PAIRS else -1 for name in asked]
    none = NumbersByName()
    assert none.places(["a"]).tolist() == [-1] and "a" not in none and none == {}


@pytest.mark.usefixtures("hashes")
def test_names_are_shared_only_if_they_are_the_same() -> None:
    numbers = NumbersByName(PAIRS.items())
    for others in (NAMES[1:], [*NAMES[1:], "other"], [*NAMES[1:], NAMES[1]]):
        numbers.share(others)
        assert numbers.names is not others and list(numbers) == NAMES
    backwards = NAMES[::-1]
    numbers.share(backwards)
    assert numbers.names is backwards and numbers.numbers.tolist() == NUMBERS[::-1]
    assert numbers == PAIRS and numbers.places(backwards).tolist() == list(range(len(NAMES)))
    assert numbers.places(NAMES[:2]).tolist() == [len(NAMES) - 1, len(NAMES) - 2]


@pytest.mark.usefixtures("hashes")
def test_a_repeated_name() -> None:
    assert NameIndex(NAMES).repeated() == NumbersByName().repeated() == -1
    names = ["a", "b", "c", "b", "a", "b"]
    numbers = NumbersByName(zip(names, range(6), strict=True))
    assert numbers.repeated() == 3 and numbers["a"] == 0 and numbers["b"] == 1


def test_numbers_of_32_bits() -> None:
    limits = {"a": 2**31 - 1, "b": -(2**31)}
    assert NumbersByName(limits.items()) == limits
    with pytest.raises(OverflowError):
        NumbersByName([("a", 2**31)])
