"""Which images are classified wrongly, and which classes are confused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.sequences import Selection

MAX_MISTAKES = 24
MAX_EXAMPLES = 3  # of each confused pair


@dataclass(frozen=True)
class Mistake:
    """A wrongly classified image. Classes are the model's; confidence, 0 to 1, is the
    prediction's."""

    name: str
    truth: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Confusion:
    """A class that is predicted as another one. examples: the images whose wrong prediction is the
    most confident."""

    truth: int
    predicted: int
    images: int
    examples: list[Mistake]


def most_confident_mistakes(
    names: Sequence[str],
    truth: NDArray[np.integer[Any]],
    predicted: NDArray[np.integer[Any]],
    confidence: NDArray[np.floating[Any]],
    limit: int = MAX_MISTAKES,
) -> list[Mistake]:
    """The wrong predictions of the highest confidence, the highest first; equal ones by name.

    All arrays have shape (n,). Predictions of unknown confidence (NaN) are left out.
    """
    wrong = np.flatnonzero((truth != predicted) & np.isfinite(confidence))
    if len(wrong) > limit:  # sort only what can be among the first, ties at the end included
        lowest = np.partition(confidence[wrong], len(wrong) - limit)[len(wrong) - limit]
        wrong = wrong[confidence[wrong] >= lowest]
    # Millions may have the same confidence: they become no list.
    order = nsmallest(limit, map(int, wrong), key=lambda i: (-float(confidence[i]), names[i]))
    return [
        Mistake(names[i], int(truth[i]), int(predicted[i]), float(confidence[i])) for i in order
    ]


def confusions(
    pairs: Sequence[tuple[int, int, int]],
    names: Sequence[str],
    truth: NDArray[np.integer[Any]],
    predicted: NDArray[np.integer[Any]],
    confidence: NDArray[np.floating[Any]],
) -> list[Confusion]:
    """Adds examples to `pairs`, which are (true class, predicted class, images) as Tally.confused
    gives them. The other parameters are those of most_confident_mistakes."""
    confused = []
    for true, other, images in pairs:
        of_pair = np.flatnonzero((truth == true) & (predicted == other))
        examples = most_confident_mistakes(
            Selection(names, of_pair),
            truth[of_pair],
            predicted[of_pair],
            confidence[of_pair],
            MAX_EXAMPLES,
        )
        confused.append(Confusion(true, other, images, examples))
    return confused
