from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.config import SuccessConfig
from hilserl.reward import ButtonReward, OracleReward
from hilserl.rollout import HoldStill, rollout
from hilserl.types import End
from robot.types import GRIPPER, Event, Operator
from tests.fakes.body import LIFT, Body, Plays, Says, Tape, action, at

BODY = Body(at(LIFT, 0.22, 0.0, 0.10))
BUTTONS = ButtonReward(SuccessConfig())
ACTIONS = st.builds(
    lambda x, y, z, gripper: action(x, y, z, gripper),
    *[st.floats(-1, 1, width=32)] * 3,
    st.sampled_from([-1.0, 0.0, 1.0]),
)


def play(policy=None, teleop=None, reward=BUTTONS, steps=10, body=BODY, **options):
    tape = Tape()
    played = rollout(
        env=body.env,
        policy=policy or HoldStill(),
        teleop=teleop or Says(),
        reward=reward,
        seed=0,
        max_steps=steps,
        listeners=(tape,),
        **options,
    )
    return played, tape


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(ACTIONS, st.one_of(st.none(), ACTIONS)), min_size=1, max_size=8))
def test_the_stored_action_is_the_one_that_was_asked_for_by_whoever_had_the_arm(asked):
    policy = Plays(*[wanted for wanted, _ in asked])
    played, tape = play(policy, Says(*[Operator(hand) for _, hand in asked]), steps=len(asked))
    for step, (wanted, hand) in zip(tape.steps, asked, strict=True):
        np.testing.assert_array_equal(step.action, wanted if hand is None else hand)
        assert step.intervention == (hand is not None)
    assert played.interventions == sum(hand is not None for _, hand in asked)
    assert policy.seen == len(asked)  # a policy with a history misses no observation
    assert played.end is End.TIMEOUT and played.steps == len(tape.obs) - 1 == len(asked)


@pytest.mark.parametrize("who", ["policy", "operator"])
def test_the_gripper_closes_holds_and_opens_in_the_first_episode_and_in_the_fifth(who):
    program = [action(gripper=-1)] * 3 + [action()] * 6 + [action(gripper=1)] * 2 + [action()] * 4
    for episode in range(5):
        policy, teleop = Plays(*program), Says()
        if who == "operator":
            policy, teleop = Plays(*[action(gripper=1)] * 20), Says(*[Operator(step) for step in program])
        _, tape = play(policy, teleop, steps=len(program))
        units = np.array([100 * (obs.state[GRIPPER] + 0.1745) / 1.9199 for obs in tape.obs])
        assert units[0] > 45  # every episode begins open
        assert units[5] < units[0] - 20  # -1 closes, after the commands' delay
        assert np.ptp(units[5:10]) < 1  # 0 holds
        assert units[-1] > units[9] + 20  # +1 opens
        assert np.ptp(units[-3:]) < 1, f"episode {episode}"


def test_everyone_hears_of_a_new_episode_before_its_first_step():
    heard = []

    class Hears(Plays):
        judge, success_reward, overrule_steps = "", 1.0, 0

        def reset(self, *seed: int) -> None:
            heard.append(seed)
            super().reset()

        def read(self, state) -> Operator:
            return Operator()

        def stop_asked(self):
            return False

        def score(self, obs, helped):
            return 0.0, None

        def facts(self):
            return {}

    for seed in (5, 6):
        one = Hears()
        rollout(env=BODY.env, policy=one, teleop=one, reward=one, seed=seed, max_steps=1)
    assert sorted(heard) == [(), (), (), (), (5,), (6,)]


def test_an_episode_ends_at_its_time_and_that_is_not_terminal():
    played, tape = play(steps=7)
    assert (played.end, played.steps, len(tape.steps)) == (End.TIMEOUT, 7, 7)
    assert [step.end for step in tape.steps] == [None] * 6 + [End.TIMEOUT]
    assert not played.end.terminal


def test_success_on_the_last_step_is_success_and_not_a_time_out():
    reward = OracleReward(lambda: True, LIFT.success, LIFT.fps)
    played, tape = play(reward=reward, steps=5)
    assert played.end is End.SUCCESS and played.end.terminal and played.steps == 5
    assert [step.reward for step in tape.steps] == [0.0] * 4 + [1.0]
    assert played.total_reward == 1.0


