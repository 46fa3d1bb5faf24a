"""Whether learning keeps up with the data, and if not, why: data rate, compute or batch, in numbers.

The budget, never more than `utd_ratio` updates per transition, is kept by `hilserl.learner`; this module
watches the other side of the promise.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hilserl.alarms import Alarm, Switch

UPDATES_BEHIND = "updates_behind"
NO_TRANSITIONS = "no_transitions"
WINDOW_S = 60.0
"""Span all rates are means over."""
BEHIND, BEHIND_CLEAR = 0.5, 0.75
"""Achieved share of utd_ratio below which the promise is broken, and above which it is kept again."""
LOOK_EVERY_S = 1.0
MISSED_EPISODES = 3
"""No transition for so many longest episodes and a minute: longer than any reset, shorter than a meal."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a learner has done since it started; every number only grows.

    transitions: taken in, counted as the budget counts them. updates: critic updates; update_s: time in them,
    the actor's updates and sampling included; sample_s: of that, time in sampling. frames: pictures encoded;
    encode_s: time in that, in whichever thread. episodes: of any kind that arrived.
    """

    transitions: int = 0
    updates: int = 0
    update_s: float = 0.0
    sample_s: float = 0.0
    frames: int = 0
    encode_s: float = 0.0
    episodes: int = 0


@dataclass(frozen=True, slots=True)
class _Look:
    at_s: float
    work: Work


@dataclass(frozen=True, slots=True)
class Pace:
    """Means over the last minute, or what there is of it. A number that cannot be known is NaN.

    span_s: the minute's length. ratio: critic updates per transition. *_per_s: rates. update_ms,
    sample_ms: of one critic update, with its share of the actor's. encode_ms: of one picture.
    frames_per_transition: pictures encoded per transition. *_share: share of the wall time spent in it.
    """

    span_s: float
    ratio: float
    updates_per_s: float
    transitions_per_s: float
    update_ms: float
    sample_ms: float
    encode_ms: float
    frames_per_transition: float
    update_share: float
    sample_share: float
    encode_share: float


class PacingWatch:
    """Looks at the learner's work about once a second and says when it falls behind.

    watch.look(work, owing=True, actors=("robot",))
    watch.alarms, watch.pace, watch.metrics()

    utd_ratio: updates per transition that are promised. batch: transitions in one. episode_s: the longest
    episode; its transitions arrive at its end, all at once. clock: seconds, never falling.
    """

    def __init__(
        self, *, utd_ratio: int, batch: int, episode_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._utd, self._batch, self._clock = utd_ratio, batch, clock
        self._silence_s = WINDOW_S + MISSED_EPISODES * episode_s
        # the average over a minute is the condition; a second look guards against one odd reading
        self._behind = Switch(LOOK_EVERY_S, WINDOW_S / 4)
        self._looks: deque[_Look] = deque()
        self._heard = -1
        self._quiet_since_s: float | None = None
        self._busy_since_s: float | None = None
        self._silent = ""
        self._pace: Pace | None = None

    def look(self, work: Work, *, owing: bool, actors: Sequence[str]) -> bool:
        """Take note of where things are; True when that was judged anew, about once a second.

        To look more often is allowed and costs nothing. owing: updates are due now, so whatever is not
        learning is lost time. actors: those connected now.
        """
        now_s = self._clock()
        if not owing:
            self._busy_since_s = None
        elif self._busy_since_s is None:
            self._busy_since_s = now_s
        if self._looks and now_s - self._looks[-1].at_s < LOOK_EVERY_S:
            return False
        self._looks.append(_Look(now_s, work))
        while len(self._looks) > 2 and now_s - self._looks[1].at_s >= WINDOW_S:
            self._looks.popleft()
        self._pace = _pace(self._looks[0], self._looks[-1])
        self._judge_ratio(now_s)
        self._judge_silence(now_s, work, owing, actors)
        return True

    def reset(self) -> None:
        """Forget what was seen: updates were paused, or go on after a pause."""
        self._looks.clear()
        self._pace, self._busy_since_s, self._quiet_since_s, self._silent = None, None, None, ""
        self._behind = Switch(self._behind.on_after, self._behind.off_after)

    @property
    def pace(self) -> Pace | None:
        """The newest means, None before the second look."""
        return self._pace

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """The alarms that stand."""
        found = []
        if self._behind.on and self._pace is not None:
            found.append(Alarm(UPDATES_BEHIND, self._why(self._pace), self._pace.ratio, BEHIND * self._utd))
        if self._silent and self._quiet_since_s is not None:
            quiet_s = self._clock() - self._quiet_since_s
            message = (
                f"no transition for {quiet_s:.0f} s, though {self._silent} is connected: is the operator "
                "resting, the arm stopped by a fault, or every episode discarded? See the actor's terminal"
            )
            found.append(Alarm(NO_TRANSITIONS, message, quiet_s, self._silence_s))
        return tuple(found)

    def metrics(self) -> dict[str, float]:
        """The glossary's names for the pace; what cannot be known is left out."""
        if self._pace is None:
            return {}
        pace = self._pace
        values = {
            "train/updates_per_transition_minute": pace.ratio,
            "time/updates_per_s": pace.updates_per_s,
            "time/transitions_per_s": pace.transitions_per_s,
            "train/update_ms": pace.update_ms,
            "train/sample_ms": pace.sample_ms,
            "train/encode_ms_per_frame": pace.encode_ms,
            "time/update_share": pace.update_share,
            "time/sample_share": pace.sample_share,
            "time/encode_share": pace.encode_share,
        }
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def _judge_ratio(self, now_s: float) -> None:
        """Behind: a whole minute in which updates were due at any time, and too few were done.

        A learner that caught up within the minute keeps its promise, however lumpy the data comes.
        """
        pace = self._pace
        if pace is None:
            return
        busy = self._busy_since_s is not None and now_s - self._busy_since_s >= WINDOW_S
        bad = busy and pace.ratio < BEHIND * self._utd
        good = self._busy_since_s is None or math.isnan(pace.ratio) or pace.ratio > BEHIND_CLEAR * self._utd
        self._behind.turn(now_s, bad=bad, good=good)

    def _judge_silence(self, now_s: float, work: Work, owing: bool, actors: Sequence[str]) -> None:
        """Silence counts only while an actor is there and nothing is owed: one that keeps pace waits then."""
        if work.episodes != self._heard or owing or not actors:
            self._heard, self._quiet_since_s, self._silent = work.episodes, now_s, ""
        elif self._quiet_since_s is not None and now_s - self._quiet_since_s >= self._silence_s:
            self._silent = " and ".join(actors)

    def _why(self, pace: Pace) -> str:
        """The reason in words and numbers, the largest share of the time first."""
        other = max(0.0, 1.0 - pace.update_share)
        if pace.update_share >= BEHIND:
            cause = "compute is the limit"
        elif pace.encode_share > other / 2:
            cause = "encoding arriving pictures is the limit"
        else:
            cause = (
                f"{100 * other:.0f} % of the time goes to neither: other programs, the disk or checkpoints"
            )
        asked = pace.transitions_per_s * self._utd
        parts = [
            f"{pace.ratio:.2g} of {self._utd} updates per transition in the last {pace.span_s:.0f} s",
            cause,
            f"transitions arrive at {pace.transitions_per_s:.3g}/s, which asks for {asked:.3g} updates/s",
            f"{pace.updates_per_s:.3g} updates/s were done",
        ]
        if pace.update_ms > 0:
            parts.append(
                f"one of batch {self._batch} takes {pace.update_ms:.1f} ms ({pace.sample_ms:.1f} ms of it "
                f"sampling), so at most {1000 / pace.update_ms:.3g}/s"
            )
        if pace.encode_ms > 0:
            cost = pace.encode_ms * pace.frames_per_transition
            parts.append(f"encoding takes {cost:.1f} ms per transition")
        return "; ".join([*parts, self._advice(pace)])

    def _advice(self, pace: Pace) -> str:
        # Updates were due for the whole minute: what was achieved is what this machine can do at this rate.
        if pace.ratio >= 1:
            return f"it keeps up with policy.utd_ratio={int(pace.ratio)}, or with a smaller policy.batch_size"
        return (
            "at this data rate it does not keep up even with policy.utd_ratio=1: lower policy.batch_size or "
            "policy.feature_channels, or run fewer actors"
        )


def _pace(first: _Look, last: _Look) -> Pace | None:
    """Means between two looks."""
    span_s = last.at_s - first.at_s
    if span_s <= 0:
        return None
    a, b = first.work, last.work
    transitions, updates, frames = b.transitions - a.transitions, b.updates - a.updates, b.frames - a.frames
    update_s, sample_s = b.update_s - a.update_s, b.sample_s - a.sample_s
    encode_s = b.encode_s - a.encode_s
    return Pace(
        span_s=span_s,
        ratio=_over(updates, transitions),
        updates_per_s=updates / span_s,
        transitions_per_s=transitions / span_s,
        update_ms=1000 * _over(update_s, updates),
        sample_ms=1000 * _over(sample_s, updates),
        encode_ms=1000 * _over(encode_s, frames),
        frames_per_transition=_over(frames, transitions),
        update_share=update_s / span_s,
        sample_share=sample_s / span_s,
        encode_share=encode_s / span_s,
    )


def _over(amount: float, count: int) -> float:
    return amount / count if count else math.nan
