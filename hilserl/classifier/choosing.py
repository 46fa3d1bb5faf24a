"""Chooses threshold, hold and least time on held-out episodes, for a stated share of false successes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hilserl.classifier.decision import Decision
from hilserl.classifier.metrics import Estimate, Scored
from hilserl.classifier.metrics_calls import Call, EpisodeConfusion, call_of, episode_confusion

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(2, 20)) + (0.97, 0.98, 0.99)
LONGEST_HOLD_S = 1.0
FREE_DELAY_S = 0.3
"""A success called so late is as good as one called at once: holding longer is worth more than that."""
EARLIEST = 0.5
"""No success is called before this share of the quickest one seen: policies become quicker than people."""

LEAST_CALLED = 0.5
"""A reward that misses more of the successes than this teaches nothing, however rarely it errs."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A decision and what it makes of the held-out episodes.

    met: it keeps to the share of false successes asked for, and calls LEAST_CALLED of the true ones.
    sentence: how that was found.
    """

    decision: Decision
    met: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class _Tried:
    decision: Decision
    confusion: EpisodeConfusion
    delay_frames: float
    """Median; infinite where nothing is called."""


def choose(episodes: Sequence[Scored], rate: float, rate_hz: float, takeover_frames: int) -> Chosen:
    """The decision of the fewest missed successes among those that keep to `rate`.

    episodes: held out, with and without a success. rate: the largest share of failed episodes in which a
    success may be called, and of successful ones in which it may be called where there is none. Of the
    decisions that call as many, those that call early (FREE_DELAY_S late is early), then those that hold
    longest, then the threshold in the middle of those left: the widest margins for pictures not seen yet.
    """
    least = least_frames(episodes)
    holds = range(1, max(1, round(LONGEST_HOLD_S * rate_hz)) + 1)
    tried = [
        _try(episodes, Decision(threshold, hold, least, takeover_frames))
        for hold in holds
        for threshold in THRESHOLDS
    ]
    kept = [one for one in tried if _false_share(one) <= rate and _called(one) >= LEAST_CALLED]
    free = FREE_DELAY_S * rate_hz
    if kept:
        best = _central(kept, lambda one: (-one.confusion.called, max(0.0, one.delay_frames - free)))
    else:
        best = _central(tried, lambda one: (_false_share(one), -one.confusion.called))
    return Chosen(best.decision, bool(kept), _sentence(best, rate, bool(kept)))


def least_frames(episodes: Sequence[Scored]) -> int:
    """Steps before which no success is called."""
    quickest = min((one.true_frame for one in episodes if one.true_frame is not None), default=0)
    return int(EARLIEST * quickest)


def _try(episodes: Sequence[Scored], decision: Decision) -> _Tried:
    calls: list[Call] = [call_of(one, decision) for one in episodes]
    delays = [call.delay for call in calls if call.delay is not None]
    return _Tried(decision, episode_confusion(calls), float(np.median(delays)) if delays else np.inf)


def _called(one: _Tried) -> float:
    """Share of the successes that are rightly called."""
    return one.confusion.called_rate.value or 0.0


def _false_share(one: _Tried) -> float:
    """The larger of both shares of false successes."""
    confusion = one.confusion
    early = confusion.early / max(1, confusion.called_rate.total)
    return max(early, confusion.false_rate.value or 0.0)


def _central(tried: Sequence[_Tried], badness: Callable[[_Tried], tuple[float, ...]]) -> _Tried:
    """Of the least bad, one that holds longest, at the middle of the longest run of thresholds that do."""
    least = min(badness(one) for one in tried)
    ties = [one for one in tried if badness(one) == least]
    longest = max(one.decision.hold_frames for one in ties)
    at = {
        THRESHOLDS.index(one.decision.threshold): one for one in ties if one.decision.hold_frames == longest
    }
    runs: list[list[int]] = []
    for place in sorted(at):
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    run = max(runs, key=len)
    return at[run[len(run) // 2]]


def _sentence(one: _Tried, rate: float, met: bool) -> str:
    confusion = one.confusion
    said = (
        f"success was called in {_share(confusion.false_rate)} failed held-out episodes, and too early in "
        f"{confusion.early} of {confusion.called_rate.total} successful ones; rightly in "
        f"{_share(confusion.called_rate)}"
    )
    if met:
        return f"{said}. Asked for: at most {rate:.0%} false"
    return (
        f"{said}. No decision calls {LEAST_CALLED:.0%} of the successes and keeps to the {rate:.0%} of false "
        "ones asked for (classifier.false_success_rate)"
    )


def _share(estimate: Estimate) -> str:
    """Count, and what of all episodes of the kind that may mean."""
    return f"{estimate.count} of {estimate.total} (95 %: {estimate.low:.0%} to {estimate.high:.0%})"
