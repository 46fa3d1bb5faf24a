"""What a learner's checkpoint holds: a snapshot taken in the loop, completed and written beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilserl.acting import ENCODER
from hilserl.alarms import CollapseGuard
from hilserl.checkpoint import load_pretrained, load_training_state, save_checkpoint
from hilserl.checkpoint_writer import CheckpointWriter
from hilserl.config import Config
from hilserl.contract import build_contract, check_encoder
from hilserl.counters import Counters
from hilserl.doctor.result import METADATA
from hilserl.encoder import FeatureEncoder
from hilserl.player import Player, encoder_mark
from hilserl.sac_agent import SacAgent
from hilserl.types import Obs, Spec

Arrays = dict[str, NDArray[Any]]
GOLDEN_OFFSET = 0.05
"""How far the golden state is from the mean in every component [rad, rad/s, m]."""
_ACTING = "net."
"""Tensors of the learner whose names start so are the acting policy's; ENCODER: an encoder's that learns."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that changes, copied: the learner may go on while it is written."""

    transitions: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def snapshot(agent: SacAgent, counters: Counters, guard: CollapseGuard) -> Snapshot:
    """Copy what a checkpoint needs."""
    tensors, plain = agent.sac.state_dict()
    state = {
        "sac": plain,
        "replay_rng": agent.replay.rng.bit_generator.state,
        "updates": counters.updates,
        "version": counters.version,
        "episodes": counters.episodes,
        "best_success": counters.best_success,
        "minutes": counters.minutes,
        "numbers": dict(counters.numbers),
        "guard": guard.state(),
    }
    return Snapshot(counters.transitions, tensors, state)


class CheckpointSaver:
    """Saves one run's checkpoints; also a context manager, whose end waits until all is written.

    `save` copies what changes and returns; everything else, the golden pair included, is done by the
    writer's thread. on_saved(path, best) is called there. preflight: what it said, for the policy's contract.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        spec: Spec,
        agent: SacAgent,
        encoder: FeatureEncoder,
        counters: Counters,
        guard: CollapseGuard,
        on_saved: Callable[[Path, bool], None] = lambda _path, _best: None,
        preflight: str = "",
    ) -> None:
        self._folder, self._keep = folder, config.run.keep_checkpoints
        self._agent, self._counters, self._guard, self._on_saved = agent, counters, guard, on_saved
        self._config, self._spec, self._preflight = config, spec, preflight
        # One that learns is loaded with each snapshot's weights, and must not be the one that is learning.
        self._encoder = encoder if config.policy.freeze_vision_encoder else copy.deepcopy(encoder)
        self._encoder_key = encoder_mark(self._encoder.hash())
        self._player = Player(spec, config, self._encoder, deterministic=True)
        self._writer = CheckpointWriter(self._write)

    def save(self, best: bool) -> None:
        """Have a checkpoint of now written. Raises WritingFailed when an earlier one could not be."""
        self._writer.submit(snapshot(self._agent, self._counters, self._guard), best=best)

    def check(self) -> None:
        """Raise WritingFailed when a checkpoint could not be written."""
        self._writer.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def _write(self, taken: Snapshot, best: bool) -> None:
        self._agent.replay.sync()  # so that after a power cut the replay is no older than the checkpoint
        tensors = {name: tensor.numpy() for name, tensor in taken.tensors.items()}
        acting = {n.removeprefix(_ACTING): array for n, array in tensors.items() if n.startswith(_ACTING)}
        learned = {name: array for name, array in tensors.items() if name.startswith(ENCODER)}
        self._player.load(acting | learned | self._encoder_key)
        golden_inputs, golden_outputs = self._golden(acting["normalise.mean"])
        model = {f"policy.{name}": array for name, array in acting.items()}
        model |= {f"{ENCODER}{name}": array for name, array in encoder_arrays(self._encoder).items()}
        config = self._config
        contract = build_contract(self._spec, config.task, config.policy, self._encoder.hash())
        path = save_checkpoint(
            self._folder,
            taken.transitions,
            model=model,
            contract=contract | {METADATA: self._preflight},
            training_tensors=tensors,
            training_state=taken.state,
            keep=self._keep,
            best=best,
            golden_inputs=golden_inputs,
            golden_outputs=golden_outputs,
        )
        self._on_saved(path, best)

    def _golden(self, mean: NDArray[Any]) -> tuple[Arrays, Arrays]:
        """An input and the loaded policy's answer to it, by which a rebuilt policy is recognised."""
        # Not the mean itself: there any spread, however wrong, gives zeros.
        obs = golden_observation(self._spec, mean + GOLDEN_OFFSET)
        self._player.reset()
        inputs = {f"image.{name}": image for name, image in obs.images.items()} | {"state": obs.state}
        return inputs, {"action": self._player.act(obs)}


def restore(checkpoint: Path, agent: SacAgent, counters: Counters, guard: CollapseGuard) -> None:
    """Continue from a checkpoint: networks, optimisers, random numbers, counters, successes so far.

    counters.transitions, episodes and numbers are left alone: they follow from the episodes on disk. Raises
    ContractMismatch when the checkpoint was trained on another image encoder.
    """
    pretrained = load_pretrained(checkpoint)
    if agent.sac.config.freeze_vision_encoder:  # one that learns is among the tensors
        check_encoder(pretrained.contract, agent.encoder_hash, str(pretrained.path))
    saved = load_training_state(checkpoint)
    agent.sac.load_state_dict(
        {name: torch.from_numpy(np.array(array)) for name, array in saved.tensors.items()}, saved.state["sac"]
    )
    agent.replay.rng.bit_generator.state = saved.state["replay_rng"]
    counters.updates, counters.version = saved.state["updates"], saved.state["version"]
    counters.best_success, counters.minutes = saved.state["best_success"], saved.state["minutes"]
    guard.load_state(saved.state["guard"])


def encoder_arrays(encoder: FeatureEncoder) -> Arrays:
    """The frozen encoder's tensors, so that a checkpoint needs no other file."""
    return {name: tensor.cpu().contiguous().numpy() for name, tensor in encoder.module.state_dict().items()}


def golden_observation(spec: Spec, state: NDArray[Any]) -> Obs:
    """One fixed observation: noise pictures, and the given state."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, spec.image_shape, dtype=np.uint8) for name in spec.cameras}
    return Obs(images, state.astype(np.float32))
