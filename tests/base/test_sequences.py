"""Sequences that take little memory, against lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoofast.base.sequences import Mapped, Selection, Strings

TEXTS = st.lists(st.text(st.characters() | st.sampled_from("\0\n\udcff\ud800ÿ"), max_size=5))


@given(TEXTS, st.slices(40), st.slices(40))
def test_strings_are_those_of_a_list(texts: list[str], first: slice, second: slice) -> None:
    made = Strings()
    for i, text in enumerate(texts):  # reads between the appends
        made.append(text)
        assert made[i] == made[-1] == text and made[0] == texts[0] and len(made) == i + 1
    assert list(made) == texts and [made[i] for i in range(len(texts))] == texts
    assert made[first] == texts[first] and made[first][second] == texts[first][second]
    for outside in (len(texts), -len(texts) - 1):
        with pytest.raises(IndexError):
            made[outside]


def test_a_selection() -> None:
    is_vowel = np.array([letter in "aeiou" for letter in "abcdef"])
    assert Selection.where("abcdef", is_vowel) == ["a", "e"]
    assert Selection.where("abcdef", is_vowel & False) == []
    chosen = Selection("abcdef", np.array([4, 0, 5]))
    assert chosen == ["e", "a", "f"] and chosen[1:] == ["a", "f"] and chosen[-1] == "f"
    assert chosen != ["e", "a"] and chosen != ["e", "a", "b"] and list(chosen[:0]) == []
    with pytest.raises(IndexError):
        chosen[3]


def test_a_selection_of_many() -> None:
    items = range(70_000)
    assert list(Selection.where(items, np.ones(len(items), bool))) == list(items)


def test_mapped_elements() -> None:
    mapped = Mapped([1, 2, 3], str)
    assert mapped[0] == "1" and list(mapped) == ["1", "2", "3"] and list(mapped[1:]) == ["2", "3"]
    assert len(mapped) == 3 and Strings("a") != 3 and Selection("a", range(1)) != 3
