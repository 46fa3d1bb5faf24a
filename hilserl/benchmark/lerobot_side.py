"""lerobot's own policy, algorithm, buffer and trainer, built from the installed package at the seed's shapes.

Nothing of theirs is rewritten. What is chosen, and why:

* Their encoder id cannot be assumed to be downloadable: a transformers ResNet of the same size, with random
  weights, is saved to a folder and loaded from there by their own code.
* Batches are half demonstrations, from two buffers, as in their learner with a dataset.
* Batches are gathered in the training thread. Their prefetching thread would compete with the update for
  the same cores, and with the other side's turn in an alternating measurement.
* All four action components are continuous, as in the seed's configuration.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.gaussian_actor.configuration_gaussian_actor import GaussianActorConfig
from lerobot.policies.gaussian_actor.modeling_gaussian_actor import GaussianActorPolicy
from lerobot.policies.gaussian_actor.processor_gaussian_actor import (
    make_gaussian_actor_pre_post_processors,
)
from lerobot.rl.algorithms.sac.configuration_sac import SACAlgorithmConfig
from lerobot.rl.algorithms.sac.sac_algorithm import SACAlgorithm
from lerobot.rl.buffer import ReplayBuffer, random_shift
from lerobot.rl.data_sources.data_mixer import OnlineOfflineMixer
from lerobot.rl.trainer import RLTrainer
from lerobot.transport.utils import state_to_bytes, transitions_to_bytes
from lerobot.utils.transition import Transition, move_transition_to_device
from torch import Tensor

from hilserl.types import ACTION_SIZE, Episode, Role, Spec

STATE_KEY = "observation.state"
_HIDDEN_SIZES = [64, 128, 256, 512]
_NEVER = 10**12


def save_resnet10(folder: Path) -> Path:
    """Write a transformers ResNet of ResNet10's size with random weights, for `from_pretrained`."""
    import transformers

    package: Any = transformers  # its annotations do not hold
    config = package.ResNetConfig(
        embedding_size=64, hidden_sizes=_HIDDEN_SIZES, depths=[1, 1, 1, 1], layer_type="basic"
    )
    package.logging.disable_progress_bar()
    torch.manual_seed(0)
    package.ResNetModel(config).save_pretrained(folder)
    return folder


def image_key(camera: str) -> str:
    """What lerobot calls a camera's picture."""
    return f"observation.images.{camera}"


def _observation(episode: Episode, index: int) -> dict[str, Tensor]:
    """What their environment processor makes of an observation: pictures float32 (1, 3, H, W) in [0, 1]."""
    pictures = {
        image_key(name): torch.from_numpy(images[index]).permute(2, 0, 1)[None].contiguous().float() / 255
        for name, images in episode.images.items()
    }
    return {**pictures, STATE_KEY: torch.from_numpy(episode.state[index])[None]}


def transitions(episode: Episode) -> list[Transition]:
    """The episode as their actor collects it.

    What follows one step is what the next begins with: the same tensors.
    """
    seen = [_observation(episode, index) for index in range(len(episode) + 1)]
    last = len(episode) - 1
    return [
        Transition(
            state=dict(seen[step]),
            action=torch.from_numpy(episode.action[step])[None],
            reward=float(episode.reward[step]),
            next_state=dict(seen[step + 1]),
            done=step == last and episode.end.terminal,
            truncated=step == last and not episode.end.terminal,
            complementary_info={
                "discrete_penalty": torch.tensor([0.0]),
                "is_intervention": bool(episode.intervention[step]),
            },
        )
        for step in range(len(episode))
    ]


def wire_bytes(episode: Episode, *, shared: bool) -> float:
    """Bytes per transition their actor sends for `episode`, by their own serialisation.

    shared: the policy runs on the CPU, so that consecutive transitions hold the same tensors and are
    serialised once; otherwise each transition was copied from a GPU and holds both observations.
    """
    sent = [move_transition_to_device(one, "cpu") for one in transitions(episode)]
    if not shared:
        for one in sent:
            one["next_state"] = {key: value.clone() for key, value in one["next_state"].items()}
    return len(transitions_to_bytes(sent)) / len(episode)


class _InThisThread(OnlineOfflineMixer):  # type: ignore[misc]
    """Their mixer without their prefetching thread."""

    def get_iterator(
        self, batch_size: int, async_prefetch: bool = True, queue_size: int = 2
    ) -> Iterator[Any]:
        batches: Iterator[Any] = super().get_iterator(batch_size, async_prefetch=False, queue_size=1)
        return batches


