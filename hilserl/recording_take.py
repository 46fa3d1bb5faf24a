"""One played episode with native pictures, trimmed of idle time: what becomes rows of a recorded dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hilserl.dataset_schema import (
    ACTION,
    DONE,
    IMAGES,
    INTERVENTION,
    REWARD,
    STATE,
    SUCCESS,
    TRUNCATED,
    Rows,
)
from hilserl.env import Env
from hilserl.types import ACTION_SIZE, End, Obs, Step
from robot.types import F32, NUM_JOINTS, U8

JOINTS = "observation.joint_pos"
"""Measured joint positions (6,) [rad], as in the state; lerobot's viewer draws each under its own name."""
IDLE_RAD = 0.005
"""A joint that moves less than this in a step (three servo counts) is at rest."""
TAIL_S = 0.5
"""So much idle time is kept at the end: the pictures of the result."""

Truth = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Take:
    """One episode of T steps as it was played, T + 1 frames.

    frames: {camera: [uint8 (H, W, 3)] * (T + 1)}, native. state: float32 (T + 1, 18). joint_pos: float32
    (T + 1, 6) [rad]. action: float32 (T, 4). reward: float32 (T,). intervention: bool (T,). achieved: bool
    (T + 1,), the scene's ground truth of success at each frame, None where nobody knows it. trimmed: steps
    cut off at the head and at the tail.
    """

    frames: dict[str, list[U8]]
    state: F32
    joint_pos: F32
    action: F32
    reward: F32
    intervention: NDArray[np.bool_]
    end: End
    achieved: NDArray[np.bool_] | None = None
    trimmed: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        """Number of steps, T."""
        return len(self.action)

    def columns(self) -> Rows:
        """{column of the dataset: (T + 1, ...)}, without pictures; see `dataset_schema`."""
        count = len(self)
        last = np.arange(count + 1) == count - 1
        return {
            ACTION: np.concatenate([self.action, np.zeros((1, ACTION_SIZE), np.float32)]),
            STATE: self.state,
            JOINTS: self.joint_pos,
            REWARD: np.append(self.reward, np.float32(0)),
            SUCCESS: last & (self.end is End.SUCCESS),
            DONE: last & self.end.terminal,
            TRUNCATED: last & (not self.end.terminal),
            INTERVENTION: np.append(self.intervention, False),
        }

    def pictures(self) -> dict[str, list[U8]]:
        """{image key of the dataset: T + 1 native pictures}."""
        return {IMAGES + camera: frames for camera, frames in self.frames.items()}

    def success_ranges(self) -> list[list[int]] | None:
        """Frames in which success was achieved, as 0-based half-open ranges; None where nobody knows."""
        if self.achieved is None:
            return None
        edges = np.flatnonzero(np.diff(np.concatenate([[False], self.achieved, [False]]).astype(np.int8)))
        return [[int(start), int(stop)] for start, stop in edges.reshape(-1, 2)]


class TakeListener:
    """A rollout listener that keeps an episode with the native frames `env` saw.

    truth: ground truth of success now, None where nobody knows it.
    """

    def __init__(self, env: Env, truth: Truth | None) -> None:
        self._env, self._truth = env, truth
        self._steps: list[Step] = []
        self._states: list[F32] = []
        self._joints: list[F32] = []
        self._frames: dict[str, list[U8]] = {}
        self._achieved: list[bool] = []

    def begin(self, obs: Obs) -> None:
        """The first observation, after the reset motion."""
        self._frames = {camera: [] for camera in self._env.frames}
        self._keep(obs)

    def step(self, step: Step) -> None:
        """One more step."""
        self._steps.append(step)
        self._keep(step.obs)

    def _keep(self, obs: Obs) -> None:
        self._states.append(obs.state)
        self._joints.append(self._env.state.q_rad.astype(np.float32))
        for camera, frame in self._env.frames.items():
            self._frames[camera].append(frame.rgb)
        if self._truth is not None:
            self._achieved.append(self._truth())

    def take(self, end: End) -> Take:
        """The episode; `end`: how it ended (a fault is not told to listeners). Needs at least one step."""
        steps = self._steps
        return Take(
            frames=self._frames,
            state=np.stack(self._states),
            joint_pos=np.stack(self._joints),
            action=np.stack([step.action for step in steps]),
            reward=np.array([step.reward for step in steps], np.float32),
            intervention=np.array([step.intervention for step in steps], np.bool_),
            end=end,
            achieved=np.array(self._achieved) if self._truth is not None else None,
        )


def is_idle(take: Take) -> NDArray[np.bool_]:
    """Which steps, bool (T,), are idle: nothing was asked of the arm in the step, and no joint moved."""
    asked = np.abs(take.action).max(axis=1) > 0
    moved = np.abs(np.diff(take.joint_pos[:, :NUM_JOINTS], axis=0)).max(axis=1) > IDLE_RAD
    return np.asarray(~asked & ~moved)


def trim(take: Take, fps: float) -> Take:
    """`take` without the idle steps before the first motion and, but for TAIL_S, after the last one.

    The last step kept gets the reward of the last step played: the verdict was about what stands there.
    An episode in which nothing moved stays as it is.
    """
    busy = np.flatnonzero(~is_idle(take))
    if len(busy) == 0:
        return take
    start = int(busy[0])
    stop = min(len(take), int(busy[-1]) + 1 + round(TAIL_S * fps))
    reward = take.reward[start:stop].copy()
    reward[-1] = take.reward[-1]
    seen = slice(start, stop + 1)
    return replace(
        take,
        frames={camera: frames[seen] for camera, frames in take.frames.items()},
        state=take.state[seen],
        joint_pos=take.joint_pos[seen],
        action=take.action[start:stop],
        reward=reward,
        intervention=take.intervention[start:stop],
        achieved=None if take.achieved is None else take.achieved[seen],
        trimmed=(start, len(take) - stop),
    )
