"""Who drives: every transition of what is shown, alone and while a policy and a person act at once."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.config import SuccessConfig
from hilserl.display import LiveLine
from hilserl.reward import ButtonReward
from hilserl.rollout import rollout
from hilserl.types import Obs, Step
from robot.modes import Mode, Signs, mode_line, mode_of
from robot.types import Operator
from tests.fakes.body import LIFT, Body, Plays, Says, action, at

ALL = [Signs(*signs) for signs in product([False, True], repeat=5)]
DRIVEN = {Mode.RECORD, Mode.POLICY, Mode.TAKE_OVER}
SEEN = Obs({}, np.zeros(18, np.float32))


@pytest.mark.parametrize("signs", ALL, ids=str)
def test_somebody_drives_only_an_arm_that_plays_freely_and_the_person_comes_first(signs):
    mode = mode_of(signs)
    free = signs.torque and signs.playing and not signs.holding
    assert (mode in DRIVEN) == free
    assert (mode is Mode.PARKED) == (not signs.torque)
    assert (mode is Mode.RECORD) == (free and signs.recording)
    assert (mode is Mode.TAKE_OVER) == (free and signs.human and not signs.recording)
    told = mode_line(signs, {"follower": signs.torque})
    assert ("policy drives" in told) == (mode is Mode.POLICY)
    assert ("operator drives" in told) == (free and signs.human)


class Stage:
    """A live line and everything it depends on."""

    def __init__(self, recording: bool) -> None:
        self.shown, self.now = "", Signs(False, False, False, recording, False)
        self.line = LiveLine(
            self._show,
            lambda: {"follower": self.now.torque, "leader": False},
            lambda: self.now.holding,
            recording=recording,
        )

    def _show(self, text: str) -> None:
        self.shown = text

    def go(self, signs: Signs) -> str:
        """What is shown once things are so."""
        self.now = signs
        if signs.playing:
            self.line.step(Step(np.zeros(4, np.float32), 0.0, signs.human, SEEN, None))
        else:
            self.line.rest()
        return self.shown


@pytest.mark.parametrize("recording", [False, True])
def test_each_transition_shows_where_it_led_and_each_arms_torque(recording):
    able = [one for one in ALL if one.recording == recording and (one.playing or not one.human)]
    seen = set()
    for before, after in product(able, able):
        stage = Stage(recording)
        first, then = stage.go(before), stage.go(after)
        for signs, shown in ((before, first), (after, then)):
            assert f"{mode_of(signs).value.upper()}: " in shown
            assert f"follower torque {'on' if signs.torque else 'off'}, leader torque off" in shown
        seen.add((mode_of(before), mode_of(after)))
    reached = DRIVEN - ({Mode.POLICY, Mode.TAKE_OVER} if recording else {Mode.RECORD})
    modes = reached | {Mode.PARKED, Mode.HOLD}
    assert seen == set(product(modes, modes)), "every transition was made"


BODY = Body(at(LIFT, 0.22, 0.0, 0.10))


@settings(max_examples=15)
@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_while_both_act_the_one_that_is_shown_is_the_one_that_is_obeyed(taken):
    """The policy wants up in every step; the person, in some, at the same time down."""
    up, down, shown, done = action(0, 0, 1), action(0, 0, -1), [], []
    line = LiveLine(shown.append, lambda: {"follower": True}, lambda: False, recording=False)

    class Obeyed:
        def begin(self, obs: Obs) -> None:
            shown.clear()

        def step(self, step: Step) -> None:
            done.append(step.action[2])

    rollout(
        env=BODY.env,
        policy=Plays(*[up] * len(taken)),
        teleop=Says(*[Operator(down if hand else None) for hand in taken]),
        reward=ButtonReward(SuccessConfig()),
        seed=0,
        max_steps=len(taken),
        listeners=(line, Obeyed()),
    )
    assert done == [-1.0 if hand else 1.0 for hand in taken]
    assert [("TAKE-OVER" in text, "POLICY" in text) for text in shown] == [(hand, not hand) for hand in taken]
