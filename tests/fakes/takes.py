"""Takes made of numbers, with tiny pictures, and scripts of what a person says at the pad."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from hilserl.body import Body as HilserlBody
from hilserl.config import Config, CropConfig, TaskConfig
from hilserl.env import state_vector
from hilserl.recording_files import Recording
from hilserl.recording_record import EpisodeRecord, record_of
from hilserl.recording_take import Take
from hilserl.reward import ButtonReward
from hilserl.types import End
from robot.kinematics import Kinematics
from robot.types import ArmState, Operator
from tests.fakes.body import LIFT, BlankCamera, Body

KINEMATICS = Kinematics()
TINY = replace(
    LIFT,
    camera_width=32,
    camera_height=16,
    crop_params_dict={"gripper_cam": CropConfig(0, 8, 16, 16)},
    resize_size=(16, 16),
)


def random_take(task: TaskConfig, seed: int, steps: int, end: End = End.SUCCESS) -> Take:
    """Smooth random motion; the pictures are told apart by their brightness."""
    rng = np.random.default_rng(seed)
    q = np.array([0.1, -0.5, 0.4, 0.9, task.wrist_roll, 0.5]) + np.cumsum(
        rng.normal(0, 0.02, (steps + 1, 6)), axis=0
    )
    q = q.astype(np.float32)
    state = np.stack([state_vector(ArmState(one, one * 0, 0.0), KINEMATICS, task.wrist_roll) for one in q])
    shape = (task.camera_height, task.camera_width, 3)
    reward = np.zeros(steps, np.float32)
    reward[-1] = end is End.SUCCESS
    return Take(
        frames={"gripper_cam": [np.full(shape, 20 + 3 * t, np.uint8) for t in range(steps + 1)]},
        state=state,
        joint_pos=q,
        action=rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
        reward=reward,
        intervention=rng.random(steps) < 0.5,
        end=end,
        achieved=np.arange(steps + 1) > steps - 2,
    )


def record(take: Take, task: TaskConfig, seed: int = 1, role: str = "demo") -> EpisodeRecord:
    return record_of(take, task, role, seed, {"cube_x_m": 0.25}, "")


def fill(root: Path, count: int) -> None:
    """Record `count` takes; take N has N + 5 steps."""
    with Recording.create(root, TINY) as recording:
        for number in range(count):
            take = random_take(TINY, number, 5 + number)
            recording.append(take, record(take, TINY, seed=number))


class Sayings:
    """A Teleop that says one list per episode, and nothing after it."""

    def __init__(self, *episodes: Sequence[Operator]) -> None:
        self._episodes = episodes
        self._episode, self._step = -1, -1

    def reset(self, seed: int) -> None:
        self._episode += 1
        self._step = -1

    def read(self, state: ArmState) -> Operator:
        self._step += 1
        says = self._episodes[self._episode]
        return says[self._step] if self._step < len(says) else Operator()

    def stop_asked(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to release."""


def fake_body(teleop: Sayings, parked: Exception | None = None):
    """A stand-in for `build_body`: real environment and twin, blank pictures. parked: raised on leaving."""

    @contextmanager
    def build(config: Config, message, **_) -> Iterator[HilserlBody]:
        task = config.task
        body = Body(task, BlankCamera(task.camera_width, task.camera_height))
        reward = ButtonReward(task.success)
        yield HilserlBody(body.env, teleop, reward, body.arm, None, None)
        if parked is not None:
            raise parked

    return build
