"""The composition root of learning: from a Config to encoder, replay, SAC and the acting policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hilserl.acting import ActingPolicy
from hilserl.config import Config, ConfigError
from hilserl.contract import ContractMismatch
from hilserl.episode import (
    TASK_FILE,
    load_episode,
    scan_episodes,
)
from hilserl.metrics import train_names
from hilserl.replay import Batch, Replay
from hilserl.sac import SAC
from hilserl.task_record import check_task
from hilserl.types import Obs, Spec
from hilserl.vision import FeatureEncoder, load_trunk
from robot.types import F32

ENCODER_KEY = "encoder_sha256"
"""Name under which published weights carry the hash of the image encoder they were trained on."""


class Stopped(Exception):
    """The end was asked for before learning began."""


def build_encoder(config: Config) -> FeatureEncoder:
    """The frozen image encoder of this configuration."""
    policy = config.policy
    return FeatureEncoder(
        load_trunk(policy.vision_encoder_name), policy.feature_channels, device=policy.device
    )


def set_threads(config: Config) -> None:
    """Give torch the configured number of threads."""
    if config.run.num_threads:
        torch.set_num_threads(config.run.num_threads)


class Player:
    """An ActingPolicy as the rollout wants one. deterministic: squashed mean instead of a draw."""

    def __init__(self, spec: Spec, config: Config, encoder: FeatureEncoder, *, deterministic: bool) -> None:
        self._policy = ActingPolicy(spec, config.policy, encoder)
        self._encoder_hash = encoder.hash()
        self._generator = torch.Generator().manual_seed(config.seed)
        self.deterministic = deterministic
        self.noise_scale = 1.0

    def load(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Take published weights. Raises ContractMismatch when they belong to another image encoder."""
        tensors = dict(weights)
        theirs = tensors.pop(ENCODER_KEY).tobytes().hex()
        if theirs != self._encoder_hash:
            raise ContractMismatch(
                f"the learner trains on an image encoder with hash {theirs[:16]}, this actor loaded "
                f"{self._encoder_hash[:16]}: give both the same policy.vision_encoder_name and "
                "policy.feature_channels"
            )
        self._policy.load(tensors)

    def reset(self) -> None:
        """A new episode begins."""
        self._policy.reset()

    def observe(self, obs: Obs) -> None:
        """An observation the operator acts on."""
        self._policy.observe(obs)

    def act(self, obs: Obs) -> F32:
        """The action (4,) after `obs`."""
        mode: Literal["sample", "mean"] = "mean" if self.deterministic else "sample"
        return self._policy.act(obs, mode, self._generator, self.noise_scale)


class SacAgent:
    """SAC on a Replay, as the learner's loop wants an Agent."""

    def __init__(self, sac: SAC, replay: Replay, encoder_hash: str) -> None:
        self.sac, self.replay, self.encoder_hash = sac, replay, encoder_hash
        self._hash = np.frombuffer(bytes.fromhex(encoder_hash), np.uint8)

    def sample(self) -> Batch:
        """A batch with the configured share of demonstrations."""
        return self.replay.sample(self.sac.config.batch_size, self.sac.config.demo_fraction)

    def demonstrations(self) -> Batch:
        """A batch of demonstrations only."""
        return self.replay.sample(self.sac.config.batch_size, 1.0)

    def update(self, critic_updates: int) -> None:
        """`critic_updates` critic steps and one actor step."""
        self.sac.update(self.sample, critic_updates)

    def weights(self) -> dict[str, NDArray[Any]]:
        """What an actor needs, with the encoder's hash."""
        return {**self.sac.actor_weights(), ENCODER_KEY: self._hash}

    def metrics(self) -> dict[str, float]:
        """The glossary's train/ metrics since the last call."""
        return train_names({**self.sac.metrics(), **self.replay.metrics()})


def build_replay(config: Config, spec: Spec, encoder: FeatureEncoder) -> Replay:
    """An empty replay as configured."""
    policy = config.policy
    return Replay(
        spec,
        encoder.encode,
        feature_shape=encoder.feature_shape(spec.image_shape),
        capacity=policy.online_buffer_capacity,
        protected_capacity=policy.offline_buffer_capacity,
        copies=policy.feature_copies,
        pad=policy.augmentation_pad if policy.use_augmentation else 0,
        n_obs_steps=policy.n_obs_steps,
        discount=policy.discount,
        seed=config.seed,
    )


def load_demos(
    config: Config,
    replay: Replay,
    message: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Fill the protected store from config.demos. Raises TaskMismatch naming a field that differs."""
    for folder in config.demos:
        episodes = scan_episodes(Path(folder))
        if not episodes:
            raise ConfigError(f"demos names {folder}, which holds no episode (*.npz); record some first")
        task_file = Path(folder) / TASK_FILE
        if not task_file.is_file():
            raise ConfigError(
                f"demos names {folder}, which has no {TASK_FILE} saying under which task it was recorded"
            )
        check_task(config.task, task_file.read_text(), str(task_file), config.allow_task_difference)
        steps = 0
        for info in episodes:
            if should_stop():
                raise Stopped
            steps += replay.add(load_episode(info.path))
        message(f"{len(episodes)} demonstrations ({steps} transitions) from {folder}")


def build_sac(config: Config, spec: Spec, replay: Replay) -> SAC:
    """SAC with state statistics computed from the replay."""
    mean, std = replay.state_statistics()
    return SAC(spec, config.policy, replay.feature_shape, mean, std, config.seed, value_range(config))


def value_range(config: Config) -> tuple[float, float]:
    """The least and the most a state can be worth: success is paid once, and every step may cost."""
    if config.policy.use_backup_entropy:
        return -math.inf, math.inf  # the entropy bonus has no such bounds
    success = config.task.success
    return -success.step_cost / (1 - config.policy.discount), success.reward - success.step_cost


def max_steps(config: Config) -> int:
    """Control steps until an episode times out."""
    return round(config.task.control_time_s * config.task.fps)
