"""A small trained policy for the healthy set-up, saved as the learner saves one."""

from __future__ import annotations

from hilserl.alarms import CollapseGuard
from hilserl.benchmark.sabotage_setup import Setup
from hilserl.build import build_encoder, build_replay, build_sac, load_demos
from hilserl.counters import Counters
from hilserl.env import task_spec
from hilserl.learner_saving import CheckpointSaver
from hilserl.sac_agent import SacAgent


def save_policy(setup: Setup, steps: int) -> None:
    """Clone the demonstrations for `steps` and save a checkpoint of the configured run."""
    config = setup.config()
    spec, encoder = task_spec(config.task), build_encoder(config)
    replay = build_replay(config, spec, encoder)
    load_demos(config, replay, lambda _: None)
    agent = SacAgent(build_sac(config, spec, replay, encoder), replay, encoder)
    agent.sac.pretrain_bc(agent.demonstrations, steps)
    counters, guard = Counters(), CollapseGuard(config.policy)
    with CheckpointSaver(config, setup.checkpoints, spec, agent, encoder, counters, guard) as saver:
        saver.save(best=True)
