"""Statistics of features, as LeRobot's normalisation reads them: exact ones of numbers, and of images from histograms.

Images are counted as values in [0, 1]; every pixel counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Statistics = dict[str, np.ndarray]


def statistics_of(values: np.ndarray) -> Statistics:
    """Return the statistics of `values` [N, ...] over N; of shape [1] if they are scalars."""
    rows = np.asarray(values, np.float64).reshape(len(values), -1)
    found = {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([len(rows)], np.int64),
    }
    return found | dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True))


class ImageStatistics:
    """Counts the pixel values of images, per colour."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)
        self._images = 0

    def add(self, image: np.ndarray) -> None:
        """Count one image, uint8 [H, W, 3]."""
        for colour in range(3):
            self._counts[colour] += np.bincount(image[..., colour].ravel(), minlength=256)
        self._images += 1

    def merge(self, other: ImageStatistics) -> None:
        """Count the images of another one too."""
        self._counts += other._counts
        self._images += other._images

    def statistics(self) -> Statistics:
        """Return the statistics, each of shape [3, 1, 1] but for `count`, the number of images."""
        levels, pixels = np.arange(256) / 255, self._counts.sum(axis=1)
        mean = self._counts @ levels / pixels
        variance = self._counts @ levels**2 / pixels - mean**2
        below = np.cumsum(self._counts, axis=1)

        def level(share: float) -> np.ndarray:
            return levels[np.argmax(below >= np.maximum(1, np.ceil(share * pixels))[:, None], axis=1)]

        found = {
            "min": level(0.0),
            "max": level(1.0),
            "mean": mean,
            "std": np.sqrt(np.maximum(variance, 0.0)),
            **{name: level(share) for name, share in QUANTILES.items()},
        }
        shaped = {name: values.reshape(3, 1, 1) for name, values in found.items()}
        return shaped | {"count": np.array([self._images], np.int64)}


def as_document(statistics: dict[str, Statistics]) -> dict[str, Any]:
    """Return the content of `stats.json`."""
    return {key: {name: value.tolist() for name, value in each.items()} for key, each in statistics.items()}
