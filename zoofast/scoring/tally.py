"""Counts of hits, ties, confusions and calibration over any number of images."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15
TITLE = "Overall statistical evaluation"


class Tally:
    """Counts hits as rankings come in, in any portions; order does not matter.

    classes: the model's. k: hits are counted for top-1 … top-k (no more than classes).
    """

    def __init__(self, classes: int, k: int = 5) -> None:
        self.classes, self.k = classes, min(k, classes)
        self.images = 0
        self.hits = np.zeros(self.k, np.int64)  # [i]: the truth is among the first i + 1
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
        ranked: NDArray[np.int32],
        values: NDArray[np.float32] | None = None,
        confidence: NDArray[np.float32] | None = None,
    ) -> None:
        """truth (n,): class indices of the model. ranked (n, >= k): its best classes, best first.

        values: their scores; with one place more than k, also ties at the last place are seen.
        confidence (n,): the probability of the best class; NaN is left out of the calibration.
        """
        if not len(truth):
            return
        truth = truth.astype(np.int64)
        found = truth == ranked[:, : self.k].T  # (k, n): places in rows, which NumPy sums fastest
        for place in range(1, self.k):
            found[place] |= found[place - 1]
        self.images += len(truth)
        self.hits += np.count_nonzero(found, axis=1)
        self.class_images += np.bincount(truth, minlength=self.classes)
        for place in range(self.k):
            hit = truth[found[place]]
            self.class_hits[:, place] += np.bincount(hit, minlength=self.classes)
        if values is not None:
            scores = np.ascontiguousarray(values[:, : self.k + 1].T)
            equal = scores[:-1] == scores[1:]
            self.ties[: len(equal)] += np.count_nonzero(equal, axis=1)
        wrong = ~found[0]
        pairs, counts = np.unique(
            truth[wrong] * self.classes + ranked[wrong, 0], return_counts=True
        )
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            key = divmod(pair, self.classes)
            self._pairs[key] = self._pairs.get(key, 0) + count
        if confidence is not None:
            known = np.isfinite(confidence)
            sure = confidence[known].astype(np.float64)
            # bins are (i / BINS, (i + 1) / BINS]
            bins = np.clip(np.ceil(sure * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
            self._bin_images += np.bincount(bins, minlength=ECE_BINS)
            self._bin_hits += np.bincount(bins[found[0, known]], minlength=ECE_BINS)
            self._bin_confidence += np.bincount(bins, sure, minlength=ECE_BINS)

    def accuracy(self) -> list[float]:
        """Top-1 … top-k, as fractions."""
        return [float(hits) / max(self.images, 1) for hits in self.hits]

    def confused(self, most: int | None = None) -> list[tuple[int, int, int]]:
        """(true class, predicted class, images), the most frequent first."""
        ordered = sorted(self._pairs.items(), key=lambda item: (-item[1], item[0]))
        return [(true, predicted, n) for (true, predicted), n in ordered[:most]]

    def calibration(self) -> list[dict[str, float]]:
        """The bins that hold images: images, mean confidence, top-1 accuracy."""
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
        """Expected calibration error (15 bins of equal width) as a fraction; None if unknown."""
        total = int(self._bin_images.sum())
        if total == 0:
            return None
        gaps = np.abs(self._bin_confidence - self._bin_hits)
        return float(gaps.sum() / total)

    def result_json(self) -> str:
        """The guides' result.json: one line, percentages as text, rounded as NumPy does."""
        value = [
            {"key": "Number of images", "value": str(self.images)},
            {"key": "Number of classes", "value": str(self.classes)},
        ]
        for place, accuracy in enumerate(self.accuracy(), 1):
            percent = np.round(np.float64(accuracy) * 100, 2)
            value.append({"key": f"Top{place} accuracy", "value": f"{float(percent)}%"})
        return json.dumps({"title": TITLE, "value": value})
