"""How good a reward classifier is on episodes it was not trained on.

Frames of one episode look alike, so they are not independent: every interval here resamples whole episodes or
counts episodes. What cannot be known from the episodes given (no success among them, one episode) is None, or
an interval from 0 to 1, never a number that looks like a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilserl.evaluate import wilson_interval

FAIR_THRESHOLD = 0.5
"""Where accuracy is measured: fixed beforehand, so nothing about it was chosen on the episodes it is measured
on. The decision's own threshold is chosen for few false successes, and on these episodes."""
BINS = 10
"""Bins of the reliability curve."""
_DRAWS = 2000
_SEED = 95
_LOW, _HIGH = 2.5, 97.5

Bools = NDArray[np.bool_]
F64 = NDArray[np.float64]


class ScoreError(ValueError):
    """Scores that cannot be judged: says which episode, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A held-out episode, scored by a model that was not trained on it.

    source, episode: the folder and the name in it. facts: of the scene. success: bool (N,), the label of
    every frame at full rate. probability: float32 (N,), what the model says. end: value of `End`. by: who
    labelled. helped: bool (N - 1,), the steps the operator played; None: none. Raises ScoreError.
    """

    source: str
    episode: str
    facts: Mapping[str, float | str]
    success: Bools
    probability: NDArray[np.float32]
    end: str
    by: str = ""
    helped: Bools | None = None

    def __post_init__(self) -> None:
        said, told, name = self.probability, self.success, f"episode {self.episode} of {self.source}"
        if told.dtype != np.bool_ or told.ndim != 1 or not told.size:
            raise ScoreError(f"{name}: success must be bool (N,), N >= 1, got {told.dtype} {told.shape}")
        if said.dtype != np.float32 or said.shape != told.shape:
            raise ScoreError(
                f"{name}: probability must be float32 {told.shape}, got {said.dtype} {said.shape}"
            )
        helped, steps = self.helped, (told.size - 1,)
        if helped is not None and (helped.dtype != np.bool_ or helped.shape != steps):
            raise ScoreError(f"{name}: helped must be bool {steps}, got {helped.dtype} {helped.shape}")
        wrong = np.flatnonzero(~((said >= 0) & (said <= 1)))
        if wrong.size:
            raise ScoreError(
                f"{name}: probability of frame {wrong[0]} is {said[wrong[0]]}, it must be in [0, 1]"
            )

    @property
    def frames(self) -> int:
        return self.success.size

    @property
    def true_frame(self) -> int | None:
        """The first frame labelled a success, None in a failed episode."""
        return int(self.success.argmax()) if self.success.any() else None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share with its 95 % interval. value: None where nothing was counted (then 0 to 1). count of total."""

    value: float | None
    low: float
    high: float
    count: int
    total: int

    def to_json(self) -> dict[str, float | None]:
        names = ("value", "low", "high", "count", "total")
        return {name: getattr(self, name) for name in names}


def share_of(count: int, total: int) -> Estimate:
    """A share of episodes, with the Wilson interval."""
    return Estimate(count / total if total else None, *wilson_interval(count, total), count, total)


def right_frames(one: Scored, threshold: float = FAIR_THRESHOLD) -> int:
    """In how many frames `probability >= threshold` agrees with the label."""
    return int(((_exact(one) >= threshold) == one.success).sum())


def frame_accuracy(episodes: Sequence[Scored], threshold: float = FAIR_THRESHOLD) -> Estimate:
    """Share of frames in which `probability >= threshold` agrees with the label.

    The interval is a percentile bootstrap that draws whole episodes, n - 1 of n (so that its spread is not
    too small when n is), with a fixed seed. It is never narrower than Wilson's for independent frames:
    without a single wrong frame the bootstrap alone would claim certainty. One episode says nothing of
    others: 0 to 1.
    """
    if not episodes:
        return Estimate(None, 0.0, 1.0, 0, 0)
    # sorted: the same interval in whatever order the episodes come
    counts = np.array(sorted((right_frames(one, threshold), one.frames) for one in episodes), np.float64)
    right, total = int(counts[:, 0].sum()), int(counts[:, 1].sum())
    n = len(counts)
    if n == 1:
        return Estimate(right / total, 0.0, 1.0, right, total)
    drawn = np.random.default_rng(_SEED).multinomial(n - 1, np.full(n, 1 / n), _DRAWS) @ counts
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], (_LOW, _HIGH))
    floor_low, floor_high = wilson_interval(right, total)
    return Estimate(right / total, min(float(low), floor_low), max(float(high), floor_high), right, total)


@dataclass(frozen=True, slots=True)
class Confusion:
    """Frames by what they are and what is said of them."""

    true_success: int
    false_success: int
    missed: int
    true_failure: int

    @property
    def precision(self) -> float | None:
        """Share of the frames called a success that are one; None when none was."""
        said = self.true_success + self.false_success
        return self.true_success / said if said else None

    @property
    def recall(self) -> float | None:
        """Share of the successes that were called one; None when there is none."""
        there = self.true_success + self.missed
        return self.true_success / there if there else None


def frame_confusion(episodes: Sequence[Scored], threshold: float) -> Confusion:
    """Count all frames at `probability >= threshold`."""
    success, probability = all_frames(episodes)
    said = probability >= threshold
    counts = (success & said, ~success & said, success & ~said, ~success & ~said)
    return Confusion(*(int(one.sum()) for one in counts))


def all_frames(episodes: Sequence[Scored]) -> tuple[Bools, F64]:
    """Labels and probabilities of all frames, episode after episode, both (frames,)."""
    if not episodes:
        return np.zeros(0, np.bool_), np.zeros(0, np.float64)
    return np.concatenate([one.success for one in episodes]), np.concatenate(
        [_exact(one) for one in episodes]
    )


def _exact(one: Scored) -> F64:
    """As the decision compares them: numpy would round a threshold to float32 first."""
    return one.probability.astype(np.float64)
