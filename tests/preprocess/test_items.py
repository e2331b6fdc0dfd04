"""The list of a source's images, against a list of Item."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from zoofast.preprocess.sources.items import Item, Items

PARTS = st.text(st.sampled_from("ab./\0\n\udcff"), max_size=6)
NUMBERS = st.integers(0, 1 << 62)
MEMBERS = st.tuples(PARTS, NUMBERS, st.integers(-1, 1 << 62), st.integers(0, 3))
ITEMS = st.lists(
    PARTS.map(lambda path: Item.at(path))
    | MEMBERS.map(lambda member: Item.at(*member))
    | st.tuples(PARTS, PARTS).map(lambda pair: Item(*pair))
)


@given(ITEMS)
def test_items_are_those_of_a_list(items: list[Item]) -> None:
    made = Items()
    for item in items:
        made.append(item)
    assert made == items and list(made) == items
    assert [made[i] for i in range(len(items))] == items
    assert list(made.names()) == [item.name for item in items]
    assert made[1::2] == items[1::2] and list(made[-2:]) == items[-2:]


def test_a_size_that_no_file_has() -> None:
    made = Items()
    made.append(Item.at("a.jpg", 512, 1 << 80))
    assert made[0].offset == 512 and made[0].nbytes > 1 << 60


def test_the_memory_of_an_image() -> None:
    for in_archive, limit in ((False, 36), (True, 56)):
        tracemalloc.start()
        try:
            made = Items()
            for i in range(10_000):
                path = f"val/n{i // 50:08d}/ILSVRC2012_val_{i:08d}.JPEG"
                made.append(Item.at(path, 512 * i, 100, 0) if in_archive else Item.at(path))
            nbytes = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert nbytes / len(made) < limit
