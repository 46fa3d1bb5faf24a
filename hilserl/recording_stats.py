"""Statistics of recorded columns in lerobot's form: {column: {min, max, mean, std, count, q01 ... q99}}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot.types import U8

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
SAMPLED_PICTURES = 20
"""Pictures of an episode that its statistics are taken from, evenly spread."""
PICTURE_STRIDE = 4
"""Of these, every so many rows and columns."""

F64 = NDArray[np.float64]
Stats = dict[str, dict[str, NDArray[Any]]]


def row_stats(rows: Mapping[str, NDArray[Any]]) -> Stats:
    """Statistics of columns (N,) or (N, K): arrays (1,) or (K,)."""
    return {name: _stats(column.reshape(len(column), -1)) for name, column in rows.items()}


def picture_stats(pictures: Mapping[str, Sequence[U8]]) -> Stats:
    """Statistics per colour channel, of values in 0..1: arrays (3, 1, 1); count: pictures looked at."""
    found: Stats = {}
    for key, frames in pictures.items():
        chosen = np.unique(np.linspace(0, len(frames) - 1, SAMPLED_PICTURES).round().astype(int))
        thin = np.stack([frames[i][::PICTURE_STRIDE, ::PICTURE_STRIDE] for i in chosen])
        stats = _stats(thin.reshape(-1, 3) / 255.0)
        found[key] = {name: value.reshape(3, 1, 1) for name, value in stats.items() if name != "count"}
        found[key]["count"] = np.array([len(chosen)])
    return found


def merge_stats(parts: Sequence[Stats]) -> Stats:
    """Statistics of several episodes together. Quantiles are the mean of theirs, as lerobot's own are."""
    merged: Stats = {}
    for column in parts[0]:
        stats = [part[column] for part in parts]
        count = np.array([one["count"][0] for one in stats])
        share = count / count.sum()
        mean = _weighted(share, [one["mean"] for one in stats])
        square = _weighted(share, [one["std"] ** 2 + (one["mean"] - mean) ** 2 for one in stats])
        merged[column] = {
            "min": np.min([one["min"] for one in stats], axis=0),
            "max": np.max([one["max"] for one in stats], axis=0),
            "mean": mean,
            "std": np.sqrt(square),
            "count": np.array([count.sum()]),
            **{name: _weighted(share, [one[name] for one in stats]) for name in QUANTILES},
        }
    return merged


def _stats(values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Of (N, K): arrays (K,)."""
    numbers = values.astype(np.float64)
    return {
        "min": numbers.min(axis=0),
        "max": numbers.max(axis=0),
        "mean": numbers.mean(axis=0),
        "std": numbers.std(axis=0),
        "count": np.array([len(numbers)]),
        **{name: np.quantile(numbers, q, axis=0) for name, q in QUANTILES.items()},
    }


def _weighted(share: F64, values: Sequence[NDArray[Any]]) -> F64:
    return np.asarray(np.tensordot(share, np.stack(values), axes=1), np.float64)
