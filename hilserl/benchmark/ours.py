"""This project's learner at the same shapes and on the same episodes as lerobot's.

The one place that knows how replay, encoder and SAC are put together for a measurement.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from hilserl.benchmark.actors import episode_obs, steps_of
from hilserl.build import build_sac
from hilserl.config import Config, PolicyConfig
from hilserl.encoder import FeatureEncoder
from hilserl.episode import EpisodeHeader, save_episode
from hilserl.replay import Batch, Replay
from hilserl.types import Episode, Role, Spec, Weights
from hilserl.vision import F16, load_trunk
from hilserl.wire_codec import first_to_proto, last_to_proto, next_to_proto, weights_to_proto
from robot.types import U8

TRUNK = "random:64:0"
"""A trunk of the published size with random weights, as the other side's."""
DEMO_FRACTION = 0.5


def plain_encoder(channels: int, device: str = "cpu") -> FeatureEncoder:
    """The frozen trunk, and the projection to `channels`."""
    return FeatureEncoder(load_trunk(TRUNK), channels, device=device)


class TableEncoder(FeatureEncoder):
    """An encoder that answers from a table of real features, in turn, instead of computing them.

    For filling a large replay quickly: the time of an update does not depend on which picture it is about.
    """

    def __init__(self, channels: int, pictures: U8, device: str = "cpu") -> None:
        super().__init__(load_trunk(TRUNK), channels, device=device)
        self._table = np.concatenate(
            [super().encode(pictures[i : i + 8]) for i in range(0, len(pictures), 8)]
        )
        self._next = 0

    def encode(self, images: U8) -> F16:
        """Features float16 (B, C, h, w) of some pictures."""
        rows = (self._next + np.arange(len(images))) % len(self._table)
        self._next += len(images)
        features: F16 = self._table[rows]
        return features


def policy_config(channels: int, copies: int, device: str) -> PolicyConfig:
    """The seed's policy with `channels` feature channels and `copies` shifted copies of each frame."""
    return replace(
        PolicyConfig(),
        vision_encoder_name=TRUNK,
        feature_channels=channels,
        feature_copies=copies,
        device=device,
        demo_fraction=DEMO_FRACTION,
    )


def make_replay(
    spec: Spec,
    encoder: FeatureEncoder,
    policy: PolicyConfig,
    frames: tuple[int, int],
    folder: Path | None = None,
) -> Replay:
    """An empty replay for frames = (online, protected), in memory or in `folder`."""
    return Replay(
        spec,
        encoder.encode,
        feature_shape=encoder.feature_shape(spec.image_shape),
        capacity=frames[0],
        protected_capacity=frames[1],
        copies=policy.feature_copies,
        discount=policy.discount,
        folder=folder,
        encoder_hash=encoder.hash(),
        cache_features=policy.cache_features,
    )


class Ours:
    """Our learner on `episodes` of `spec`. batch_size may be changed between measurements.

    frames: capacity (online, protected); None: as many as the episodes have.
    """

    def __init__(
        self,
        spec: Spec,
        episodes: Iterable[Episode],
        encoder: FeatureEncoder,
        *,
        copies: int,
        batch_size: int,
        device: str = "cpu",
        folder: Path | None = None,
        frames: tuple[int, int] | None = None,
    ) -> None:
        stored = list(episodes)
        self.spec, self.batch_size, self.encoder = spec, batch_size, encoder
        self.config = Config(policy=policy_config(encoder.channels, copies, device))
        demos = sum(len(e) + 1 for e in stored if e.role is Role.DEMO)
        online = sum(len(e) + 1 for e in stored) - demos
        self.replay = make_replay(spec, encoder, self.config.policy, frames or (online, demos), folder)
        for episode in stored:
            self.replay.add(episode)
        self.sac = build_sac(self.config, spec, self.replay, encoder)

    def sample(self) -> Batch:
        """A batch, half of it demonstrations."""
        return self.replay.sample(self.batch_size, DEMO_FRACTION)

    def critic_updates(self, count: int) -> None:
        """`count` critic updates on fresh batches, and nothing else."""
        self.sac.pretrain_critic(self.sample, count)

    def full_steps(self, utd_ratio: int, count: int) -> None:
        """`count` whole updates: `utd_ratio` critic steps, one actor and one temperature step each."""
        for _ in range(count):
            self.sac.update(self.sample, utd_ratio)

    def weight_bytes(self) -> int:
        """Bytes of the message that carries the acting policy to the actors."""
        return int(weights_to_proto(Weights(1, self.sac.actor_weights())).ByteSize())

    def parameters(self) -> dict[str, int]:
        """Parameter counts: the frozen trunk, and what one critic update moves."""
        critic = self.sac.optimisers["critic"].param_groups[0]["params"]
        return {
            "trunk": sum(p.numel() for p in self.encoder.trunk.parameters()),
            "critic": sum(p.numel() for p in critic),
        }


def feature_bytes(replay: Replay) -> float:
    """Bytes per slot of the cached features."""
    arrays = replay.online.arrays
    return arrays["features"].nbytes / replay.online.capacity if "features" in arrays else 0.0


def row_bytes(replay: Replay) -> float:
    """Bytes per slot of every column but the features: pictures too, where the replay keeps those."""
    arrays = replay.online.arrays
    return sum(a.nbytes for name, a in arrays.items() if name != "features") / replay.online.capacity


def archive_bytes(episode: Episode) -> float:
    """Bytes per transition of the episode's file, its pictures losslessly compressed."""
    with tempfile.TemporaryDirectory() as folder:
        return save_episode(Path(folder), episode).stat().st_size / len(episode)


def header_of(episode: Episode) -> EpisodeHeader:
    """What is known of `episode` before its first step."""
    return EpisodeHeader(
        episode.actor, episode.number, episode.role, episode.policy_version, episode.seed, episode.task_hash
    )


def wire_bytes(episode: Episode) -> float:
    """Bytes per transition of the records an actor streams for `episode`."""
    header = header_of(episode)
    records = [first_to_proto(header, episode_obs(episode, 0))]
    records += [next_to_proto(header, i + 1, step) for i, step in enumerate(steps_of(episode))]
    records.append(last_to_proto(header, len(episode) + 1, episode.end, {}))
    return float(sum(record.ByteSize() for record in records) / len(episode))
