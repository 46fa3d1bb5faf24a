"""The episodes both sides are fed: pictures of the twin with a camera's noise, and plausible numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hilserl.config import TaskConfig
from hilserl.env import task_spec
from hilserl.pretrain import RenderStudio
from hilserl.types import ACTION_SIZE, End, Episode, Role, Spec
from robot.types import U8

EPISODE_STEPS = 100
"""Ten seconds at ten steps a second, as the seed's task."""
SENSOR_NOISE = 3.0
"""Standard deviation in grey levels, as of a small camera. Pictures without it compress 8 times better."""


def make_spec(cameras: int) -> Spec:
    """The seed's observation with `cameras` cameras of 128 x 128 pixels."""
    one = task_spec(TaskConfig())
    names = (*one.cameras, *(f"cam_{index}" for index in range(1, cameras)))
    return Spec(names[:cameras], one.image_shape, one.state_names, one.action_names)


def render(count: int, seed: int = 0) -> U8:
    """Pictures uint8 (count, 128, 128, 3) of the twin's gripper camera, free of noise."""
    studio = RenderStudio(TaskConfig(), seed)
    return np.stack([studio.draw()[0] for _ in range(count)])


def add_noise(pictures: U8, sigma: float, seed: int = 0) -> U8:
    """`pictures` with independent normal noise of `sigma` grey levels, rounded and kept within 0..255."""
    noise = np.random.default_rng(seed).normal(0.0, sigma, pictures.shape).astype(np.float32)
    noisy: U8 = np.clip(np.rint(pictures + noise), 0, 255).astype(np.uint8)
    return noisy


def episodes(spec: Spec, pictures: U8, transitions: int, seed: int = 0) -> Iterator[Episode]:
    """Episodes of at most EPISODE_STEPS steps, `transitions` in all; every second one a demonstration.

    Pictures are drawn from `pictures` with replacement: neither side's cost depends on what they show.
    The last step earns 1 and ends in success.
    """
    rng = np.random.default_rng(seed)
    number = 0
    while transitions > 0:
        number += 1
        steps = min(EPISODE_STEPS, transitions)
        transitions -= steps
        yield Episode(
            images={name: pictures[rng.integers(len(pictures), size=steps + 1)] for name in spec.cameras},
            state=rng.normal(0.0, 0.5, (steps + 1, spec.state_size)).astype(np.float32),
            action=rng.uniform(-1.0, 1.0, (steps, ACTION_SIZE)).astype(np.float32),
            reward=np.eye(1, steps, steps - 1, dtype=np.float32)[0],
            intervention=np.zeros(steps, np.bool_),
            end=End.SUCCESS,
            role=Role.DEMO if number % 2 else Role.TRAIN,
            actor="benchmark",
            number=number,
            policy_version=0,
            seed=seed,
            task_hash="",
        )
