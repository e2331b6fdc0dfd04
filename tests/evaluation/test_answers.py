"""Answers at the places of their images."""

from __future__ import annotations

import numpy as np
import pytest

from zoofast.evaluation import answers as module
from zoofast.evaluation.answers import Answers
from zoofast.preprocess.sources import Item
from zoofast.scoring.topk import TopK


@pytest.mark.parametrize("last", [32_767, 32_768, 999_999])
def test_classes_of_any_size(last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest one comes in the last answer."""
    monkeypatch.setattr(module, "AT_ONCE", 4)
    answers = Answers([Item.at(f"{i}.JPEG") for i in range(6)])
    rows = np.array([[3, -1], [0, 2], [5, 1], [9, 8], [7, last], [4, 6]])
    for places in ([1, 2], [5, 3], [0, 4]):
        best = TopK.empty(2, 2)
        best.classes[:] = rows[places]
        answers.add(np.array(places, np.int32), best)
    order = [1, 2, 5, 3, 0, 4]
    for first in range(7):
        parts = list(answers.classes(first))
        assert [place for places, _ in parts for place in places.tolist()] == order[first:]
        assert [row.tolist() for _, classes in parts for row in classes] == [
            rows[place].tolist() for place in order[first:]
        ]
    in_order = answers.in_source_order()
    assert in_order is not None and list(in_order[0]) == list("012345")
    assert in_order[1].classes.tolist() == rows.tolist()
