"""What a decision makes of held-out episodes: successes called, missed, and called where there are none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hilserl.classifier.decision import Decision, success_frame
from hilserl.classifier.metrics import Estimate, Scored, share_of

_TAIL = 0.025
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Call:
    """What the decision makes of an episode.

    true_frame: first frame labelled a success. frame: where success is called, which ends the episode; None:
    never. right: the call rests on at least one frame that is labelled a success. failed_frames: frames
    played without success before the episode ended, in which a false success was possible.
    """

    true_frame: int | None
    frame: int | None
    right: bool
    failed_frames: int

    @property
    def correct(self) -> bool:
        """Success called where it is, or a failure not called one."""
        return self.right if self.frame is not None else self.true_frame is None

    @property
    def false(self) -> bool:
        """Success called where there is none: in a failed episode, or before it came or after it was lost."""
        return self.frame is not None and not self.right

    @property
    def missed(self) -> bool:
        return self.frame is None and self.true_frame is not None

    @property
    def delay(self) -> int | None:
        """Frames from the true success to its call; None unless it was rightly called."""
        if not self.right or self.frame is None or self.true_frame is None:
            return None
        return self.frame - self.true_frame

    @property
    def word(self) -> str:
        """The verdict in words."""
        if self.false:
            return "false success"
        if self.missed:
            return "missed"
        return "called" if self.right else "rightly not called"


def call_of(one: Scored, decision: Decision) -> Call:
    """Judge one episode as the actor would."""
    frame = success_frame(decision, one.probability, one.helped)
    first = 0 if frame is None else max(0, frame - decision.hold_frames + 1)
    right = frame is not None and bool(one.success[first : frame + 1].any())
    played = one.success[1 : None if frame is None else frame + 1]
    return Call(one.true_frame, frame, right, int((~played).sum()))


@dataclass(frozen=True, slots=True)
class EpisodeConfusion:
    """Episodes by what they hold and what was called in them.

    called: successes called where they are. early: episodes with a success in which it was called elsewhere.
    missed: never called. false: failed episodes in which success was called. quiet: in which it was not.
    """

    called: int
    early: int
    missed: int
    false: int
    quiet: int

    @property
    def correct(self) -> Estimate:
        """Share of episodes decided correctly."""
        right = self.called + self.quiet
        return share_of(right, right + self.early + self.missed + self.false)

    @property
    def false_rate(self) -> Estimate:
        """Share of failed episodes in which success was called."""
        return share_of(self.false, self.false + self.quiet)

    @property
    def called_rate(self) -> Estimate:
        """Share of episodes with a success in which it was rightly called."""
        return share_of(self.called, self.called + self.early + self.missed)


def episode_confusion(calls: Sequence[Call]) -> EpisodeConfusion:
    """Count what `call_of` said."""
    with_success = [call for call in calls if call.true_frame is not None]
    failed = [call for call in calls if call.true_frame is None]
    return EpisodeConfusion(
        called=sum(call.right for call in with_success),
        early=sum(call.false for call in with_success),
        missed=sum(call.missed for call in with_success),
        false=sum(call.false for call in failed),
        quiet=sum(call.frame is None for call in failed),
    )


@dataclass(frozen=True, slots=True)
class FalseSuccesses:
    """False successes in so many hours of play without success. per_hour: None without any play."""

    count: int
    hours: float
    per_hour: float | None
    low: float
    high: float


def false_successes(calls: Sequence[Call], rate_hz: float) -> FalseSuccesses:
    """False successes per hour of failed play at `rate_hz` frames a second; the interval is Poisson's, exact.

    high is infinite where nothing was played.
    """
    count = sum(call.false for call in calls)
    hours = sum(call.failed_frames for call in calls) / rate_hz / _SECONDS_PER_HOUR
    if not hours:
        return FalseSuccesses(count, 0.0, None, 0.0, math.inf)
    low, high = poisson_interval(count)
    return FalseSuccesses(count, hours, count / hours, low / hours, high / hours)


def poisson_interval(count: int) -> tuple[float, float]:
    """The exact 95 % interval of the mean of a Poisson count."""

    def at_most(mean: float, k: int) -> float:
        return sum(math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(k + 1))

    def solve(k: int, target: float) -> float:
        low, high = 1e-9, 10.0 + 3.0 * k
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if at_most(middle, k) > target else (low, middle)
        return low

    return solve(count - 1, 1 - _TAIL) if count else 0.0, solve(count, _TAIL)
