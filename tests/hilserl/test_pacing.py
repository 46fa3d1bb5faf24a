"""The watch on the pace: says when learning falls behind and why, never because data come in lumps."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.metrics import check_metrics
from hilserl.pacing import NO_TRANSITIONS, UPDATES_BEHIND, WINDOW_S, PacingWatch, Work

UTD = 20


class Machine:
    """A learner in simulated time: episodes come, and updates are done as fast as it can, within budget."""

    def __init__(
        self,
        *,
        update_s: float,
        episode_s: float = 10.0,
        pause_s: float = 5.0,
        fps: float = 10.0,
        encode_s: float = 0.0,
        lost_share: float = 0.0,
        utd: int = UTD,
        actors: tuple[str, ...] = ("robot",),
    ) -> None:
        self.now_s, self.next_episode_s = 0.0, episode_s
        self.update_s, self.episode_s, self.pause_s, self.fps = update_s, episode_s, pause_s, fps
        self.encode_s, self.lost, self.utd, self.actors = encode_s, lost_share, utd, actors
        self.work: dict[str, float] = dict.fromkeys(Work.__slots__, 0)
        self.watch = PacingWatch(utd_ratio=utd, batch=256, episode_s=episode_s, clock=lambda: self.now_s)
        self.raised: set[str] = set()

    @property
    def owing(self) -> bool:
        return self.work["updates"] + 1 <= self.utd * self.work["transitions"]

    def run(self, seconds: float, data: bool = True) -> "Machine":
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            while self.now_s >= self.next_episode_s:
                self.next_episode_s += self.episode_s + self.pause_s
                if data:
                    steps = round(self.episode_s * self.fps)
                    self.work["transitions"] += steps
                    self.work["episodes"] += 1
                    self.work["frames"] += steps
                    self.work["encode_s"] += steps * self.encode_s
                    self.now_s += steps * self.encode_s
            if self.owing:
                done = min(5, self.utd * self.work["transitions"] - self.work["updates"])
                self.work["updates"] += done
                self.work["update_s"] += done * self.update_s
                self.work["sample_s"] += done * self.update_s / 10
                self.now_s += done * self.update_s / (1 - self.lost)
            else:
                self.now_s += 0.2
            self.watch.look(Work(**self.work), owing=self.owing, actors=self.actors)
            self.raised |= {alarm.name for alarm in self.watch.alarms}
        return self

    @property
    def load(self) -> float:
        """Share of the time that the promised ratio would take."""
        steps = self.episode_s * self.fps
        busy_s = steps * (self.utd * self.update_s / (1 - self.lost) + self.encode_s)
        return busy_s / (self.episode_s + self.pause_s)


@settings(max_examples=25, deadline=None)
@given(
    load=st.floats(0.02, 1.0),
    episode_s=st.floats(1, 90),
    pause_s=st.floats(0, 40),
    utd=st.integers(1, 30),
)
def test_a_machine_that_keeps_up_is_never_called_slow(load, episode_s, pause_s, utd):
    update_s = load * (episode_s + pause_s) / (utd * episode_s * 10)
    machine = Machine(update_s=update_s, episode_s=episode_s, pause_s=pause_s, utd=utd)
    assert machine.load == pytest.approx(load)
    assert UPDATES_BEHIND not in machine.run(400).raised


@settings(max_examples=25, deadline=None)
@given(load=st.floats(2.6, 20), episode_s=st.floats(1, 30), pause_s=st.floats(0, 10), utd=st.integers(1, 30))
def test_a_machine_that_is_far_too_slow_is_found_within_minutes(load, episode_s, pause_s, utd):
    update_s = load * (episode_s + pause_s) / (utd * episode_s * 10)
    machine = Machine(update_s=update_s, episode_s=episode_s, pause_s=pause_s, utd=utd)
    machine.run(3 * WINDOW_S + 5 * episode_s + 20 * update_s)
    assert UPDATES_BEHIND in machine.raised


def alarm_of(machine: Machine) -> str:
    (alarm,) = machine.watch.alarms
    assert alarm.name == UPDATES_BEHIND and alarm.limit == UTD / 2 and alarm.value < alarm.limit
    return alarm.message


def test_the_reason_and_the_remedy_are_numbers_of_this_machine():
    machine = Machine(update_s=1 / 30).run(300)
    message = alarm_of(machine)
    assert "compute is the limit" in message and "33.3 ms (3.3 ms of it sampling), so at most 30/s" in message
    advised = int(re.search(r"utd_ratio=(\d+)", message)[1])
    assert UPDATES_BEHIND not in Machine(update_s=1 / 30, utd=advised).run(400).raised
    assert Machine(update_s=1 / 30, utd=advised).load < 1.05 < Machine(update_s=1 / 30, utd=advised + 2).load


def test_encoding_and_other_programs_are_told_apart():
    assert "encoding arriving pictures" in alarm_of(Machine(update_s=0.02, encode_s=0.11).run(300))
    message = alarm_of(Machine(update_s=0.02, lost_share=0.8).run(300))
    assert re.search(r"(79|80|81) % of the time goes to neither", message)


def test_a_machine_too_slow_for_one_update_per_transition_is_not_told_zero():
    message = alarm_of(Machine(update_s=1.0).run(400))
    assert "utd_ratio=1:" in message and "utd_ratio=0" not in message


def test_the_alarm_ends_when_the_pace_is_back():
    machine = Machine(update_s=1 / 30).run(300)
    alarm_of(machine)
    machine.update_s = 1 / 3000
    machine.run(120)
    assert not machine.watch.alarms


def test_silence_is_an_alarm_only_while_an_actor_is_there():
    machine = Machine(update_s=0.001).run(60).run(600, data=False)
    (alarm,) = machine.watch.alarms
    assert alarm.name == NO_TRANSITIONS and "robot" in alarm.message and alarm.value > alarm.limit
    assert not machine.run(30).watch.alarms, "an episode came"
    alone = Machine(update_s=0.001, actors=()).run(600, data=False)
    alone.actors = ("robot",)
    assert not alone.run(30, data=False).raised, "it has only just come"


@pytest.mark.parametrize("episode_s", [5.0, 60.0])
def test_silence_is_no_alarm_within_some_episodes_or_while_the_learner_owes(episode_s):
    machine = Machine(update_s=0.0001, episode_s=episode_s).run(3 * episode_s)
    machine.run(WINDOW_S + episode_s, data=False)
    assert NO_TRANSITIONS not in machine.raised
    busy = Machine(update_s=1.0).run(30).run(900, data=False)  # an actor that keeps pace waits all the while
    assert busy.owing and NO_TRANSITIONS not in busy.raised


def test_a_pause_is_not_slowness():
    machine = Machine(update_s=1 / 200).run(WINDOW_S)
    machine.now_s += 300.0  # data went on coming
    machine.watch.reset()
    assert machine.watch.metrics() == {}
    machine.run(3)
    assert machine.watch.metrics()["time/updates_per_s"] == pytest.approx(200, rel=0.02)
    assert not machine.run(50).raised


def test_a_backlog_worked_off_within_a_minute_is_not_slowness():
    machine = Machine(update_s=1 / 300, episode_s=1000.0).run(120)
    machine.work["transitions"] += 600  # an actor that was away sends what it kept
    assert not machine.run(300).raised


def test_metrics_are_in_the_glossary_and_leave_out_what_cannot_be_known():
    machine = Machine(update_s=0.001)
    assert machine.watch.metrics() == {}
    machine.run(3)
    values = machine.watch.metrics()
    check_metrics(values)
    assert "train/update_ms" not in values and values["time/updates_per_s"] == 0.0
    machine.run(57)
    values = machine.watch.metrics()
    check_metrics(values)
    assert values["train/update_ms"] == pytest.approx(1.0)
    assert values["train/updates_per_transition_minute"] == pytest.approx(UTD, rel=0.01)
