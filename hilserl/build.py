"""The composition root of learning: from a Config to encoder, replay, SAC and the acting policy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hilserl.acting import ActingPolicy
from hilserl.checkpoint import load_pretrained
from hilserl.config import Config, ConfigError
from hilserl.contract import ContractMismatch
from hilserl.episode import TASK_FILE, EpisodeInfo, load_episode, scan_episodes
from hilserl.metrics import train_names
from hilserl.parallel import Order, Processes
from hilserl.replay import Key, Replay
from hilserl.sac import SAC, Group, Sample
from hilserl.sampling import Batch
from hilserl.task_record import check_task
from hilserl.types import Episode, Obs, Spec
from hilserl.vision import FeatureEncoder, load_trunk, principal_projection
from robot.types import F32, U8

ENCODER_KEY = "encoder_sha256"
"""Name under which published weights carry the hash of the image encoder training began with."""
PROJECTION_KEY = "projection"
"""Name under which they carry the encoder's projection where it was computed from demonstrations."""
_PROJECTION_PICTURES = 512
"""Demonstrated pictures the projection is computed from: 16 positions of each, thousands of vectors."""


Known = Callable[[Key, Path], None]
"""Hears where each episode's file is."""


class Stopped(Exception):
    """The end was asked for before learning began."""


def build_encoder(config: Config) -> FeatureEncoder:
    """The image encoder of this configuration; one of principal channels still lacks its projection."""
    policy = config.policy
    return FeatureEncoder(
        load_trunk(policy.vision_encoder_name),
        policy.feature_channels,
        seed=None if policy.feature_projection == "pca" else 0,
        device=policy.device,
    )


def learner_encoder(config: Config, checkpoint: Path | None) -> FeatureEncoder:
    """The learner's image encoder: principal channels are those of `checkpoint`, or of the demonstrations."""
    encoder = build_encoder(config)
    if encoder.complete:
        return encoder
    if checkpoint is not None:
        projection = load_pretrained(checkpoint).tensors["encoder.projection"]
        encoder.project(torch.from_numpy(np.array(projection)))
        return encoder
    pictures = _demonstrated_pictures(config)
    encoder.project(principal_projection(encoder.trunk, pictures, encoder.channels))
    return encoder