class LeRobot:
    """Their learner on `episodes` of `spec`, demonstrations in the offline buffer.

    encoder: folder of `save_resnet10`. compile_shift: their default, a torch.compile'd random shift; False
    hands them their own function uncompiled, which spares half a minute of compilation.
    """

    def __init__(
        self,
        spec: Spec,
        episodes: Iterable[Episode],
        encoder: Path,
        *,
        batch_size: int,
        device: str = "cpu",
        compile_shift: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.spec, self.device = spec, device
        self.policy_config = self._policy_config(encoder)
        self.policy = GaussianActorPolicy(self.policy_config)
        self.policy.train()
        config = SACAlgorithmConfig.from_policy_config(self.policy_config)
        config.discount, config.temperature_init = 0.97, 0.01
        config.target_entropy, config.use_backup_entropy = -2.0, False
        self.algorithm = SACAlgorithm(self.policy, config)
        self.shift = None if compile_shift else functools.partial(random_shift, pad=4)
        stored = list(episodes)
        self.offline = self.buffer([e for e in stored if e.role is Role.DEMO])
        self.online = self.buffer([e for e in stored if e.role is not Role.DEMO])
        preprocessor, _ = make_gaussian_actor_pre_post_processors(
            self.policy_config, self.policy_config.dataset_stats
        )
        self.trainer = RLTrainer(
            self.algorithm,
            _InThisThread(self.online, self.offline, 0.5),
            batch_size,
            preprocessor=preprocessor,
        )

    def _policy_config(self, encoder: Path) -> GaussianActorConfig:
        height, width, _ = self.spec.image_shape
        inputs = {
            image_key(name): PolicyFeature(FeatureType.VISUAL, (3, height, width))
            for name in self.spec.cameras
        }
        inputs[STATE_KEY] = PolicyFeature(FeatureType.STATE, (self.spec.state_size,))
        size, actions = self.spec.state_size, ACTION_SIZE
        pixels = {"mean": [[[0.485]], [[0.456]], [[0.406]]], "std": [[[0.229]], [[0.224]], [[0.225]]]}
        stats: dict[str, dict[str, list[Any]]] = {image_key(name): pixels for name in self.spec.cameras}
        stats |= {
            STATE_KEY: {"min": [-1.0] * size, "max": [1.0] * size},
            "action": {"min": [-1.0] * actions, "max": [1.0] * actions},
        }
        return GaussianActorConfig(
            input_features=inputs,
            output_features={"action": PolicyFeature(FeatureType.ACTION, (actions,))},
            dataset_stats=stats,
            device=self.device,
            vision_encoder_name=str(encoder),
            freeze_vision_encoder=True,
            latent_dim=256,
            push_to_hub=False,
        )

    def buffer(self, episodes: list[Episode], *, optimize_memory: bool = True) -> ReplayBuffer:
        """Their buffer holding `episodes`, made as their learner makes it (optimize_memory)."""
        buffer = ReplayBuffer(
            capacity=sum(len(episode) for episode in episodes),
            device=self.device,
            state_keys=list(self.policy_config.input_features),
            image_augmentation_function=self.shift,
            optimize_memory=optimize_memory,
        )
        for episode in episodes:
            for one in transitions(episode):
                buffer.add(**one)
        return buffer

    def set_batch(self, batch_size: int) -> None:
        """Gather `batch_size` transitions per update from now on."""
        self.trainer.batch_size = batch_size
        self.trainer.reset_data_iterator()

    def critic_updates(self, count: int) -> None:
        """`count` critic updates on fresh batches, and nothing else."""
        # Their update does its last critic step apart, and the actor's only when the step count divides.
        self.algorithm.config.utd_ratio, self.algorithm.config.policy_update_freq = 1, _NEVER
        self.algorithm.optimization_step = 1
        for _ in range(count):
            self.trainer.training_step()

    def full_steps(self, utd_ratio: int, count: int) -> None:
        """`count` whole updates: `utd_ratio` critic steps, one actor and one temperature step each."""
        self.algorithm.config.utd_ratio, self.algorithm.config.policy_update_freq = utd_ratio, 1
        for _ in range(count):
            self.trainer.training_step()

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Trunk features of pictures float32 (B, 3, H, W), by the code their update calls."""
        first = image_key(self.spec.cameras[0])
        encoder = self.policy.actor.encoder
        batch = {image_key(name): pictures for name in self.spec.cameras}
        features: Tensor = encoder.get_cached_image_features(batch)[first]
        return features

    def weight_bytes(self) -> int:
        """Bytes their learner pushes to the actors, frozen encoder included, as it does."""
        return len(state_to_bytes(self.algorithm.get_weights()))

    def parameters(self) -> dict[str, int]:
        """Parameter counts: the frozen trunk, and what one critic update moves."""
        trunk = self.policy.encoder_critic.image_encoder
        critic = [p for p in self.algorithm.critic_ensemble.parameters() if p.requires_grad]
        return {
            "trunk": sum(p.numel() for p in trunk.parameters()),
            "critic": sum(p.numel() for p in critic),
        }


def buffer_bytes(buffer: ReplayBuffer) -> float:
    """Bytes per transition of every tensor their buffer holds; shared ones counted once."""
    tensors: dict[int, int] = {}
    for group in (buffer.states, buffer.next_states, buffer.complementary_info):
        tensors |= {t.data_ptr(): t.numel() * t.element_size() for t in group.values()}
    for one in (buffer.actions, buffer.rewards, buffer.dones, buffer.truncateds, buffer.episode_ends):
        tensors[one.data_ptr()] = one.numel() * one.element_size()
    return float(sum(tensors.values()) / buffer.capacity)
