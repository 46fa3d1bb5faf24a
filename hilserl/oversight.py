"""What watches a learner at work: gathers the alarms, tells each once, pauses where that is wished."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from hilserl.alarms import Alarm, AlarmBoard, CollapseGuard
from hilserl.pacing import PacingWatch, Work
from hilserl.types import Episode

Say = Callable[[str], None]
Report = Callable[[Sequence[Alarm], bool, float | None], None]
"""Hears the standing alarms, whether updates are paused, and the last minute's updates per transition."""


class Oversight:
    """The alarms of one learner, and its pause.

    oversight.episode(episode)                      each episode that arrived
    oversight.look(work, owing=True, actors=...)    in every turn of the loop: costs nothing
    values |= oversight.row(values, large_inputs)   each row of metrics
    oversight.paused                                no updates while it is true

    say(line) hears each alarm when it is raised and when it is cleared; report(...) what stands, after every
    row and about once a second. auto_pause: an alarm of the collapse guard pauses; one of pace never does.
    """

    def __init__(
        self, guard: CollapseGuard, pacing: PacingWatch, *, auto_pause: bool, say: Say, report: Report
    ) -> None:
        self.guard, self._pacing = guard, pacing
        self._auto_pause, self._say, self._report = auto_pause, say, report
        self._board = AlarmBoard()
        self.paused = False

    def episode(self, episode: Episode) -> None:
        """An episode arrived."""
        self.guard.episode(episode)

    def look(self, work: Work, *, owing: bool, actors: Sequence[str]) -> None:
        """How far the learner is; see `PacingWatch.look`. Nothing is expected of a paused one."""
        if not self.paused and self._pacing.look(work, owing=owing, actors=actors):
            self._update()

    def row(self, values: Mapping[str, float], large_inputs: Mapping[str, int]) -> dict[str, float]:
        """Judge a row of metrics; the numbers to add to it. Arguments as `CollapseGuard.row`."""
        self.guard.row(values, large_inputs)
        self._update()
        alarms, paused = len(self._board.standing), float(self.paused)
        return {"train/alarms": alarms, "train/paused": paused, **self._pacing.metrics()}

    def pause(self, why: str) -> None:
        """Stop updates, but not the taking in of data; why: in words, for the person."""
        if not self.paused:
            self.paused = True
            self._say(f"updates are paused {why}; `hilserl control resume` goes on, data are taken in")
            self._tell()

    def resume(self) -> None:
        """Update again, whatever alarms stand: one that was seen does not pause a second time."""
        if self.paused:
            self.paused = False
            self._pacing.reset()
            self._say("updates go on")
            self._tell()

    def _update(self) -> None:
        collapsing = self.guard.alarms
        raised, cleared = self._board.update((*collapsing, *self._pacing.alarms))
        for alarm in raised:
            self._say(f"ALARM {alarm.name}: {alarm.message}")
        for alarm in cleared:
            self._say(f"alarm {alarm.name} is over")
        if self._auto_pause and (new := {a.name for a in raised} & {a.name for a in collapsing}):
            self.pause(f"because of {' and '.join(sorted(new))} (run.auto_pause)")
        self._tell()

    def _tell(self) -> None:
        pace = self._pacing.pace
        ratio = None if pace is None or math.isnan(pace.ratio) else pace.ratio
        self._report(self._board.standing, self.paused, ratio)