def _demonstrated_pictures(config: Config) -> U8:
    """Evenly spread over all demonstrations, uint8 (N, H, W, 3), all cameras."""
    infos = [info for folder in config.demos for info in scan_episodes(Path(folder))]
    if not infos:
        raise ConfigError(
            'policy.feature_projection is "pca", which is computed from demonstrations: name some in demos, '
            'or use "random"'
        )
    each = -(-_PROJECTION_PICTURES // (len(infos) * len(config.task.camera_ids)))
    parts: list[U8] = []
    for info in infos:
        for images in load_episode(info.path).images.values():
            parts.append(images[:: max(1, len(images) // each)])
    return np.concatenate(parts)


def set_threads(config: Config) -> None:
    """Give torch the configured number of threads."""
    if config.run.num_threads:
        torch.set_num_threads(config.run.num_threads)


class Player:
    """An ActingPolicy as the rollout wants one. deterministic: squashed mean instead of a draw."""

    def __init__(self, spec: Spec, config: Config, encoder: FeatureEncoder, *, deterministic: bool) -> None:
        self._policy = ActingPolicy(spec, config.policy, encoder)
        self._encoder, self._encoder_hash = encoder, encoder.hash()
        self._generator = torch.Generator().manual_seed(config.seed)
        self.deterministic = deterministic
        self.noise_scale = 1.0

    def load(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Take published weights. Raises ContractMismatch when they belong to another image encoder."""
        tensors = dict(weights)
        theirs = tensors.pop(ENCODER_KEY).tobytes().hex()
        projection = tensors.pop(PROJECTION_KEY, None)
        if projection is not None and not self._encoder.complete:
            self._encoder.project(torch.from_numpy(np.array(projection)))
            self._encoder_hash = self._encoder.hash()
        if theirs != self._encoder_hash:
            raise ContractMismatch(
                f"the learner trains on an image encoder with hash {theirs[:16]}, this actor loaded "
                f"{self._encoder_hash[:16]}: give both the same policy.vision_encoder_name, "
                "policy.feature_channels and policy.feature_projection"
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
    """SAC on a Replay, as the learner's loop wants an Agent.

    encoder: the one that training began with. others: the processes that share each batch, of which this is
    rank 0; they must hear of every change, so pretraining and updates go through here.
    """

    def __init__(
        self, sac: SAC, replay: Replay, encoder: FeatureEncoder, others: Processes | None = None
    ) -> None:
        self.sac, self.replay, self.encoder_hash, self._others = sac, replay, encoder.hash(), others
        self._constants = {ENCODER_KEY: np.frombuffer(bytes.fromhex(self.encoder_hash), np.uint8)}
        self.sample_s = 0.0
        if sac.config.feature_projection == "pca" and encoder.projection is not None:
            self._constants[PROJECTION_KEY] = encoder.projection.cpu().numpy()

    def sample(self) -> Batch:
        """A batch with the configured share of demonstrations."""
        start_s = time.monotonic()
        batch = self.replay.sample(self.sac.config.batch_size, self.sac.config.demo_fraction)
        self.sample_s += time.monotonic() - start_s
        return batch

    def demonstrations(self) -> Batch:
        """A batch of demonstrations only."""
        return self.replay.sample(self.sac.config.batch_size, 1.0)

    def update(self, critic_updates: int) -> None:
        """`critic_updates` critic steps and one actor step."""
        with self._shared(Order.UPDATE, critic_updates, self.sample) as sample:
            self.sac.update(sample, critic_updates)

    def pretrain(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Clone the demonstrations and value the clone, as configured. Raises Stopped when asked to stop."""

        def watched() -> Batch:
            if should_stop():
                raise Stopped
            return self.demonstrations()

        policy = self.sac.config
        with self._shared(Order.PRETRAIN_BC, policy.bc_pretrain_steps, watched) as sample:
            self.sac.pretrain_bc(sample, policy.bc_pretrain_steps)
        with self._shared(Order.PRETRAIN_CRITIC, policy.critic_pretrain_steps, watched) as sample:
            self.sac.pretrain_critic(sample, policy.critic_pretrain_steps)

    def share_state(self) -> None:
        """Make the others what this process is: at the start, and after a restored checkpoint."""
        if self._others is not None:
            self._others.order(Order.STATE)
            self._others.send_state(*self.sac.state_dict())

    def close(self) -> None:
        """Let the other processes end."""
        if self._others is not None:
            self._others.order(Order.STOP)
            self._others.close()

    @contextmanager
    def _shared(self, order: Order, count: int, sample: Sample) -> Iterator[Sample]:
        """`sample`, or where several processes learn, this one's share of it while `order` lasts."""
        others = self._others
        if others is None:
            yield sample
            return
        others.order(order, count)
        drawn = 0

        def share() -> Batch:
            nonlocal drawn
            batch = others.share(sample())
            drawn += 1
            return batch

        try:
            yield share
        finally:
            if drawn < count:
                others.end()

    def weights(self) -> dict[str, NDArray[Any]]:
        """What an actor needs, with the encoder's hash."""
        return {**self.sac.actor_weights(), **self._constants}

    def metrics(self) -> dict[str, float]:
        """The glossary's train/ metrics since the last call."""
        return train_names({**self.sac.metrics(), **self.replay.metrics()})

    def large_inputs(self) -> dict[str, int]:
        """Critic updates in a row in which each state component was too often far out of range."""
        return self.sac.large_inputs()


def build_replay(config: Config, spec: Spec, encoder: FeatureEncoder, folder: Path | None = None) -> Replay:
    """A replay as configured: empty and in memory, or what the files in `folder` hold.

    Raises LayoutChanged when these were made for something else.
    """
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
        n_step=policy.n_step,
        discount=policy.discount,
        seed=config.seed,
        cache_features=policy.cache_features,
        folder=folder,
        encoder_hash=encoder.hash(),
        fps=config.task.fps,
    )


def load_demos(
    config: Config,
    replay: Replay,
    message: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
    known: Known = lambda _key, _path: None,
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
        for info in episodes:
            if should_stop():
                raise Stopped
            take_in(info, replay, known)
        steps = sum(info.length for info in episodes)
        message(f"{len(episodes)} demonstrations ({steps} transitions) from {folder}")


def take_in(info: EpisodeInfo, replay: Replay, known: Known) -> tuple[Episode, bool]:
    """Add a stored episode unless the replay holds it; the episode, without pictures, and whether it was."""
    episode = load_episode(info.path, pictures=False)
    key = Key.of(episode)
    known(key, info.path)
    if replay.holds(key):
        return episode, False
    replay.add(load_episode(info.path))
    return episode, True


def build_sac(
    config: Config, spec: Spec, replay: Replay, encoder: FeatureEncoder, group: Group | None = None
) -> SAC:
    """SAC with state statistics computed from the replay. group: the processes that share each batch."""
    mean, std = replay.state_statistics()
    return sac_of(config, spec, encoder, mean, std, group)


def sac_of(
    config: Config, spec: Spec, encoder: FeatureEncoder, mean: F32, std: F32, group: Group | None = None
) -> SAC:
    """SAC for states of this mean and spread (S,)."""
    return SAC(
        spec,
        config.policy,
        encoder.feature_shape(spec.image_shape),
        mean,
        std,
        config.seed,
        value_range(config),
        encoder=None if config.policy.cache_features else encoder,
        group=group,
    )


def value_range(config: Config) -> tuple[float, float]:
    """The least and the most a state can be worth: success is paid once, and every step may cost."""
    if config.policy.use_backup_entropy:
        return -math.inf, math.inf  # the entropy bonus has no such bounds
    success = config.task.success
    return -success.step_cost / (1 - config.policy.discount), success.reward - success.step_cost


def max_steps(config: Config) -> int:
    """Control steps until an episode times out."""
    return round(config.task.control_time_s * config.task.fps)
