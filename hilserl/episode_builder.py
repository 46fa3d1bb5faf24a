"""An episode while it is being played: what is known before its first step, and its steps one by one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hilserl.types import End, Episode, Obs, Role, Spec, Step

_ACTOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class EpisodeHeader:
    """What is known of an episode before its first step.

    actor: letters, digits, dot, dash, underscore. number counts the actor's episodes from 1.
    info: facts about the scene and the session; finite numbers and strings.
    """

    actor: str
    number: int
    role: Role
    policy_version: int
    seed: int
    task_hash: str
    info: dict[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_actor(self.actor)
        if not 1 <= self.number < 10**8:
            raise ValueError(f"an episode number counts from 1 to 99999999, got {self.number}")
        if not 0 <= self.policy_version < 2**63 or not 0 <= self.seed < 2**63:
            raise ValueError(
                f"policy_version and seed must lie in 0..2**63-1, got {self.policy_version}, {self.seed}"
            )
        check_info(self.info)


class EpisodeBuilder:
    """Collects an episode as it is played: start, add for each step, finish.

    Every observation is checked against the Spec, so that a wrong one is refused at the step that made it.
    """

    def __init__(self, spec: Spec, header: EpisodeHeader) -> None:
        self.spec = spec
        self.header = header
        self._obs: list[Obs] = []
        self._steps: list[Step] = []

    def __len__(self) -> int:
        """Number of steps so far."""
        return len(self._steps)

    def start(self, obs: Obs) -> None:
        """Take the observation before the first action. Raises ValueError when it does not fit the Spec."""
        if self._obs:
            raise ValueError(f"episode {self.header.actor}/{self.header.number} has already started")
        check_obs(self.spec, obs)
        self._obs.append(obs)

    def add(self, step: Step) -> None:
        """Take one step. Raises ValueError before `start`, after an end, or when it does not fit the Spec."""
        name = f"episode {self.header.actor}/{self.header.number}"
        if not self._obs:
            raise ValueError(f"{name} has not started")
        if self._steps and self._steps[-1].end is not None:
            raise ValueError(f"{name} ended ({self._steps[-1].end.value}) and takes no further step")
        check_step(self.spec, step)
        self._steps.append(step)
        self._obs.append(step.obs)

    def finish(self, end: End, info: Mapping[str, float | str] | None = None) -> Episode:
        """Return the whole episode. `info` adds facts known only now.

        Raises ValueError without a step, or when `end` contradicts the last step's end (DISCARDED may).
        """
        header = self.header
        said = self._steps[-1].end if self._steps else None
        if said not in (None, end) and end.stored:
            raise ValueError(f"episode {header.actor}/{header.number}: last step ended in {said}, not {end}")
        return Episode(
            images={c: np.stack([o.images[c] for o in self._obs]) for c in self.spec.cameras},
            state=np.stack([o.state for o in self._obs]),
            action=np.array([s.action for s in self._steps], np.float32),
            reward=np.array([s.reward for s in self._steps], np.float32),
            intervention=np.array([s.intervention for s in self._steps], np.bool_),
            end=end,
            role=header.role,
            actor=header.actor,
            number=header.number,
            policy_version=header.policy_version,
            seed=header.seed,
            task_hash=header.task_hash,
            info=merge_info(header.info, info or {}),
        )


def check_actor(actor: str) -> None:
    """Raise ValueError unless `actor` may be part of a file name."""
    if not _ACTOR.fullmatch(actor):
        raise ValueError(f"an actor name is 1-64 letters, digits, '.', '_' or '-', got {actor!r}")


def check_info(info: Mapping[str, float | str]) -> None:
    """Raise ValueError unless every fact is a string or a finite number."""
    for key, value in info.items():
        if not isinstance(value, str) and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError(f"info {key!r} must be a string or a finite number, got {value!r}")


def merge_info(first: Mapping[str, float | str], last: Mapping[str, float | str]) -> dict[str, float | str]:
    """Return both sets of facts in one. Raises ValueError where one fact has two values."""
    check_info(last)
    for key in first.keys() & last.keys():
        if first[key] != last[key]:
            raise ValueError(f"info {key!r} was {first[key]!r} at the start and {last[key]!r} at the end")
    return {**first, **last}


def check_obs(spec: Spec, obs: Obs) -> None:
    """Raise ValueError unless `obs` has the cameras, image shape and state size of `spec`."""
    if set(obs.images) != set(spec.cameras):
        raise ValueError(f"expected cameras {list(spec.cameras)}, got {list(obs.images)}")
    for name, image in obs.images.items():
        if image.shape != spec.image_shape:
            raise ValueError(f"image {name!r} must be {spec.image_shape}, got {image.shape}")
    if len(obs.state) != spec.state_size:
        raise ValueError(f"state must have {spec.state_size} components, got {len(obs.state)}")


def check_step(spec: Spec, step: Step) -> None:
    """Raise ValueError unless the step fits `spec` and its reward is finite."""
    check_obs(spec, step.obs)
    if not math.isfinite(step.reward):
        raise ValueError(f"a reward must be finite, got {step.reward}")


class Recorder:
    """A rollout listener that builds the episode it hears of."""

    def __init__(self, builder: EpisodeBuilder) -> None:
        self.builder = builder

    def begin(self, obs: Obs) -> None:
        """The first observation."""
        self.builder.start(obs)

    def step(self, step: Step) -> None:
        """One more step."""
        self.builder.add(step)
