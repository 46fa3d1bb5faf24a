"""From probabilities to a verdict: the one rule by which success is called, live and on recordings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot.types import F32


@dataclass(frozen=True, slots=True)
class Decision:
    """When success is called.

    threshold: probability in (0, 1] from which a frame counts. hold_frames: so many frames in a row must
    count. min_frames: steps that must have been played, the present one included. takeover_frames: the first
    so many steps of a take-over do not count. Raises ValueError naming a value that cannot be.
    """

    threshold: float
    hold_frames: int
    min_frames: int
    takeover_frames: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"a decision's threshold is {self.threshold}, it must lie in (0, 1]")
        for name, least in (("hold_frames", 1), ("min_frames", 0), ("takeover_frames", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"a decision's {name} is {value}, it must be at least {least}")


class Judge:
    """Applies a decision step by step."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.reset()

    def reset(self) -> None:
        """A new episode."""
        self._steps, self._held = 0, 0
        self._helped = 0
        """Steps of the take-over that is going on, the present one included."""

    @property
    def held(self) -> int:
        """Frames in a row that count, the newest included."""
        return self._held

    def step(self, probability: float, helped: bool) -> bool:
        """Whether success is called at the frame a step led to. helped: the operator played the step.

        Raises ValueError for what is no probability: a broken network must not look like a failure.
        """
        if not (math.isfinite(probability) and 0 <= probability <= 1):
            raise ValueError(f"the probability of success is {probability}, it must lie in [0, 1]")
        self._steps += 1
        self._helped = self._helped + 1 if helped else 0
        fresh = 0 < self._helped <= self.decision.takeover_frames
        counts = probability >= self.decision.threshold and not fresh
        self._held = self._held + 1 if counts else 0
        return self._held >= self.decision.hold_frames and self._steps >= self.decision.min_frames


def success_frame(
    decision: Decision,
    probabilities: F32 | Sequence[float],
    helped: NDArray[np.bool_] | Sequence[bool] | None = None,
) -> int | None:
    """The first frame of an episode at which success is called, None where it never is.

    probabilities: (T + 1,), of every frame. Frame 0 is the reset's observation and is not judged; step i
    leads to frame i. helped: (T,), the steps the operator played; None: none of them.
    """
    steps = len(probabilities) - 1
    if helped is not None and len(helped) != steps:
        raise ValueError(f"{steps + 1} probabilities belong to {steps} steps, got {len(helped)} of helped")
    judge = Judge(decision)
    for step in range(steps):
        if judge.step(float(probabilities[step + 1]), helped is not None and bool(helped[step])):
            return step + 1
    return None
