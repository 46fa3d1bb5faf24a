"""Episodes in which every number says which frame it belongs to, and a replay for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hilserl.replay import Replay
from hilserl.types import End, Episode, Role, Spec

SPEC = Spec(("left", "right"), (4, 4, 3), ("frame_m", "steps_m"))


def colours(images: np.ndarray) -> np.ndarray:
    """Features (B, 3, 1, 1): the colour of a picture of one colour, whatever its shift."""
    return images[:, 2, 2, :].astype(np.float16)[:, :, None, None]


@dataclass
class Maker:
    """Episodes in which every number says which frame it belongs to."""

    spec: Spec = SPEC
    frames: int = 0
    count: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __call__(
        self, steps: int, end: End = End.TIMEOUT, role: Role = Role.TRAIN, helped: np.ndarray | None = None
    ) -> Episode:
        ids = self.frames + np.arange(steps + 1)
        self.frames += steps + 1
        self.count += 1
        state = np.stack([ids, np.arange(steps + 1)], 1).astype(np.float32)
        return Episode(
            images={name: self.picture(ids, k) for k, name in enumerate(self.spec.cameras)},
            state=state,
            action=np.repeat(ids[:-1, None] / 1e4, 4, 1).astype(np.float32),
            reward=ids[:-1].astype(np.float32) * 2,
            intervention=np.zeros(steps, np.bool_) if helped is None else helped,
            end=end,
            role=role,
            actor="a",
            number=self.count,
            policy_version=0,
            seed=0,
            task_hash="",
        )

    def picture(self, ids: np.ndarray, camera: int) -> np.ndarray:
        pixels = np.stack([ids % 256, ids // 256, np.full(len(ids), camera)], 1).astype(np.uint8)
        return np.broadcast_to(pixels[:, None, None, :], (len(ids), *self.spec.image_shape)).copy()


def make(capacity: int = 40, protected: int = 20, n_obs: int = 1, **more: object) -> Replay:
    return Replay(
        SPEC,
        colours,
        feature_shape=(3, 1, 1),
        capacity=capacity,
        protected_capacity=protected,
        n_obs_steps=n_obs,
        **more,  # type: ignore[arg-type]
    )
