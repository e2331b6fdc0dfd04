"""Hits, ties, confused classes and calibration, counted over any number of images."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15
TITLE = "Overall statistical evaluation"


class Tally:
    """Counts over all images that `add` is called with; the order does not matter.

    classes: how many the model has. k: hits are counted for top-1 … top-k, with k at most
    `classes`.
    """

    def __init__(self, classes: int, k: int = 5) -> None:
        self.classes, self.k = classes, min(k, classes)
        self.images = 0
        # [i]: images whose true class is among the best i + 1
        self.hits = np.zeros(self.k, np.int64)
        # [i]: images whose scores at places i and i + 1 are equal, so that the tie rule decides
        self.ties = np.zeros(self.k, np.int64)
        self.class_images = np.zeros(classes, np.int64)
        self.class_hits = np.zeros((classes, self.k), np.int64)
        self._pairs: dict[tuple[int, int], int] = {}
        self._bin_images = np.zeros(ECE_BINS, np.int64)
        self._bin_hits = np.zeros(ECE_BINS, np.int64)
        self._bin_confidence = np.zeros(ECE_BINS)

    def add(
        self,
        truth: NDArray[np.integer[Any]],
        best: NDArray[np.int32],
        values: NDArray[np.float32] | None = None,
        confidence: NDArray[np.float32] | None = None,
    ) -> None:
        """Counts n images.

        truth (n,): the model's class of each image. best (n, k or more): the best classes, best
        first. values: their scores, which show ties; k + 1 columns show ties at the last place too.
        confidence (n,): the probability of the best class; NaN is left out of the calibration.
        """
        if not len(truth):
            return
        truth = truth.astype(np.int64)
        hits = truth == best[:, : self.k].T  # (k, n), which NumPy sums faster than (n, k)
        for place in range(1, self.k):
            hits[place] |= hits[place - 1]
        self.images += len(truth)
        self.hits += np.count_nonzero(hits, axis=1)
        self.class_images += np.bincount(truth, minlength=self.classes)
        for place in range(self.k):
            of_class = np.bincount(truth[hits[place]], minlength=self.classes)
            self.class_hits[:, place] += of_class
        if values is not None:
            scores = np.ascontiguousarray(values[:, : self.k + 1].T)
            equal = scores[:-1] == scores[1:]
            self.ties[: len(equal)] += np.count_nonzero(equal, axis=1)
        wrong = ~hits[0]
        pairs, counts = np.unique(truth[wrong] * self.classes + best[wrong, 0], return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            key = divmod(pair, self.classes)
            self._pairs[key] = self._pairs.get(key, 0) + count
        if confidence is not None:
            known = np.isfinite(confidence)
            known_confidence = confidence[known].astype(np.float64)
            # bin i is (i / ECE_BINS, (i + 1) / ECE_BINS]
            bins = np.clip(
                np.ceil(known_confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1
            )
            self._bin_images += np.bincount(bins, minlength=ECE_BINS)
            self._bin_hits += np.bincount(bins[hits[0, known]], minlength=ECE_BINS)
            self._bin_confidence += np.bincount(bins, known_confidence, minlength=ECE_BINS)

    def accuracy(self) -> list[float]:
        """Top-1 … top-k, as fractions."""
        return [float(hits) / max(self.images, 1) for hits in self.hits]

    def confused(self, limit: int | None = None) -> list[tuple[int, int, int]]:
        """(true class, predicted class, images) of wrong predictions, the most frequent first."""
        ordered = sorted(self._pairs.items(), key=lambda item: (-item[1], item[0]))
        return [(true, predicted, n) for (true, predicted), n in ordered[:limit]]

    def calibration(self) -> list[dict[str, float]]:
        """The bins that hold images: images, mean confidence, top-1 accuracy (fractions)."""
        return [
            {
                "images": int(n),
                "confidence": float(self._bin_confidence[i] / n),
                "accuracy": float(self._bin_hits[i] / n),
            }
            for i, n in enumerate(self._bin_images)
            if n
        ]

    def ece(self) -> float | None:
        """Expected calibration error as a fraction, over 15 bins of equal width (Guo et al., "On
        Calibration of Modern Neural Networks", 2017, eq. 3); None without confidences."""
        total = int(self._bin_images.sum())
        if total == 0:
            return None
        gaps = np.abs(self._bin_confidence - self._bin_hits)
        return float(gaps.sum() / total)

    def result_json(self) -> str:
        """The guides' result.json: one line; percentages are text, rounded by NumPy."""
        value = [
            {"key": "Number of images", "value": str(self.images)},
            {"key": "Number of classes", "value": str(self.classes)},
        ]
        for place, accuracy in enumerate(self.accuracy(), 1):
            percent = np.round(np.float64(accuracy) * 100, 2)
            value.append({"key": f"Top{place} accuracy", "value": f"{float(percent)}%"})
        return json.dumps({"title": TITLE, "value": value})
