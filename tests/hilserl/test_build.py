"""Principal channels: computed by the learner from the demonstrations, handed to actors and checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from hilserl.build import build_encoder, build_replay, build_sac, learner_encoder, load_demos
from hilserl.config import Config, ConfigError
from hilserl.contract import ContractMismatch
from hilserl.env import task_spec
from hilserl.episode import TASK_FILE, save_episode
from hilserl.player import Player
from hilserl.rundir import write_whole
from hilserl.sac_agent import SacAgent
from hilserl.task_record import task_json
from hilserl.types import Obs, Role
from tests.fakes.run import noise_episode, small_config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = small_config(feature_projection="pca")
    for number in range(1, 5):
        save_episode(tmp_path, noise_episode(config, number, Role.DEMO))
    write_whole(tmp_path / TASK_FILE, task_json(config.task))
    return dataclasses.replace(config, demos=(str(tmp_path),))


def agent(config: Config) -> SacAgent:
    spec, encoder = task_spec(config.task), learner_encoder(config, None)
    replay = build_replay(config, spec, encoder)
    load_demos(config, replay, lambda _: None)
    return SacAgent(build_sac(config, spec, replay, encoder), replay, encoder)


def test_an_actor_gets_the_learners_projection_and_acts_on_the_same_features(config: Config) -> None:
    learner, spec = agent(config), task_spec(config.task)
    player = Player(spec, config, build_encoder(config), deterministic=True)
    player.load(learner.weights())
    player.load(learner.weights())  # the second time it is known
    data = noise_episode(config, 9)
    obs = Obs({name: images[0] for name, images in data.images.items()}, data.state[0])
    features = learner.replay.features_of(data)
    assert features is not None
    net = learner.sac.nets.net
    with torch.no_grad():
        seen = torch.from_numpy(features[None, :1, :, 0]).float()
        mean, _ = net.actor(net.heads(seen), net.normalise(torch.from_numpy(data.state[None, :1])))
    np.testing.assert_array_equal(player.act(obs), torch.tanh(mean)[0].numpy())


def test_the_same_demonstrations_give_the_same_encoder(config: Config) -> None:
    assert learner_encoder(config, None).hash() == learner_encoder(config, None).hash()
    plain = dataclasses.replace(
        config, policy=dataclasses.replace(config.policy, feature_projection="random")
    )
    assert learner_encoder(plain, None).hash() != learner_encoder(config, None).hash()


def test_an_actor_of_another_projection_is_refused(config: Config) -> None:
    plain = dataclasses.replace(
        config, policy=dataclasses.replace(config.policy, feature_projection="random")
    )
    player = Player(task_spec(config.task), plain, build_encoder(plain), deterministic=True)
    with pytest.raises(ContractMismatch, match=r"policy\.feature_projection"):
        player.load(agent(config).weights())


def test_principal_channels_without_demonstrations_are_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match='feature_projection is "pca"'):
        learner_encoder(dataclasses.replace(config, demos=()), None)
