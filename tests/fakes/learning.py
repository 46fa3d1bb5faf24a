"""A small learner, batches and episodes of noise, for tests of the learning core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from hilserl.config import PolicyConfig
from hilserl.sac import SAC
from hilserl.sampling import Batch
from hilserl.types import End, Episode, Role, Spec

torch.set_num_threads(1)
SPEC = Spec(("cam",), (64, 64, 3), ("x_m", "y_m", "stuck_rad"))
SHAPE = (8, 2, 2)
MEAN, STD = np.array([0.2, 0.0, 1.0], np.float32), np.array([0.1, 0.05, 0.0], np.float32)
SMALL = PolicyConfig(
    precision="float32",
    latent_dim=16,
    hidden_dims=(24, 24),
    num_spatial_embeddings=4,
    batch_size=16,
    temperature_init=0.1,
)


def agent(seed: int = 0, **changes: object) -> SAC:
    return SAC(SPEC, replace(SMALL, **changes), SHAPE, MEAN, STD, seed)  # type: ignore[arg-type]


def batch(size: int = 16, seed: int = 0, n_obs: int = 1) -> Batch:
    g = torch.Generator().manual_seed(seed)

    def features() -> torch.Tensor:
        return torch.randn(size, n_obs, 1, *SHAPE, generator=g).half()

    def state() -> torch.Tensor:
        return torch.randn(size, n_obs, 3, generator=g) * 0.1 + 0.2

    return Batch(
        seen=features(),
        next_seen=features(),
        state=state(),
        next_state=state(),
        action=torch.rand(size, 4, generator=g) * 1.8 - 0.9,
        reward=(torch.rand(size, generator=g) < 0.3).float(),
        discount=0.97 * (torch.rand(size, generator=g) < 0.7).float(),
        is_demo=torch.arange(size) < size // 2,
    )


def batches(seed: int = 0) -> Callable[[], Batch]:
    count: Iterator[int] = iter(range(seed, seed + 10_000))
    return lambda: batch(seed=next(count))


def episode(steps: int, seed: int = 0, end: End = End.SUCCESS, role: Role = Role.TRAIN) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        images={"cam": rng.integers(0, 256, (steps + 1, 64, 64, 3), dtype=np.uint8)},
        state=rng.normal(0.2, 0.1, (steps + 1, 3)).astype(np.float32),
        action=rng.choice([-1.0, -0.4, 0.0, 0.3, 1.0], (steps, 4)).astype(np.float32),
        reward=np.eye(1, steps, steps - 1, dtype=np.float32)[0],
        intervention=np.zeros(steps, np.bool_),
        end=end,
        role=role,
        actor="a",
        number=seed,
        policy_version=0,
        seed=seed,
        task_hash="",
    )
