"""A learner's run without the wire: everything real from the archive to the checkpoints."""

from __future__ import annotations

import dataclasses
import queue
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hilserl.alarms import CollapseGuard
from hilserl.arrivals import Arrivals
from hilserl.build import build_encoder, build_sac, load_demos
from hilserl.checkpoint import latest
from hilserl.config import Config, PolicyConfig, RunConfig, TaskConfig
from hilserl.config_loading import to_json
from hilserl.counters import Counters
from hilserl.encoder import FeatureEncoder
from hilserl.env import task_spec
from hilserl.learner import Budget, Learner
from hilserl.learner_saving import CheckpointSaver, restore
from hilserl.learner_storage import Archive, open_replay, take_in_run
from hilserl.rundir import RunDir
from hilserl.sac_agent import SacAgent
from hilserl.task_record import task_hash
from hilserl.types import End, Episode, Role

torch.set_num_threads(1)
PATIENCE_S = 60.0
POLICY = PolicyConfig(
    vision_encoder_name="random:4:0",
    precision="float32",
    feature_channels=8,
    latent_dim=16,
    hidden_dims=(16, 16),
    num_spatial_embeddings=4,
    batch_size=16,
    utd_ratio=1,
    policy_update_freq=1,
    online_buffer_capacity=100,
    offline_buffer_capacity=150,
)


def small_config(**policy: object) -> Config:
    return Config(
        task=dataclasses.replace(TaskConfig(), resize_size=(32, 32)),
        policy=dataclasses.replace(POLICY, **policy),  # type: ignore[arg-type]
        run=dataclasses.replace(RunConfig(), keep_checkpoints=3, checkpoint_every=15),
    )


def noise_episode(
    config: Config, number: int, role: Role = Role.TRAIN, actor: str = "a", helped: float = 0.0
) -> Episode:
    """An episode of noise; its length, end and interventions follow from its number."""
    spec, rng = task_spec(config.task), np.random.default_rng([number, zlib.crc32(actor.encode())])
    steps = int(rng.integers(3, 20))
    return Episode(
        images={
            name: rng.integers(0, 256, (steps + 1, *spec.image_shape), dtype=np.uint8)
            for name in spec.cameras
        },
        state=rng.normal(0, 0.2, (steps + 1, spec.state_size)).astype(np.float32),
        action=rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
        reward=rng.normal(size=steps).astype(np.float32),
        intervention=rng.random(steps) < helped,
        end=End.SUCCESS if rng.random() < 0.5 else End.TIMEOUT,
        role=role,
        actor=actor,
        number=number,
        policy_version=1,
        seed=number,
        task_hash=task_hash(config.task),
    )


class Killed(BaseException):
    """What ends a process that is killed."""


class Session:
    """One life of a learner on the run in `folder`; a context manager that closes it cleanly.

    session.feed(episodes) plays them to it one by one, each when the updates for those before are done.
    drawn: a checksum of each batch. said: what a person was told.
    """

    def __init__(self, folder: Path, config: Config, budget: dict[str, int] | None = None) -> None:
        self.config, self.said, self.drawn = config, [], []
        self.encodes = 0
        self.run = RunDir.create(folder, "job", to_json(config), (folder / "job").exists())
        self.spec, self.encoder = task_spec(config.task), build_encoder(config)
        self.archive, self.counters = Archive(self.run.episodes), Counters()
        self.guard, self.paused = CollapseGuard(config.policy), False
        self._count_encodes(self.encoder)
        self.replay = open_replay(config, self.spec, self.encoder, self.run.root / "replay", self.said.append)
        load_demos(config, self.replay, self.said.append, known=self.archive.know)
        take_in_run(
            config, self.run, self.replay, self.archive, self.counters, self.said.append, lambda: False
        )
        self.encodes_before = self.encodes
        self.inbox: queue.Queue[Episode] = queue.Queue()
        self.arrivals = Arrivals(self.inbox, self.replay.features_of)
        self._budget = {
            "updates_per_transition": config.policy.utd_ratio,
            "updates_per_call": 1,
            "push_every": 50,
            "log_every": 70,
            "checkpoint_every": config.run.checkpoint_every,
            "max_transitions": 10**6,
            **(budget or {}),
        }
        self.agent: SacAgent | None = None
        self.saver: CheckpointSaver | None = None

    def _count_encodes(self, encoder: FeatureEncoder) -> None:
        encode = encoder.encode

        def counted(images: np.ndarray) -> np.ndarray:
            self.encodes += len(images)
            return encode(images)

        encoder.encode = counted  # type: ignore[method-assign]

    def begin_learning(self) -> SacAgent:
        """Needs something to learn from; restores the newest checkpoint."""
        if self.agent is None:
            self.agent = SacAgent(
                build_sac(self.config, self.spec, self.replay, self.encoder), self.replay, self.encoder
            )
            if (newest := latest(self.run.checkpoints)) is not None:
                restore(newest, self.agent, self.counters, self.guard)
            self.agent.sample = self._watched(self.agent.sample)  # type: ignore[method-assign]
            self.saver = CheckpointSaver(
                self.config,
                self.run.checkpoints,
                self.spec,
                self.agent,
                self.encoder,
                self.counters,
                self.guard,
            )
        return self.agent

    def _watched(self, sample: Callable) -> Callable:
        def watched():
            batch = sample()
            crc = 0
            for field in dataclasses.fields(batch):
                crc = zlib.crc32(getattr(batch, field.name).numpy().tobytes(), crc)
            self.drawn.append(crc)
            return batch

        return watched

    def feed(self, episodes: list[Episode], *, kill: bool = False) -> None:
        """kill: as if the process were killed when the last is archived, whatever is going on."""
        agent, waiting = self.begin_learning(), list(episodes)
        arrived = [0]

        def should_stop() -> bool:
            c = self.counters
            if c.updates < self._budget["updates_per_transition"] * c.transitions or arrived[0]:
                return False
            if not waiting:
                return True
            episode = waiting.pop(0)
            self.archive.store(episode)
            if kill and not waiting:
                raise Killed
            arrived[0] += 1
            self.inbox.put(episode)
            return False

        Learner(
            agent=agent,
            store=self.replay,
            arrivals=self.arrivals,
            publisher=self,
            saver=self.saver,
            watch=self,
            counters=self.counters,
            budget=Budget(**self._budget),
            on_log=lambda values: None,
            on_episode=lambda episode: arrived.__setitem__(0, arrived[0] - 1),
            eval_group=3,
        ).run(should_stop)

    def publish(self, weights: object) -> None:
        pass

    def progress(self, transitions: int, updates: int) -> None:
        pass

    def actors(self) -> list[str]:
        return []

    def episode(self, episode: Episode) -> None:
        self.guard.episode(episode)

    def look(self, work: object, *, owing: bool, actors: object) -> None:
        pass

    def row(self, values: dict[str, float], large_inputs: dict[str, int]) -> dict[str, float]:
        self.guard.row(values, large_inputs)
        return {}

    def end_threads(self) -> None:
        """What the end of a process does to its threads; what was handed over is written."""
        self.arrivals.close()
        if self.saver is not None:
            self.saver.__exit__(None, None, None)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self.end_threads()
        if kind is None:
            self.replay.close()
        self.run.close()
