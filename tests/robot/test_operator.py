from __future__ import annotations

import numpy as np
import pytest

from hilserl.reward import OracleReward
from hilserl.rollout import HoldStill, rollout
from hilserl.types import End
from robot.twin.operator import PERFECT, Corrector, Demonstrator, Hands, Patience
from robot.types import ArmState
from tests.fakes.body import LIFT, Body, Plays, Tape, action

MAX_STEPS = round(LIFT.control_time_s * LIFT.fps)


def episodes(body: Body, teleop, policy, seeds) -> list[End]:
    reward = OracleReward(body.twin.lifted, LIFT.success, LIFT.fps)
    return [
        rollout(env=body.env, policy=policy, teleop=teleop, reward=reward, seed=seed, max_steps=MAX_STEPS).end
        for seed in seeds
    ]


@pytest.mark.parametrize("hands", [PERFECT, Hands()], ids=["perfect", "human"])
def test_a_scripted_pick_succeeds_with_every_size_and_yaw(hands):
    body = Body()
    operator = Demonstrator(body.twin.world, LIFT.action_scale, hands)
    ends = episodes(body, operator, HoldStill(), range(100))
    assert ends.count(End.SUCCESS) >= 95


def test_the_same_seed_gives_the_same_demonstration_and_another_seed_another():
    def demonstrated(seed: int) -> np.ndarray:
        body, tape = Body(), Tape()
        rollout(
            env=body.env,
            policy=HoldStill(),
            teleop=Demonstrator(body.twin.world, LIFT.action_scale, Hands()),
            reward=OracleReward(body.twin.lifted, LIFT.success, LIFT.fps),
            seed=seed,
            max_steps=15,
            listeners=(tape,),
        )
        return np.array([step.action for step in tape.steps])

    np.testing.assert_array_equal(demonstrated(7), demonstrated(7))
    assert np.abs(demonstrated(7) - demonstrated(8)).max() > 0.1


def test_human_hands_pause_shake_and_know_three_thumb_positions():
    body = Body()
    body.env.reset(0)
    operator = Demonstrator(body.twin.world, LIFT.action_scale, Hands())
    operator.reset(0)
    state = body.env.state
    said = np.array([operator.read(state).action for _ in range(200)])
    assert set(np.unique(said[:, 3])) <= {-1.0, 0.0, 1.0}
    still = ~said.any(axis=1)
    assert 0.05 < still.mean() < 0.5
    assert said[~still][5:, :3].std(axis=0).min() > 0.03
    assert np.abs(said).max() <= 1.0


class Watched:
    """A corrector among episodes in which the policy does `policy`; counts the helped steps of each."""

    def __init__(self, patience: Patience, first_episode: int = 0, steps: int = 40) -> None:
        self.body = Body()
        self.steps = steps
        self.corrector = Corrector(self.body.twin.world, LIFT.action_scale, Hands(), patience, first_episode)

    def helped(self, policy, seed: int) -> np.ndarray:
        tape = Tape()
        rollout(
            env=self.body.env,
            policy=policy,
            teleop=self.corrector,
            reward=OracleReward(lambda: False, LIFT.success, LIFT.fps),
            seed=seed,
            max_steps=self.steps,
            listeners=(tape,),
        )
        return np.array([step.intervention for step in tape.steps])


def runs(helped: np.ndarray) -> list[int]:
    """Lengths of the unbroken stretches of help."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], helped.astype(int), [0]])))
    return list(edges[1::2] - edges[::2])


def test_a_dawdling_policy_is_helped_in_short_corrections_after_some_patience():
    patience = Patience(rate=1.0, episodes=1_000_000, dawdle_steps=10, help_steps=(5, 15))
    watched = Watched(patience, steps=60)
    for seed in range(3):
        helped = watched.helped(HoldStill(), seed)
        assert not helped[:10].any() and helped.any() and not helped.all()
        assert all(5 <= length <= 15 for length in runs(helped)[:-1]) and max(runs(helped)) <= 15


def test_a_policy_that_gets_on_with_it_is_left_alone():
    body_script = Watched(Patience(rate=1.0, episodes=1_000_000), steps=20)
    expert = Demonstrator(body_script.body.twin.world, LIFT.action_scale, PERFECT)

    class Expert(Plays):
        def reset(self) -> None:
            expert.reset(0)

        def act(self, obs):
            state = ArmState(obs.state[:6], obs.state[6:12], 0.0)
            return expert.read(state).action

    assert sum(body_script.helped(Expert(), seed).sum() for seed in range(3)) == 0


def test_the_budget_of_help_shrinks_to_nothing_and_survives_a_restart():
    patience = Patience(rate=0.8, episodes=4)
    watched = Watched(patience)
    rates, helped = [], []
    for seed in range(6):
        helped.append(watched.helped(HoldStill(), seed).sum())
        rates.append(watched.corrector.rate)
    np.testing.assert_allclose(rates, [0.8, 0.6, 0.4, 0.2, 0.0, 0.0])
    assert helped[0] > 0 and helped[4] == helped[5] == 0
    resumed = Watched(patience, first_episode=3)
    resumed.corrector.reset(0)
    assert resumed.corrector.rate == pytest.approx(0.2)


def test_letting_go_is_silence():
    watched = Watched(Patience(rate=0.0, episodes=10))
    watched.body.env.reset(0)
    watched.corrector.reset(0)
    for _ in range(30):
        said = watched.corrector.read(watched.body.env.state)
        assert said.action is None and said.event is None
    assert action().sum() == 0.0
