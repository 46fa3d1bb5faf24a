"""What moves the arm: the networks acting needs, and the policy that keeps a history and draws actions."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hilserl.config import PolicyConfig
from hilserl.encoder import FeatureEncoder
from hilserl.networks import Actor, ImageHeads, Normalise
from hilserl.types import Obs, Spec
from hilserl.vision import tensor_faults
from robot.types import F32

ENCODER = "encoder."
"""Before the names of an encoder's tensors, where it learns too."""
Shape = tuple[int, int, int]
Arrays = Mapping[str, NDArray[Any]]


class WeightsError(Exception):
    """Policy weights or a learner state do not fit; names each tensor that differs."""


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    """Raise WeightsError naming every tensor of `found` that is missing, unknown, misshapen or not finite."""
    faults = tensor_faults(expected, found)
    if faults:
        raise WeightsError(f"{what} does not fit this policy: " + "; ".join(faults))


class PolicyNet(nn.Module):
    """Everything acting needs: state statistics, image heads, actor."""

    def __init__(self, spec: Spec, policy: PolicyConfig, shape: Shape, mean: F32, std: F32) -> None:
        super().__init__()
        frames, cameras = policy.n_obs_steps, len(spec.cameras)
        self.embedding = frames * cameras * policy.latent_dim
        self.normalise = Normalise(mean, std)
        self.heads = ImageHeads(
            cameras, shape, policy.num_spatial_embeddings, policy.latent_dim, policy.dropout
        )
        self.actor = Actor(
            self.embedding,
            frames * spec.state_size,
            policy.latent_dim,
            policy.hidden_dims,
            len(spec.action_names),
        )


@dataclass(slots=True)
class _Seen:
    """One observation of the history; its features (K, C, h, w) are computed when first needed."""

    obs: Obs
    features: Tensor | None = None


class ActingPolicy:
    """Draws actions from observations. Refuses to act before the first `load`.

    Every observation of an episode goes through it in order: through `act`, or through `observe` where the
    operator acts, so that stacked frames (n_obs_steps) are the ones the replay will stack.
    """

    def __init__(self, spec: Spec, policy: PolicyConfig, encoder: FeatureEncoder) -> None:
        zeros = np.zeros(spec.state_size, np.float32)
        self.spec, self.encoder = spec, encoder
        shape = encoder.feature_shape(spec.image_shape)
        self.net = PolicyNet(spec, policy, shape, zeros, zeros).eval().requires_grad_(False)
        self._frames = policy.n_obs_steps
        self._history: deque[_Seen] = deque(maxlen=policy.n_obs_steps)
        self._loaded = False

    def load(self, weights: Arrays) -> None:
        """Take over `SAC.actor_weights`, an encoder that learns included.

        Raises WeightsError naming what does not fit; nothing is then taken over.
        """
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
        seen = {name: tensors.pop(name) for name in list(tensors) if name.startswith(ENCODER)}
        check_tensors(self.net.state_dict(), tensors, "the actor bundle")
        if seen:
            eye = self.encoder.module
            found = {name.removeprefix(ENCODER): tensor for name, tensor in seen.items()}
            check_tensors(eye.state_dict(), found, "the actor bundle's encoder")
            eye.load_state_dict(found)
        self.net.load_state_dict(tensors)
        self._loaded = True

    def reset(self) -> None:
        """A new episode begins: forget the observations seen so far."""
        self._history.clear()

    def observe(self, obs: Obs) -> None:
        """Take note of an observation that somebody else acts on. Costs nothing unless frames are stacked."""
        for name in self.spec.cameras:
            shape = obs.images[name].shape if name in obs.images else None
            if shape != self.spec.image_shape:
                raise ValueError(f"image {name!r} must be {self.spec.image_shape}, got {shape}")
        if obs.state.shape != (self.spec.state_size,):
            raise ValueError(f"state must be ({self.spec.state_size},), got {obs.state.shape}")
        self._history.append(_Seen(obs))

    @torch.inference_mode()
    def act(
        self,
        obs: Obs,
        mode: Literal["sample", "mean"],
        generator: torch.Generator | None = None,
        noise_scale: float = 1.0,
    ) -> F32:
        """The action float32 (4,) in [-1, 1] after `obs`.

        mode: "mean" is the squashed mean, "sample" a draw from the policy, its noise scaled by noise_scale.
        """
        if not self._loaded:
            raise WeightsError("no policy weights have been loaded yet: call load() before act()")
        if mode not in ("sample", "mean"):
            raise ValueError(f'mode must be "sample" or "mean", got {mode!r}')
        self.observe(obs)
        features, state = self._stacked()
        mean, log_std = self.net.actor(self.net.heads(features.float()), self.net.normalise(state))
        if mode == "sample":
            mean = mean + noise_scale * log_std.exp() * torch.randn(mean.shape, generator=generator)
        action: F32 = torch.tanh(mean)[0].numpy()
        return action

    def _stacked(self) -> tuple[Tensor, Tensor]:
        """Features (1, n, K, C, h, w) and states (1, n, S); the first frame stands in before the episode."""
        seen = [self._history[0]] * (self._frames - len(self._history)) + list(self._history)
        features = torch.stack([self._encoded(one) for one in seen])
        state = torch.stack([torch.from_numpy(one.obs.state) for one in seen])
        return features[None], state[None]

    def _encoded(self, seen: _Seen) -> Tensor:
        if seen.features is None:
            # One picture at a time, as the replay encodes them: batched convolutions round otherwise.
            maps = [self.encoder.encode(seen.obs.images[name][None]) for name in self.spec.cameras]
            seen.features = torch.from_numpy(np.concatenate(maps))
        return seen.features
