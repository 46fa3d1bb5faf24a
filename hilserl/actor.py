"""The actor's loop: newest weights between episodes, play, commit or discard, report."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from hilserl.env import Env, Timing
from hilserl.episode import EpisodeHeader
from hilserl.rollout import HoldStill, Listener, Played, Policy, Reward, rollout
from hilserl.types import End, Obs, Role, Step, Weights
from robot.errors import BusError, CommandRefused, RobotError, WatchdogLost
from robot.types import Teleop

MAX_FAULTS = 3
"""Episodes in a row that may end in a fault of the body before the actor gives up."""
EVAL_SEED = 10_000_000
"""Evaluation seeds start here; training seeds stay below."""


class Link(Protocol):
    """The way to the learner."""

    @property
    def next_episode_number(self) -> int: ...

    def begin(self, header: EpisodeHeader, obs: Obs) -> None: ...

    def step(self, step: Step) -> None: ...

    def end(self, end: End, info: Mapping[str, float | str] | None = None) -> None: ...

    def weights(self, newer_than: int | None = None) -> Weights | None: ...

    def wait_weights(self, timeout_s: float | None = None) -> Weights | None: ...

    def progress(self) -> tuple[int, int]: ...

    def wait_updates(self, updates: int, timeout_s: float | None = None) -> bool: ...

    def wait_sent(self, but: int, timeout_s: float) -> bool: ...


class LoadablePolicy(Policy, Protocol):
    """A policy whose weights can be replaced between episodes, and that can act deterministically."""

    deterministic: bool

    def load(self, weights: Mapping[str, NDArray[Any]]) -> None: ...


@dataclass(frozen=True, slots=True)
class EpisodeReport:
    """One played episode, for display and logs. number: the actor's episode counter."""

    number: int
    role: Role
    policy_version: int
    played: Played
    timing: Timing
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an actor does. pace: updates per transition to wait for, 0 on a real arm (never slowed).

    wait_for_weights: the learner has demonstrations and will publish a policy soon, so wait for it.

    Every eval_every training episodes, eval_episodes held-out, help-free, deterministic ones are played
    (0: never).
    """

    actor: str
    task_hash: str
    seed: int
    max_steps: int
    max_episodes: int
    wait_for_weights: bool
    pace: int = 0
    eval_every: int = 0
    eval_episodes: int = 20
    info: Mapping[str, str] = field(default_factory=dict)
    """Facts about the session, stored with every episode."""


def training_seed(plan: Plan, number: int) -> int:
    """Seed of the actor's training episode `number`: another for each, always below EVAL_SEED.

    Actors of the same configuration but another name start elsewhere, so that they do not play the same.
    """
    start = plan.seed * 100_000 + zlib.crc32(plan.actor.encode())
    return (start + number) % EVAL_SEED


class _Sender:
    """A rollout listener that hands the episode to the link while it is played."""

    def __init__(self, link: Link, header: EpisodeHeader) -> None:
        self._link, self._header, self.begun, self.steps = link, header, False, 0

    def begin(self, obs: Obs) -> None:
        self._link.begin(self._header, obs)
        self.begun = True

    def step(self, step: Step) -> None:
        self.steps += 1
        self._link.step(step)


class Actor:
    """Plays episodes for one learner.

    Without weights, and not told to wait for them, the arm holds still and the operator may demonstrate by
    taking over: that is how a learner without demonstrations gets its first ones.

    report hears of each episode when it is over, the listeners of each step while it is played.
    """

    def __init__(
        self,
        *,
        env: Env,
        policy: LoadablePolicy,
        teleop: Teleop,
        reward: Reward,
        link: Link,
        plan: Plan,
        report: Callable[[EpisodeReport], None],
        should_stop: Callable[[], bool],
        listeners: tuple[Listener, ...] = (),
    ) -> None:
        self._listeners = listeners
        self._env, self._policy, self._teleop, self._reward = env, policy, teleop, reward
        self._link, self._plan, self._report, self._should_stop = link, plan, report, should_stop
        self._version = 0
        self._faults = 0

    def run(self) -> None:
        """Play until max_episodes, a STOP button or should_stop().

        Raises RobotError when the body failed MAX_FAULTS episodes in a row.
        """
        self._await_weights()
        played = 0
        while played < self._plan.max_episodes and not self._should_stop():
            if not self._episode(Role.TRAIN, training_seed(self._plan, self._link.next_episode_number)):
                return
            played += 1
            if self._plan.eval_every and played % self._plan.eval_every == 0 and not self._evaluate():
                return
            self._keep_pace()

    def _evaluate(self) -> bool:
        """Play the held-out episodes with one policy version. False when the operator stopped."""
        self._take_weights()
        if not self._version:
            return True  # there is no policy to judge yet
        self._policy.deterministic = True
        try:
            for index in range(self._plan.eval_episodes):
                if self._should_stop() or not self._episode(Role.EVAL, EVAL_SEED + index):
                    return False
        finally:
            self._policy.deterministic = False
        return True

    def _episode(self, role: Role, seed: int) -> bool:
        if role is Role.TRAIN:
            self._take_weights()
        plan, number = self._plan, self._link.next_episode_number
        facts: dict[str, float | str] = dict(plan.info)
        sender = _Sender(
            self._link, EpisodeHeader(plan.actor, number, role, self._version, seed, plan.task_hash, facts)
        )
        played, fault = Played(End.DISCARDED, 0, 0.0, 0, 0, False, {}), ""
        try:
            played = rollout(
                env=self._env,
                policy=self._policy if self._version else HoldStill(),
                teleop=self._teleop,
                reward=self._reward,
                seed=seed,
                max_steps=plan.max_steps,
                listeners=(sender, *self._listeners),
                help_allowed=role is not Role.EVAL,
                should_stop=self._should_stop,
            )
            fault = played.fault
            self._faults = self._faults + 1 if fault and not played.steps else 0
        except RobotError as error:
            fault = f"{type(error).__name__}: {error}"
            # A cable that is out is waited for: only an arm that cannot begin counts.
            self._faults = 0 if isinstance(error, BusError) and sender.steps else self._faults + 1
            if self._faults >= MAX_FAULTS or isinstance(error, WatchdogLost):
                raise
        finally:
            if sender.begun:
                self._link.end(played.end, played.facts)
        if self._faults >= MAX_FAULTS:
            raise CommandRefused(f"{self._faults} episodes in a row ended before their first step: {fault}")
        self._report(EpisodeReport(number, role, self._version, played, self._env.timing, fault))
        return not played.stopped

    def _await_weights(self) -> None:
        while self._plan.wait_for_weights and not self._version and not self._should_stop():
            self._link.wait_weights(0.5)
            self._env.await_arm(self._should_stop)  # it holds meanwhile: its heat is watched
            self._take_weights()

    def _take_weights(self) -> None:
        weights = self._link.weights(newer_than=self._version or None)
        if weights is not None:
            self._policy.load(weights.tensors)
            self._version = weights.version

    def _keep_pace(self) -> None:
        """Lock-step only: wait until the learner is at most one episode behind its updates.

        While the learner is away nothing is played: what it has not got cannot be learned from.
        """
        if not self._plan.pace or not self._version:
            return
        while not self._should_stop() and not self._link.wait_sent(1, timeout_s=0.5):
            pass
        transitions, _ = self._link.progress()
        due = self._plan.pace * max(0, transitions - self._plan.max_steps)
        while not self._should_stop() and not self._link.wait_updates(due, timeout_s=0.5):
            pass
