"""Plain numpy data of the mind, validated on construction."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot.types import ACTION_NAMES, F32, U8

ACTION_SIZE = len(ACTION_NAMES)


class End(Enum):
    """How an episode ended. Only SUCCESS and FAILURE are terminal for the value function."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"
    FAULT = "fault"
    DISCARDED = "discarded"

    @property
    def terminal(self) -> bool:
        """True when the future is worth nothing; False when the value is bootstrapped through."""
        return self in (End.SUCCESS, End.FAILURE)

    @property
    def stored(self) -> bool:
        """False for an episode that must leave no trace in replay."""
        return self is not End.DISCARDED


class Role(Enum):
    """Who an episode is for. DEMO goes to the protected store; EVAL is never trained on."""

    DEMO = "demo"
    TRAIN = "train"
    EVAL = "eval"


@dataclass(frozen=True, slots=True)
class Spec:
    """What one observation and one action look like: the contract between actor, replay and policy.

    cameras: names in order. image_shape: (H, W, 3) of every policy image, uint8 RGB.
    state_names: name of each state component, with its unit after the last underscore-separated word.
    """

    cameras: tuple[str, ...]
    image_shape: tuple[int, int, int]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...] = ACTION_NAMES

    @property
    def state_size(self) -> int:
        return len(self.state_names)


@dataclass(frozen=True, slots=True)
class Obs:
    """One observation. images: {camera: uint8 (H, W, 3) RGB}. state: float32 (S,), physical units."""

    images: dict[str, U8]
    state: F32

    def __post_init__(self) -> None:
        for name, image in self.images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"image {name!r} must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
        if self.state.dtype != np.float32 or self.state.ndim != 1:
            raise ValueError(f"state must be float32 (S,), got {self.state.dtype} {self.state.shape}")
        if not np.isfinite(self.state).all():
            raise ValueError(f"state holds a value that is not finite: {self.state}")


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one control step.

    action: (4,) in [-1, 1], what was asked for and executed. intervention: the operator's hand, not the
    policy's. obs: what was seen after it. end: set on the last step only.
    """

    action: F32
    reward: float
    intervention: bool
    obs: Obs
    end: End | None

    def __post_init__(self) -> None:
        check_action(self.action)


def check_action(action: F32) -> None:
    """Raise ValueError unless `action` is finite float32 (4,) within [-1, 1]."""
    if action.dtype != np.float32 or action.shape != (ACTION_SIZE,):
        raise ValueError(
            f"an action must be float32 ({ACTION_SIZE},) = {ACTION_NAMES}, got {action.dtype} {action.shape}"
        )
    if not np.isfinite(action).all() or np.abs(action).max() > 1.0:
        raise ValueError(f"every action component must lie in [-1, 1], got {action}")


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished episode of T steps: T + 1 observations, T actions.

    images: {camera: uint8 (T+1, H, W, 3)}; state: float32 (T+1, S); action: float32 (T, 4);
    reward: float32 (T,); intervention: bool (T,). actor and number identify it for ever;
    policy_version is the one version that acted; task_hash names the task record it was played under.
    info: facts about the scene and the session (numbers and strings), stored as they are.
    """

    images: dict[str, U8]
    state: F32
    action: F32
    reward: F32
    intervention: NDArray[np.bool_]
    end: End
    role: Role
    actor: str
    number: int
    policy_version: int
    seed: int
    task_hash: str
    info: dict[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps = len(self.action)
        if steps < 1:
            raise ValueError(f"episode {self.actor}/{self.number} has no step")
        for name, images in self.images.items():
            if images.dtype != np.uint8 or images.ndim != 4 or len(images) != steps + 1:
                raise ValueError(
                    f"images {name!r} must be uint8 ({steps + 1}, H, W, 3), got {images.dtype} {images.shape}"
                )
        expected = {
            "state": (self.state, np.float32, (steps + 1, self.state.shape[-1])),
            "action": (self.action, np.float32, (steps, ACTION_SIZE)),
            "reward": (self.reward, np.float32, (steps,)),
            "intervention": (self.intervention, np.bool_, (steps,)),
        }
        for name, (array, dtype, shape) in expected.items():
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"{name} must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
        if not np.abs(self.action).max() <= 1.0:  # also finds what is not a number
            raise ValueError(
                f"every action component must lie in [-1, 1], got {np.nanmin(self.action, axis=0)} to "
                f"{np.nanmax(self.action, axis=0)}"
            )
        if not np.isfinite(self.state).all():
            raise ValueError("state holds a value that is not finite")

    def __len__(self) -> int:
        """Number of steps (transitions), T."""
        return len(self.action)


@dataclass(frozen=True, slots=True)
class Weights:
    """The trainable tensors of an acting policy. version grows by one at every publication."""

    version: int
    tensors: dict[str, NDArray[Any]]
