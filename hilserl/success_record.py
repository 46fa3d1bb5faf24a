"""Whether success has really fallen, or only looks so: blocks of episodes compared, with luck allowed for."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

WINDOWS = (50, 100)
"""Lengths [episodes] of the blocks compared: the short one for a total collapse, the long one for a partial
one. Twenty episodes, the length shown on the terminal, swing by 25 points through luck alone."""
MEMORY = 500
"""Episodes looked back on for the best block: about an evening and a half of work on a real arm."""
DROP = 0.20
"""Fall of the success rate that is a collapse, if it is not luck (field report, row 94)."""
SIGNIFICANCE = 4.5
"""Square root of the likelihood ratio (about standard deviations) that two blocks must differ by.

The best of 500 sliding blocks is compared with the newest at every episode, so luck has many chances:
simulated (10,000 runs for each success rate from 20 to 90 %), a steady policy passes this within 500 episodes
with a probability of 0.4 to 0.8 %. A fall from 54.9 % to 27.9 % after 200 steady episodes is found within 77
episodes in half of the cases and within 200 in nine of ten; one from 90 % to 30 % within 40."""
RECOVERED = 0.10
"""An alarm clears when the newest short block is this near to the best again."""


class Outcome(Enum):
    """One episode as the record keeps it. A helped one counts as no success: help comes when it fails."""

    FAILED = "f"
    SUCCEEDED = "s"
    HELPED = "h"


@dataclass(frozen=True, slots=True)
class Drop:
    """A fall of the success rate.

    best, now: shares of successes. best_over, now_over: episodes in each block. now_helped: share of the
    newest block's episodes in which a person helped.
    """

    best: float
    best_over: int
    now: float
    now_over: int
    now_helped: float


class SuccessRecord:
    """The newest `MEMORY` outcomes, oldest first, and whether success has dropped.

    `drop` is None until a block of `WINDOWS` episodes has succeeded more than `DROP` less often than the best
    earlier block, by more than luck explains; it stays until success is back within `RECOVERED` of that best.
    """

    def __init__(self, outcomes: str = "") -> None:
        """outcomes: of an earlier record's `text`. Raises ValueError for a letter that is no Outcome."""
        self._outcomes: deque[Outcome] = deque(maxlen=MEMORY)
        self.drop: Drop | None = None
        for letter in outcomes:
            self.add(Outcome(letter))

    @property
    def text(self) -> str:
        """One letter per episode, for a checkpoint."""
        return "".join(outcome.value for outcome in self._outcomes)

    def add(self, outcome: Outcome) -> None:
        """One more episode."""
        self._outcomes.append(outcome)
        good = np.array([o is Outcome.SUCCEEDED for o in self._outcomes], np.int64)
        if self.drop is None:
            found = _largest_drop(good)
            self.drop = None if found is None else self._described(*found)
        else:
            kept = Drop(self.drop.best, self.drop.best_over, *self._newest(self.drop.now_over))
            self.drop = None if self._newest(WINDOWS[0])[0] >= kept.best - RECOVERED else kept

    def _newest(self, over: int) -> tuple[float, int, float]:
        """Success share, length and helped share of the newest `over` episodes."""
        newest = list(self._outcomes)[-over:]
        good, helped = newest.count(Outcome.SUCCEEDED), newest.count(Outcome.HELPED)
        return good / len(newest), len(newest), helped / len(newest)

    def _described(self, best: float, best_over: int, now_over: int) -> Drop:
        return Drop(best, best_over, *self._newest(now_over))


def _largest_drop(good: NDArray[np.int64]) -> tuple[float, int, int] | None:
    """(best rate, episodes of the best block, of the newest) of the most certain collapse, None if none."""
    sums = np.concatenate([[0], good.cumsum()])
    found, certainty = None, SIGNIFICANCE
    for now_over in WINDOWS:
        for best_over in WINDOWS:
            if len(good) < best_over + now_over:
                continue
            now = int(sums[-1] - sums[-1 - now_over])
            earlier = sums[: len(sums) - now_over]
            best = int((earlier[best_over:] - earlier[:-best_over]).max())
            if best / best_over - now / now_over <= DROP:
                continue
            distance = _distance(best, best_over, now, now_over)
            if distance > certainty:
                found, certainty = (best / best_over, best_over, now_over), distance
    return found


def _distance(a: int, of_a: int, b: int, of_b: int) -> float:
    """Square root of twice the log likelihood ratio of "two rates" against "one rate"."""
    apart = _log_likelihood(a, of_a) + _log_likelihood(b, of_b)
    return math.sqrt(max(0.0, 2 * (apart - _log_likelihood(a + b, of_a + of_b))))


def _log_likelihood(successes: int, of: int) -> float:
    """Of `successes` out of `of` at the rate that fits them best."""
    return sum(k * math.log(k / of) for k in (successes, of - successes) if k)
