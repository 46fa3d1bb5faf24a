"""Timings that say how sure they are: two sides take turns, each number is a median with its spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch


class Deadline:
    """Time left of a budget in seconds, counted from when this was made (or from `spent` seconds before)."""

    def __init__(self, budget_s: float, spent_s: float = 0.0) -> None:
        self._end = time.monotonic() + budget_s - spent_s

    def left_s(self) -> float:
        """Seconds until the end; negative after it."""
        return self._end - time.monotonic()


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of `count` measured values."""

    median: float
    low: float
    high: float
    count: int

    def as_dict(self) -> dict[str, float]:
        """The fields by name, for JSON."""
        return asdict(self)

    def scaled(self, factor: float) -> Spread:
        """The same measurements in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.count)


def spread(values: Sequence[float]) -> Spread:
    """Summarise `values`. Raises ValueError when there is none."""
    if not values:
        raise ValueError("no measurement was made")
    return Spread(float(np.median(values)), min(values), max(values), len(values))


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call, the GPU's queue included."""
    _settle()
    start = time.perf_counter()
    work()
    _settle()
    return time.perf_counter() - start


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True, slots=True)
class Side:
    """Something to be timed. work(n) does it n times, as often as fits `window_s` (0: once) each turn.

    warm: what is done first, untimed.
    """

    work: Callable[[int], object]
    window_s: float
    warm: Callable[[], object]

    def turn(self) -> int:
        """Warm up; the number of repetitions of one turn."""
        self.warm()
        if not self.window_s:
            return 1
        return max(1, int(self.window_s / seconds(lambda: self.work(1))))


def alternate(sides: Mapping[str, Side], rounds: int, deadline: Deadline) -> dict[str, Spread]:
    """Seconds per unit of work of every side, measured in turns: a, b, a, b, ...

    Stops early, but not before one whole round, when the next round would pass the deadline.
    """
    turns = {name: side.turn() for name, side in sides.items()}
    values: dict[str, list[float]] = {name: [] for name in sides}
    longest_s = 0.0
    for index in range(rounds):
        if index and deadline.left_s() < longest_s:
            break
        start = time.monotonic()
        for name, side in sides.items():
            values[name].append(seconds(partial(side.work, turns[name])) / turns[name])
        longest_s = max(longest_s, time.monotonic() - start)
    return {name: spread(found) for name, found in values.items()}


def ratio(theirs: Spread, ours: Spread) -> dict[str, float]:
    """How many times longer `theirs` takes: of the medians, and the least and greatest it could be."""
    return {
        "median": theirs.median / ours.median,
        "low": theirs.low / ours.high,
        "high": theirs.high / ours.low,
    }