@pytest.mark.parametrize(
    ("event", "end", "pay"),
    [
        (Event.SUCCESS, End.SUCCESS, 1.0),
        (Event.FAILURE, End.FAILURE, 0.0),
        (Event.DISCARD, End.DISCARDED, 0.0),
    ],
)
@pytest.mark.parametrize("oracle", [False, True])
@pytest.mark.parametrize("help_allowed", [False, True])
def test_the_button_wins_against_any_reward_and_success_is_paid_once(event, end, pay, oracle, help_allowed):
    reward = OracleReward(lambda: True, replace(LIFT.success, hold_s=0.3), 10.0) if oracle else BUTTONS
    says = Says(Operator(), Operator(), Operator(action(0.5), event))
    played, tape = play(teleop=says, reward=reward, help_allowed=help_allowed)
    assert (played.end, played.steps, played.total_reward) == (end, 3, pay)
    assert tape.steps[-1].end is end and tape.steps[-1].intervention is help_allowed
    assert not played.stopped


def test_without_help_the_operators_hand_moves_nothing_and_counts_for_nothing():
    policy = Plays(*[action(z=0.3)] * 5)
    says = Says(*[Operator(action(1.0, 1.0, 1.0, -1.0))] * 5)
    played, tape = play(policy, says, steps=5, help_allowed=False)
    assert played.interventions == 0
    assert all((step.action == action(z=0.3)).all() and not step.intervention for step in tape.steps)


def test_stop_ends_without_another_move_and_leaves_no_episode():
    before = len(BODY.arm.commands)
    played, tape = play(teleop=Says(Operator(event=Event.STOP)))
    assert played.stopped and played.end is End.DISCARDED and not played.end.stored and not tape.steps
    policy = Plays()
    played, tape = play(policy, should_stop=lambda: policy.seen == 2)
    assert played.stopped and played.end is End.DISCARDED and len(tape.steps) == 2
    assert len(BODY.arm.commands) > before


@pytest.mark.parametrize("who", ["the interrupt", "the button"])
@pytest.mark.parametrize("commands", [0, 1, 7])
def test_a_stop_on_the_way_to_the_reset_pose_holds_the_arm_where_it_is(who, commands):
    play(Plays(*[action(x=1, z=1)] * 5))  # away from where the last reset ended
    first = len(BODY.arm.commands)

    def now() -> bool:
        return len(BODY.arm.commands) == first + commands

    class Button(Says):
        def stop_asked(self) -> bool:
            return who == "the button" and now()

    played, tape = play(teleop=Button(), should_stop=lambda: who == "the interrupt" and now())
    assert played.stopped and played.end is End.DISCARDED and played.steps == 0
    assert len(BODY.arm.commands) == first + commands
    assert not tape.obs, "an episode that never began was announced"
    played, tape = play(steps=3)  # the next one finds its way from there
    assert played.end is End.TIMEOUT and len(tape.steps) == 3


def test_a_refused_command_ends_the_episode_and_keeps_what_was_played():
    class Refusing(Plays):
        def act(self, obs):
            if self.seen == 3:
                BODY.arm.refuse = True
            return super().act(obs)

    try:
        played, tape = play(Refusing())
    finally:
        BODY.arm.refuse = False
    assert (played.end, played.steps, len(tape.steps)) == (End.FAULT, 3, 3)
    assert "no further" in played.fault and not played.stopped and not played.end.terminal


def test_taking_over_and_letting_go_change_the_next_step_and_never_jump_the_arm():
    """The same actions, by the policy alone and by turns of policy and operator, give the same commands."""
    rng = np.random.default_rng(3)
    path = [np.clip(rng.normal(0, 0.5, 4), -1, 1).astype(np.float32) for _ in range(30)]
    path += [action(1, 1, 1), action(-1, -1, -1)] * 4

    def commands(policy, teleop) -> np.ndarray:
        BODY.arm.commands.clear()
        play(policy, teleop, steps=len(path))
        return np.array(BODY.arm.commands)[-5 * len(path) :]

    alone = commands(Plays(*path), Says())
    idle = [Operator(step) if index % 3 == 0 else Operator() for index, step in enumerate(path)]
    other = [action(*-step) if index % 3 == 0 else step for index, step in enumerate(path)]
    by_turns = commands(Plays(*other), Says(*idle))
    np.testing.assert_allclose(by_turns, alone, atol=1e-4)
    assert np.abs(np.diff(by_turns, axis=0)).max() < 4.0 / 50  # rad in 20 ms at the guard's 4 rad/s
