"""A learner in one or several processes on the same episodes: started by torchrun, or plainly.

Each rank writes what it ends with to FILE.<rank>.safetensors, FILE being the one argument.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from hilserl.encoder import FeatureEncoder
from hilserl.learner_follower import obey
from hilserl.parallel import Processes, launched
from hilserl.replay import Replay
from hilserl.sac import SAC
from hilserl.sac_agent import SacAgent
from hilserl.sampling import Batch
from hilserl.types import End, Role
from hilserl.vision import random_trunk
from tests.fakes.learning import MEAN, SMALL, SPEC, STD, episode

CHANNELS = 8


def run(path: Path) -> None:
    torch.set_num_threads(1)
    group = Processes("cpu", SMALL.batch_size) if launched() else None
    encoder = FeatureEncoder(random_trunk(4, 0), CHANNELS)
    policy = replace(
        SMALL, num_critics=3, bc_weight=1.0, n_obs_steps=2, bc_pretrain_steps=3, critic_pretrain_steps=2
    )
    rank = group.rank if group else 0
    # Another seed on purpose: the others must take over what rank 0 has.
    sac = SAC(SPEC, policy, (CHANNELS, 2, 2), MEAN, STD, seed=rank, group=group)
    if group is not None and rank > 0:
        obey(sac, group)
    else:
        _lead(sac, encoder, group)
    save_file(sac.state_dict()[0], path.with_name(f"{path.name}.{rank}.safetensors"))


def _lead(sac: SAC, encoder: FeatureEncoder, group: Processes | None) -> None:
    replay = Replay(
        SPEC,
        encoder.encode,
        feature_shape=(CHANNELS, 2, 2),
        capacity=200,
        protected_capacity=200,
        n_obs_steps=2,
    )
    for seed in range(3):
        replay.add(episode(12, seed, End.SUCCESS, Role.DEMO))
        replay.add(episode(15, seed + 10, End.TIMEOUT))
    agent = SacAgent(sac, replay, encoder, group)
    with ExitStack() as stack:
        if group is not None:
            stack.callback(group.dismiss)
        agent.share_state()
        agent.pretrain()
        for _ in range(5):
            agent.update(4)
        _stop_early(agent)
        agent.update(2)
        assert np.isfinite(list(agent.metrics().values())).all()


def _stop_early(agent: SacAgent) -> None:
    """A sample that fails in the middle of an order must leave all processes at the same place."""
    good, drawn = agent.sample, []

    def failing() -> Batch:
        if len(drawn) == 2:
            raise InterruptedError
        drawn.append(1)
        return good()

    agent.sample = failing  # type: ignore[method-assign]
    with suppress(InterruptedError):
        agent.update(4)
    agent.sample = good  # type: ignore[method-assign]


if __name__ == "__main__":
    run(Path(sys.argv[1]))
