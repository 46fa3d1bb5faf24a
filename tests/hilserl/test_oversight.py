"""Oversight: each alarm told once, a pause that only a person ends, a status that is what stands."""

import pytest

from hilserl.alarms import SUCCESS_DROPPED, VALUE_ABOVE_BOUND, Alarm, CollapseGuard
from hilserl.config import PolicyConfig
from hilserl.metrics import check_metrics
from hilserl.oversight import Oversight
from hilserl.pacing import NO_TRANSITIONS, UPDATES_BEHIND, PacingWatch, Work
from hilserl.types import End
from tests.fakes.episodes import short_episode


class Bench:
    def __init__(self, auto_pause: bool = False) -> None:
        self.now_s, self.said, self.told = 0.0, [], []
        guard = CollapseGuard(PolicyConfig())
        pacing = PacingWatch(utd_ratio=20, batch=256, episode_s=10.0, clock=lambda: self.now_s)
        self.seen = Oversight(
            guard,
            pacing,
            auto_pause=auto_pause,
            say=self.said.append,
            report=lambda *told: self.told.append(told),
        )

    def rows(self, start: int, q_max: float) -> dict[str, float]:
        """A thousand updates with values this large; the last row's numbers."""
        for updates in range(start, start + 1001, 100):
            values = {"time/updates": updates, "train/critic_q_max": q_max, "train/critic_q_bound": 1.0}
            added = self.seen.row(values, {})
            check_metrics(added)
        return added

    def standing(self) -> list[str]:
        alarms, _, _ = self.told[-1]
        assert all(isinstance(alarm, Alarm) for alarm in alarms)
        return [alarm.name for alarm in alarms]

    def paused(self) -> bool:
        assert self.told[-1][1] == self.seen.paused
        return self.seen.paused


def test_an_alarm_is_told_once_when_it_rises_and_once_when_it_ends():
    bench = Bench()
    added = bench.rows(0, 9.0)
    assert added["train/alarms"] == 1 and bench.standing() == [VALUE_ABOVE_BOUND]
    bench.rows(1100, 9.0)
    assert len(bench.said) == 1 and bench.said[0].startswith(f"ALARM {VALUE_ABOVE_BOUND}: ")
    assert bench.rows(2200, 1.0)["train/alarms"] == 0
    assert bench.standing() == [] and bench.said[1:] == [f"alarm {VALUE_ABOVE_BOUND} is over"]
    assert not bench.paused()


def test_a_collapse_pauses_until_a_person_resumes_and_then_not_again():
    bench = Bench(auto_pause=True)
    assert bench.rows(0, 9.0)["train/paused"] == 1 and bench.paused()
    assert VALUE_ABOVE_BOUND in bench.said[-1] and "hilserl control resume" in bench.said[-1]
    bench.seen.resume()
    assert not bench.paused() and bench.standing() == [VALUE_ABOVE_BOUND], "resuming does not deny it"
    assert bench.rows(1100, 9.0)["train/paused"] == 0
    for success in [True] * 120 + [False] * 60:
        bench.seen.episode(short_episode(2, end=End.SUCCESS if success else End.TIMEOUT))
    bench.seen.row({"time/updates": 2200.0}, {})
    assert bench.paused() and SUCCESS_DROPPED in bench.said[-1] and VALUE_ABOVE_BOUND not in bench.said[-1]


@pytest.mark.parametrize("owing", [True, False])
def test_pace_is_told_but_never_pauses(owing):
    bench = Bench(auto_pause=True)
    for second in range(400):
        bench.now_s = float(second)
        transitions = 10 * second if owing else 0
        bench.seen.look(Work(transitions=transitions, updates=second), owing=owing, actors=["robot"])
    assert bench.standing() == [UPDATES_BEHIND if owing else NO_TRANSITIONS]
    assert not bench.paused() and len(bench.said) == 1
    assert bench.told[-1][2] == (pytest.approx(0.1) if owing else None)


def test_a_paused_learner_is_not_called_slow_nor_one_that_goes_on():
    bench = Bench()

    def seconds(start: int, end: int) -> None:
        for second in range(start, end):
            bench.now_s = float(second)
            bench.seen.look(Work(transitions=10 * second), owing=True, actors=["robot"])

    bench.seen.pause("by a person")
    bench.seen.pause("by another")
    assert len(bench.said) == 1 and bench.paused()
    seconds(0, 400)
    assert len(bench.said) == 1
    bench.seen.resume()
    bench.seen.resume()
    assert len(bench.said) == 2 and not bench.paused()
    seconds(400, 600)
    assert bench.standing() == [UPDATES_BEHIND]
    bench.seen.pause("by a person")
    seconds(600, 700)
    bench.seen.resume()
    seconds(700, 702)
    assert bench.standing() == [], "it is judged anew"
