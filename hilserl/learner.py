"""The learner's loop: take what arrived, update within the budget, publish, log, save."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hilserl.counters import Counters, Evaluations
from hilserl.pacing import Work
from hilserl.types import End, Episode, Role, Weights

WAIT_S = 0.2
"""How long the loop blocks for an episode when there is nothing else to do."""
PROGRESS_EVERY = 20
"""Updates between two reports of progress to the actors: each wakes their streams."""
ROLLING = 20
"""Episodes a rolling success rate looks back on."""


class Agent(Protocol):
    """What learns. `update` does `critic_updates` optimisation steps on batches of its own sampling.

    sample_s: time spent in sampling so far [s]. large_inputs: see `CollapseGuard.row`.
    """

    @property
    def sample_s(self) -> float: ...

    def update(self, critic_updates: int) -> None: ...

    def weights(self) -> dict[str, NDArray[Any]]: ...

    def metrics(self) -> dict[str, float]: ...

    def large_inputs(self) -> dict[str, int]: ...


class Store(Protocol):
    """Where episodes are kept to learn from. `write` is quick, and returns the transitions taken in."""

    def write(self, episode: Episode, features: NDArray[Any] | None) -> int: ...


class Incoming(Protocol):
    """Arrived episodes with their features, in order of arrival; None when none came within timeout_s [s].

    frames, encode_s: frames encoded so far and the time it took [s], in whichever thread.
    """

    @property
    def frames(self) -> int: ...

    @property
    def encode_s(self) -> float: ...

    def get(self, timeout_s: float) -> tuple[Episode, NDArray[Any] | None] | None: ...


class Publisher(Protocol):
    """The way out to the actors; `actors` names those connected now."""

    def actors(self) -> Sequence[str]: ...

    def publish(self, weights: Weights) -> None: ...

    def progress(self, transitions: int, updates: int) -> None: ...


class Saver(Protocol):
    """The way to the disk. `save` takes a snapshot and returns; `check` raises what went wrong since."""

    def save(self, best: bool) -> None: ...

    def check(self) -> None: ...


class Watch(Protocol):
    """What watches over learning and may pause it; `hilserl.oversight.Oversight` is the one."""

    @property
    def paused(self) -> bool: ...

    def episode(self, episode: Episode) -> None: ...

    def look(self, work: Work, *, owing: bool, actors: Sequence[str]) -> None: ...

    def row(self, values: Mapping[str, float], large_inputs: Mapping[str, int]) -> dict[str, float]: ...


@dataclass(frozen=True, slots=True)
class Budget:
    """How much to learn per transition, and how often to do the rest.

    updates_per_transition is a ceiling, never exceeded; the achieved ratio is logged.
    checkpoint_every counts transitions; push_every and log_every count critic updates.
    """

    updates_per_transition: int
    updates_per_call: int
    push_every: int
    log_every: int
    checkpoint_every: int
    max_transitions: int


class Learner:
    """Runs the loop of one learner.

    learner = Learner(agent=..., store=..., arrivals=..., publisher=..., counters=..., budget=..., ...)
    learner.run(should_stop)

    on_log(values) hears metrics, on_episode(episode) each episode that arrived. idle(updates) is called
    while nothing may be learned and nothing has arrived: it may do a little work, and returns how long to
    wait for an episode then [s].
    """

    def __init__(
        self,
        *,
        agent: Agent,
        store: Store,
        arrivals: Incoming,
        publisher: Publisher,
        saver: Saver,
        watch: Watch,
        counters: Counters,
        budget: Budget,
        on_log: Callable[[Mapping[str, float]], None],
        on_episode: Callable[[Episode], None],
        eval_group: int,
        idle: Callable[[int], float] = lambda _: WAIT_S,
    ) -> None:
        self._agent, self._store, self._arrivals, self._publisher = agent, store, arrivals, publisher
        self.counters, self._budget, self._saver, self._watch = counters, budget, saver, watch
        self._idle, self._update_s, self._heard = idle, 0.0, 0
        self._on_log, self._on_episode = on_log, on_episode
        self._eval_group = eval_group
        self._evaluations = Evaluations()
        self._recent: deque[tuple[float, float]] = deque(maxlen=ROLLING)
        self._start_s, self._minutes_before = time.monotonic(), counters.minutes
        self._told = (-1, -1)
        self._saved_at, self._logged_at, self._pushed_at = (
            counters.transitions,
            counters.updates,
            counters.updates,
        )

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Loop until should_stop() or max_transitions; a checkpoint is written at the end."""
        self._publish()
        while not should_stop() and self.counters.transitions < self._budget.max_transitions:
            self._saver.check()
            self._take(0.0)
            owing = self._owing()
            self._watch.look(self._work(), owing=owing, actors=self._publisher.actors())
            if owing and not self._watch.paused:
                self._update()
                self._every_so_often()
            else:
                self._tell()  # actors that keep pace wait for the very last update
                self._take(self._idle(self.counters.updates))
        self._saver.save(False)

    def _owing(self) -> bool:
        """Whether the budget allows an update."""
        allowed = self.counters.transitions * self._budget.updates_per_transition
        return self.counters.updates + self._budget.updates_per_call <= allowed

    def _update(self) -> None:
        start_s = time.monotonic()
        self._agent.update(self._budget.updates_per_call)
        self._update_s += time.monotonic() - start_s
        self.counters.updates += self._budget.updates_per_call

    def _work(self) -> Work:
        return Work(
            transitions=self.counters.transitions,
            updates=self.counters.updates,
            update_s=self._update_s,
            sample_s=self._agent.sample_s,
            frames=self._arrivals.frames,
            encode_s=self._arrivals.encode_s,
            episodes=self._heard,
        )

    def _take(self, wait_s: float) -> None:
        """Take in every episode that is ready, waiting up to wait_s [s] for the first."""
        arrival = self._arrivals.get(wait_s)
        if arrival is None:
            return
        while arrival is not None:
            self._admit(*arrival)
            arrival = self._arrivals.get(0.0)
        self._tell()

    def _admit(self, episode: Episode, features: NDArray[Any] | None) -> None:
        self._heard += 1
        self._on_episode(episode)
        self._watch.episode(episode)
        if episode.role is Role.EVAL:
            self._evaluations.take(episode)
            if len(self._evaluations.results) == self._eval_group:
                self._judge()
            return
        self._store.write(episode, features)
        self.counters.count(episode)
        if episode.role is Role.TRAIN:
            unaided = episode.end is End.SUCCESS and not episode.intervention.any()
            self._recent.append((float(unaided), float(episode.intervention.mean())))

    def _judge(self) -> None:
        """A full group of evaluation episodes: log it, and keep a checkpoint when it is the best so far."""
        self._on_log({"eval/success_rate": self._evaluations.rate})
        if self._evaluations.rate >= self.counters.best_success:
            self.counters.best_success = self._evaluations.rate
            self._saver.save(True)

    def _every_so_often(self) -> None:
        counters, budget = self.counters, self._budget
        if counters.updates - self._pushed_at >= budget.push_every:
            self._publish()
        if counters.updates - self._logged_at >= budget.log_every:
            self._log()
        if counters.transitions - self._saved_at >= budget.checkpoint_every:
            self._saved_at = counters.transitions
            self._saver.save(False)
        if (
            counters.updates // PROGRESS_EVERY
            != (counters.updates - budget.updates_per_call) // PROGRESS_EVERY
        ):
            self._tell()

    def _tell(self) -> None:
        """Progress to the actors, when there was any."""
        now = (self.counters.transitions, self.counters.updates)
        if now != self._told:
            self._told = now
            self._publisher.progress(*now)

    def _publish(self) -> None:
        self._pushed_at = self.counters.updates
        self.counters.version += 1
        self._publisher.publish(Weights(self.counters.version, self._agent.weights()))
        self._tell()

    def _log(self) -> None:
        counters = self.counters
        self._logged_at = counters.updates
        counters.minutes = self._minutes_before + (time.monotonic() - self._start_s) / 60
        values = dict(self._agent.metrics())
        values |= {
            "time/minutes": counters.minutes,
            "time/transitions": counters.transitions,
            "time/updates": counters.updates,
            "rollout/episodes": counters.episodes,
            "train/policy_version": counters.version,
            "train/updates_per_transition": counters.updates / max(1, counters.transitions),
        }
        if self._recent:
            unaided, helped = np.mean(self._recent, axis=0)
            values |= {"rollout/unaided_success": float(unaided), "rollout/intervention_share": float(helped)}
        values |= self._watch.row(values, self._agent.large_inputs())
        self._on_log(values)
