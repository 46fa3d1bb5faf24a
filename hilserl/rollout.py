"""THE interaction loop: training, demonstrations and evaluation all play episodes here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hilserl.env import Env
from hilserl.types import ACTION_SIZE, End, Obs, Step
from robot.errors import CommandRefused
from robot.types import F32, Event, Operator, Teleop


class Policy(Protocol):
    """Anything that acts.

    Every observation of an episode goes to `act`, which answers with an action (4,) in [-1, 1], or, while
    the operator acts, to `observe`, so that a policy with a history misses none.
    """

    def reset(self) -> None: ...

    def observe(self, obs: Obs) -> None: ...

    def act(self, obs: Obs) -> F32: ...


class Reward(Protocol):
    """Scores each step. score: (reward, how the episode ends or None)."""

    def reset(self) -> None: ...

    def score(self, obs: Obs) -> tuple[float, End | None]: ...


class Listener(Protocol):
    """Hears of an episode while it is played."""

    def begin(self, obs: Obs) -> None: ...

    def step(self, step: Step) -> None: ...


class HoldStill:
    """The policy of demonstrations: it does nothing, the operator does everything."""

    def reset(self) -> None:
        """Nothing to forget."""

    def observe(self, obs: Obs) -> None:
        """Nothing to remember."""

    def act(self, obs: Obs) -> F32:
        """The zero action: hold the hand, hold the gripper."""
        return np.zeros(ACTION_SIZE, np.float32)


@dataclass(frozen=True, slots=True)
class Played:
    """What came of one episode. facts: about its start; interventions: steps the operator played."""

    end: End
    steps: int
    total_reward: float
    interventions: int
    clipped_steps: int
    stopped: bool
    facts: dict[str, float | str]
    fault: str = ""
    """Why the arm refused to go on, where it did."""


_ENDS = {Event.SUCCESS: End.SUCCESS, Event.FAILURE: End.FAILURE, Event.DISCARD: End.DISCARDED}


def rollout(
    *,
    env: Env,
    policy: Policy,
    teleop: Teleop,
    reward: Reward,
    seed: int,
    max_steps: int,
    listeners: tuple[Listener, ...] = (),
    help_allowed: bool = True,
    success_reward: float = 1.0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Played:
    """Play one episode.

    The operator's hand replaces the policy's action in the same step; his buttons end the episode and
    overrule the reward. Without help_allowed only his buttons count. STOP and should_stop end it as
    DISCARDED: half an episode is not an episode. A refused command ends it as FAULT; other errors of the body
    pass through.
    """
    obs, facts = env.reset(seed)
    policy.reset()
    reward.reset()
    teleop.reset(seed)
    for listener in listeners:
        listener.begin(obs)
    total, interventions, steps = 0.0, 0, 0
    end: End | None = None
    stopped, fault = False, ""
    while end is None:
        operator = teleop.read(env.state)
        stopped = operator.event is Event.STOP or should_stop()
        if stopped:
            end = End.DISCARDED
            break
        helped = help_allowed and operator.action is not None
        if helped and operator.action is not None:
            policy.observe(obs)
            action = operator.action
        else:
            action = policy.act(obs)
        try:
            obs = env.step(action)
        except CommandRefused as error:
            # The body is well and its guard holds it: what was played so far is good data.
            end, fault = End.FAULT if steps else End.DISCARDED, str(error)
            break
        steps += 1
        value, end = reward.score(obs)
        end, value = _overruled(operator, end, value, success_reward)
        if end is None and steps >= max_steps:
            end = End.TIMEOUT
        total += value
        interventions += helped
        step = Step(action, value, helped, obs, end)
        for listener in listeners:
            listener.step(step)
    return Played(end, steps, total, interventions, env.clipped_steps, stopped, facts, fault)


def _overruled(
    operator: Operator, end: End | None, value: float, success_reward: float
) -> tuple[End | None, float]:
    """The operator's button against the automatic verdict: the button wins."""
    if operator.event not in _ENDS:
        return end, value
    verdict = _ENDS[operator.event]
    if end is End.SUCCESS and verdict is not End.SUCCESS:
        value -= success_reward
    if verdict is End.SUCCESS and end is not End.SUCCESS:
        value += success_reward
    return verdict, value
