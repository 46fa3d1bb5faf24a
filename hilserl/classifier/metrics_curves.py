"""Curves over all thresholds, and the frames a classifier is most wrong about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hilserl.classifier.metrics import F64, Scored, all_frames

BINS = 10
"""Of the reliability curve."""


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """One point per different probability, from the highest down: what `probability >= threshold` finds.

    threshold, precision, recall: (K,). average_precision: the sum of precision times the step in recall.
    """

    threshold: F64
    precision: F64
    recall: F64
    average_precision: float


def precision_recall(episodes: Sequence[Scored]) -> PrecisionRecall | None:
    """The exact curve over all frames; None where no frame is a success."""
    success, probability = all_frames(episodes)
    if not success.any():
        return None
    order = np.argsort(-probability, kind="stable")
    found, falling = np.cumsum(success[order]), probability[order]
    # equal probabilities are called together: only the last of them is a point
    last = np.append(np.flatnonzero(np.diff(falling)), falling.size - 1)
    recall, precision = found[last] / success.sum(), found[last] / (last + 1)
    average = float(np.sum(np.diff(recall, prepend=0.0) * precision))
    return PrecisionRecall(falling[last], precision, recall, average)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Reliability by bins of equal width; bin b holds [b, b + 1) / bins, the last one also 1.

    count (frames), said (their mean probability), true (share of successes): (bins,); the last two are NaN in
    an empty bin.
    error: expected calibration error, the mean of |said - true| over frames; None without a frame.
    """

    count: F64
    said: F64
    true: F64
    error: float | None


def calibration(episodes: Sequence[Scored], bins: int = BINS) -> Calibration:
    """How often frames of about the same probability are successes."""
    success, probability = all_frames(episodes)
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins).astype(np.float64)
    full = np.where(count, count, np.nan)
    said = np.bincount(place, probability, bins) / full
    true = np.bincount(place, success, bins) / full
    error = float(np.nansum(count * np.abs(said - true)) / count.sum()) if success.size else None
    return Calibration(count, said, true, error)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A frame whose label and probability disagree, or nearly do."""

    source: str
    episode: str
    frame: int
    probability: float
    success: bool


def suspects(
    episodes: Sequence[Scored], success: bool, most: int, *, per_episode: int = 2, apart: int = 5
) -> list[Suspect]:
    """Lowest-scored successes, or highest-scored failures, the worst first.

    At most `per_episode` of an episode, and those at least `apart` frames from each other: neighbours look
    alike. Ties go to the earlier episode and frame, by name.
    """
    found: list[tuple[float, str, str, int]] = []
    for one in episodes:
        frames = np.flatnonzero(one.success == success)
        wrong = one.probability[frames] * (1.0 if success else -1.0)
        kept: list[int] = []
        for place in np.argsort(wrong, kind="stable"):
            if len(kept) == per_episode:
                break
            frame = int(frames[place])
            if all(abs(frame - other) >= apart for other in kept):
                kept.append(frame)
                found.append((float(wrong[place]), one.source, one.episode, frame))
    return [
        Suspect(source, episode, frame, abs(wrong), success)
        for wrong, source, episode, frame in sorted(found)[:most]
    ]
