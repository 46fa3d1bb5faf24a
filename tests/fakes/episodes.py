"""Episodes with tiny pictures, where only their numbers matter."""

import numpy as np

from hilserl.types import End, Episode, Role


def short_episode(
    steps: int,
    role: Role = Role.TRAIN,
    number: int = 1,
    *,
    end: End = End.SUCCESS,
    version: int = 1,
    intervention: np.ndarray | None = None,
) -> Episode:
    return Episode(
        images={"cam": np.zeros((steps + 1, 2, 2, 3), np.uint8)},
        state=np.zeros((steps + 1, 1), np.float32),
        action=np.zeros((steps, 4), np.float32),
        reward=np.zeros(steps, np.float32),
        intervention=np.zeros(steps, np.bool_) if intervention is None else intervention,
        end=end,
        role=role,
        actor="a",
        number=number,
        policy_version=version,
        seed=0,
        task_hash="",
    )
