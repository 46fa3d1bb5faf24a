"""THE interaction loop: training, demonstrations and evaluation all play episodes here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hilserl.env import Env
from hilserl.types import ACTION_SIZE, End, Obs, Step
from robot.errors import CommandRefused, ResetStopped, ServoUnwell, TorqueLost
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
    """Scores each step. score: (reward, how the episode ends or None); helped: the operator played the step.

    judge: its name, "" where it leaves the verdict to the operator's buttons. success_reward: what a success
    pays, whoever calls it. overrule_steps: control periods the arm holds still after a verdict of its own, in
    which the operator may still overrule it. facts: about its judging of this episode, worth storing.
    """

    @property
    def judge(self) -> str: ...

    @property
    def success_reward(self) -> float: ...

    @property
    def overrule_steps(self) -> int: ...

    def reset(self) -> None: ...

    def score(self, obs: Obs, helped: bool) -> tuple[float, End | None]: ...

    def facts(self) -> Mapping[str, float | str]: ...


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
    """What came of one episode. interventions: steps the operator played; facts: about start and verdict.

    Where somebody called its end, facts hold JUDGE: OPERATOR or the reward's name; and where the operator's
    button contradicted the reward, OVERRULED: what that had called at this step, "success" or "none".
    """

    end: End
    steps: int
    total_reward: float
    interventions: int
    clipped_steps: int
    stopped: bool
    facts: dict[str, float | str]
    fault: str = ""
    """Why the arm refused to go on, where it did."""


JUDGE = "judge"
OVERRULED = "overruled"
OPERATOR = "operator"
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
    should_stop: Callable[[], bool] = lambda: False,
) -> Played:
    """Play one episode.

    The operator's hand replaces the policy's action in the same step; his buttons end the episode and
    overrule the reward. Without help_allowed only his buttons count. STOP and should_stop end it as
    DISCARDED: half an episode is not an episode. A refused command, a servo that is unwell and one that lost
    its torque end it as FAULT; other errors of the body and of the reward pass through. It begins when the
    arm is well.
    """
    if not env.await_arm(should_stop):
        return Played(End.DISCARDED, 0, 0.0, 0, 0, True, {})
    try:
        obs, facts = env.reset(seed, lambda: should_stop() or teleop.stop_asked())
    except ResetStopped:
        return Played(End.DISCARDED, 0, 0.0, 0, 0, True, {})
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
        except (CommandRefused, ServoUnwell, TorqueLost) as error:
            # The arm holds: what was played so far is good data.
            end, fault = End.FAULT if steps else End.DISCARDED, str(error)
            break
        steps += 1
        value, end = reward.score(obs, helped)
        if end is not None and operator.event not in _ENDS:
            operator = _last_word(env, teleop, operator, reward.overrule_steps)
            stopped = operator.event is Event.STOP
        end, value, verdict = _verdict(operator, end, value, reward)
        facts |= verdict
        if end is None and steps >= max_steps:
            end = End.TIMEOUT
        total += value
        interventions += helped
        step = Step(action, value, helped, obs, end)
        for listener in listeners:
            listener.step(step)
    facts |= reward.facts()
    return Played(end, steps, total, interventions, env.clipped_steps, stopped, facts, fault)


def _last_word(env: Env, teleop: Teleop, operator: Operator, periods: int) -> Operator:
    """What the operator says of the reward's verdict while the arm holds still; `operator` where nothing."""
    for _ in range(periods):
        env.hold()
        said = teleop.read(env.state)
        if said.event is not None:
            return Operator(operator.action, said.event)
    return operator


def _verdict(
    operator: Operator, end: End | None, value: float, reward: Reward
) -> tuple[End | None, float, dict[str, str]]:
    """How the step ends the episode, what it pays, and who says so.

    The operator's button wins against the reward.
    """
    if operator.event is Event.STOP:
        return End.DISCARDED, value, {}
    if operator.event not in _ENDS:
        return end, value, {} if end is None else {JUDGE: reward.judge}
    said = _ENDS[operator.event]
    facts = {JUDGE: OPERATOR}
    if (said is End.SUCCESS) == (end is End.SUCCESS):
        return said, value, facts
    if reward.judge:
        facts[OVERRULED] = "none" if end is None else end.value
    paid = reward.success_reward
    return said, value + paid if said is End.SUCCESS else value - paid, facts
