"""Soft actor-critic with demonstrations (RLPD as in HIL-SERL) on cached trunk features.

The image heads learn from the critic's loss only (and from cloning before it); the actor sees their output
detached. `SAC` is the learner's half, `ActingPolicy` (policy.py's job in other projects) the actor's.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from hilserl.config import PolicyConfig
from hilserl.networks import (
    DEGENERATE_STD,
    Actor,
    Critic,
    ImageHeads,
    Normalise,
    squashed_sample,
)
from hilserl.replay import Batch
from hilserl.types import Obs, Spec
from hilserl.vision import FeatureEncoder
from robot.types import F32

log = logging.getLogger(__name__)

Sample = Callable[[], Batch]
Shape = tuple[int, int, int]
_CLONE_LOG_STD = -1.2
"""Where cloning pulls the log of the policy's standard deviation: some exploration is left."""
_CLONE_STD_WEIGHT = 0.01
_SATURATED = 0.98
_LARGE_INPUT = 10.0


class WeightsError(Exception):
    """Policy weights or a learner state do not fit; names each tensor that differs."""


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


class SAC:
    """The learner: networks, targets, optimisers and counters.

    feature_shape: (C, h, w) of the replay's features. state_mean, state_std: (S,) in physical units, from
    the data; components with hardly any spread are dropped, and named in the log. update counters count
    optimisation steps, not control steps.
    """

    def __init__(
        self,
        spec: Spec,
        policy: PolicyConfig,
        feature_shape: Shape,
        state_mean: F32,
        state_std: F32,
        seed: int,
    ) -> None:
        if not policy.freeze_vision_encoder:
            raise ValueError("freeze_vision_encoder=false: the replay caches trunk features, so it must be true")
        self.config, self.spec = policy, spec
        self.device = torch.device(policy.device)
        flat = [name for name, std in zip(spec.state_names, state_std, strict=True) if std < DEGENERATE_STD]
        if flat:
            log.warning("state components that do not vary in the data are dropped: %s", ", ".join(flat))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = PolicyNet(spec, policy, feature_shape, state_mean, state_std)
            sizes = (self.net.embedding, policy.n_obs_steps * spec.state_size, policy.latent_dim)
            self.critic = Critic(policy.num_critics, *sizes, policy.hidden_dims, len(spec.action_names))
            self.target_heads = ImageHeads(
                len(spec.cameras), feature_shape, policy.num_spatial_embeddings, policy.latent_dim, policy.dropout
            )
            self.target_critic = Critic(policy.num_critics, *sizes, policy.hidden_dims, len(spec.action_names))
        self.log_alpha = torch.tensor(math.log(policy.temperature_init), device=self.device, requires_grad=True)
        for module in (self.net, self.critic, self.target_heads, self.target_critic):
            module.to(self.device)
        self._critic_params = [*self.net.heads.parameters(), *self.critic.parameters()]
        self._target_params = [*self.target_heads.parameters(), *self.target_critic.parameters()]
        self._actor_params = list(self.net.actor.parameters())
        for parameter in self._target_params:
            parameter.requires_grad_(False)
        self._copy_targets()
        self.optimisers = {
            "critic": torch.optim.Adam(self._critic_params, lr=policy.lr, fused=True),
            "actor": torch.optim.Adam(self._actor_params, lr=policy.lr, fused=True),
            "temperature": torch.optim.Adam([self.log_alpha], lr=policy.lr, fused=True),
        }
        self.noise = np.random.default_rng(seed)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.critic_updates = 0
        self.actor_updates = 0
        self.value_bound = 0.0
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    # ---------------------------------------------------------------- updates

    def update(self, sample: Sample, critic_updates: int) -> None:
        """`critic_updates` critic steps on fresh batches, then one actor and temperature step on the last."""
        batch = None
        for _ in range(critic_updates):
            batch = sample().to(self.device)
            self._critic_step(batch)
        if batch is not None:
            self._actor_step(batch)

    def _critic_step(self, batch: Batch) -> None:
        target = self.critic_target(batch)
        state = self.net.normalise(batch.state)
        image = self.net.heads(batch.features, self.noise)
        values = self.critic(image, state, batch.action)
        # Summed over the ensemble: each member learns as it would alone.
        loss = (values - target).square().mean(1).sum()
        self._step("critic", loss, self._critic_params)
        torch._foreach_lerp_(self._target_params, self._critic_params, self.config.tau)
        self.critic_updates += 1
        with torch.no_grad():
            self._note("critic/loss", loss / len(values))
            self._note("critic/q_mean", values.mean())
            self._note("critic/target_mean", target.mean())
            self._note("critic/target_max", target.max())
            self._note("data/demo_share", batch.is_demo.float().mean())
            self._note("data/reward_mean", batch.reward.mean())
            self._note("data/state_max", state.abs().max())
            self._note("data/state_large_share", (state.abs() > _LARGE_INPUT).float().mean())

    @torch.no_grad()
    def critic_target(self, batch: Batch) -> Tensor:
        """(B,) reward plus the discounted value of what follows; nothing follows a success or a failure."""
        state = self.net.normalise(batch.next_state)
        mean, log_std = self.net.actor(self.net.heads(batch.next_features), state)
        action, log_density = squashed_sample(mean, log_std, self._normal(mean))
        values = self.target_critic(self.target_heads(batch.next_features), state, action)
        if len(values) > 2:  # REDQ: the minimum over a random pair
            values = values[torch.from_numpy(self.noise.permutation(len(values))[:2]).to(self.device)]
        value = values.min(0).values
        if self.config.use_backup_entropy:
            value = value - self.log_alpha.exp() * log_density
        return batch.reward + self.config.discount * batch.bootstrap * value

    def _actor_step(self, batch: Batch) -> None:
        state = self.net.normalise(batch.state)
        with torch.no_grad():  # the image heads learn from the critic alone
            image = self.net.heads(batch.features)
        mean, log_std = self.net.actor(image, state)
        action, log_density = squashed_sample(mean, log_std, self._normal(mean))
        alpha = self.log_alpha.detach().exp()
        loss = (alpha * log_density - self.critic(image, state, action).mean(0)).mean()
        if self.config.bc_weight > 0.0:
            cloning = _cloning_loss(mean, log_std, batch.action)
            cloned = (cloning * batch.is_demo).sum() / batch.is_demo.sum().clamp(min=1)
            loss = loss + self.config.bc_weight * cloned
            self._note("actor/cloning_loss", cloned.detach())
        self._step("actor", loss, self._actor_params)
        entropy = -log_density.detach().mean()
        self._step("temperature", self.log_alpha.exp() * (entropy - self.config.target_entropy), [self.log_alpha])
        self.actor_updates += 1
        self._note("actor/loss", loss.detach())
        self._note("actor/entropy", entropy)
        self._note("actor/temperature", alpha)
        self._note("actor/saturated_share", (action.detach().abs() > _SATURATED).float().mean())
        self._note("actor/std", log_std.detach().exp().mean(0))

    def pretrain_bc(self, sample: Sample, steps: int) -> None:
        """Clone the batches' actions for `steps` steps; image heads and actor learn, targets follow after."""
        parameters = [*self.net.heads.parameters(), *self._actor_params]
        optimiser = torch.optim.Adam(parameters, lr=self.config.lr, fused=True)
        for _ in range(steps):
            batch = sample().to(self.device)
            image = self.net.heads(batch.features, self.noise)
            loss = _cloning_loss(*self.net.actor(image, self.net.normalise(batch.state)), batch.action).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, self.config.grad_clip_norm)
            optimiser.step()
            self._note("pretrain/cloning_loss", loss.detach())
        self._copy_targets()

    def _step(self, name: str, loss: Tensor, parameters: list[Any]) -> None:
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_(parameters, self.config.grad_clip_norm)
        self.optimisers[name].step()
        self._note(f"{name}/grad_norm", norm)

    def _copy_targets(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self._target_params, self._critic_params)

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, device=self.device)

    # ---------------------------------------------------------------- metrics

    def _note(self, name: str, value: Tensor) -> None:
        """Add to a running mean that stays on the device until somebody asks."""
        if name in self._sums:
            self._sums[name] += value
            self._counts[name] += 1
        else:
            self._sums[name] = value.detach().clone()
            self._counts[name] = 1

    def metrics(self) -> dict[str, float]:
        """Means since the last call. Raises FloatingPointError when one is not finite: training diverged."""
        out: dict[str, float] = {}
        for name, total in self._sums.items():
            mean = (total / self._counts[name]).cpu()
            if mean.ndim == 0:
                out[name] = float(mean)
            else:
                out |= {f"{name}_{part}": float(v) for part, v in zip(self.spec.action_names, mean, strict=True)}
        self._sums.clear()
        self._counts.clear()
        broken = [name for name, value in out.items() if not math.isfinite(value)]
        if broken:
            raise FloatingPointError(
                f"training diverged after {self.critic_updates} critic updates: {', '.join(broken)} not finite"
            )
        return out

    # ---------------------------------------------------------------- state

    def actor_weights(self) -> dict[str, np.ndarray]:
        """The tensors `ActingPolicy.load` takes: state statistics, image heads and actor."""
        return {name: t.detach().cpu().numpy().copy() for name, t in self.net.state_dict().items()}

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "net": self.net,
            "critic": self.critic,
            "target_heads": self.target_heads,
            "target_critic": self.target_critic,
        }

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything, as tensors (for safetensors) and plain values (for JSON)."""
        tensors = {
            f"{part}.{name}": tensor.detach().clone().contiguous()
            for part, module in self._modules().items()
            for name, tensor in module.state_dict().items()
        }
        tensors["log_alpha"] = self.log_alpha.detach().clone()
        tensors["generator"] = self.generator.get_state()
        for name, optimiser in self.optimisers.items():
            for index, slots in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{name}.{index}.{slot}": t.detach().clone() for slot, t in slots.items()}
        plain = {
            "critic_updates": self.critic_updates,
            "actor_updates": self.actor_updates,
            "noise": self.noise.bit_generator.state,
        }
        return tensors, plain

    def load_state_dict(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Continue from `state_dict`. Raises WeightsError naming tensors that are missing, unknown or misshapen."""
        _check(self._expected(), tensors, "the learner state")
        for part, module in self._modules().items():
            prefix = part + "."
            module.load_state_dict({n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)})
        with torch.no_grad():
            self.log_alpha.copy_(tensors["log_alpha"])
        self.generator.set_state(tensors["generator"].cpu())
        for name, optimiser in self.optimisers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"optimiser.{name}."):
                    _, _, index, slot = key.split(".")
                    state.setdefault(int(index), {})[slot] = tensor.clone()
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        self.critic_updates = int(plain["critic_updates"])
        self.actor_updates = int(plain["actor_updates"])
        self.noise.bit_generator.state = plain["noise"]

    def _expected(self) -> dict[str, Tensor]:
        expected = {
            f"{part}.{name}": tensor
            for part, module in self._modules().items()
            for name, tensor in module.state_dict().items()
        }
        return {**expected, "log_alpha": self.log_alpha, "generator": self.generator.get_state()}


def _cloning_loss(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """(B,) distance of the squashed mean from the action, and a weak pull on the spread."""
    distance = (torch.tanh(mean) - action).square().mean(1)
    return distance + _CLONE_STD_WEIGHT * (log_std - _CLONE_LOG_STD).square().mean(1)


def _check(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    faults = [f"missing {name}" for name in expected if name not in found]
    faults += [f"unknown {n}" for n in found if n not in expected and not n.startswith("optimiser.")]
    for name in expected.keys() & found.keys():
        if expected[name].shape != found[name].shape:
            faults.append(f"{name} has shape {tuple(found[name].shape)}, not {tuple(expected[name].shape)}")
    if faults:
        raise WeightsError(f"{what} does not fit this policy: " + "; ".join(sorted(faults)))


class ActingPolicy:
    """What moves the arm: keeps the observation history and draws actions. Refuses to act before `load`."""

    def __init__(self, spec: Spec, policy: PolicyConfig, encoder: FeatureEncoder) -> None:
        zeros = np.zeros(spec.state_size, np.float32)
        self.spec, self.encoder = spec, encoder
        shape = encoder.feature_shape(spec.image_shape)
        self.net = PolicyNet(spec, policy, shape, zeros, zeros).eval().requires_grad_(False)
        self._history: deque[tuple[Tensor, Tensor]] = deque(maxlen=policy.n_obs_steps)
        self._loaded = False

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over `SAC.actor_weights`. Raises WeightsError naming what does not fit."""
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
        _check(self.net.state_dict(), tensors, "the actor bundle")
        broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
        if broken:
            raise WeightsError(f"the actor bundle holds values that are not finite: {', '.join(broken)}")
        self.net.load_state_dict(tensors)
        self._loaded = True

    def reset(self) -> None:
        """A new episode begins: forget the observations seen so far."""
        self._history.clear()

    @torch.inference_mode()
    def act(
        self,
        obs: Obs,
        mode: Literal["sample", "mean"],
        generator: torch.Generator | None = None,
        noise_scale: float = 1.0,
    ) -> F32:
        """The action float32 (4,) in [-1, 1] after `obs`: drawn ("sample"), or the squashed mean ("mean")."""
        if not self._loaded:
            raise WeightsError("no policy weights have been loaded yet: call load() before act()")
        if mode not in ("sample", "mean"):
            raise ValueError(f'mode must be "sample" or "mean", got {mode!r}')
        # One picture at a time, as the replay encodes: batched convolutions round otherwise.
        maps = [self.encoder.encode(obs.images[name][None]) for name in self.spec.cameras]
        self._history.append((torch.from_numpy(np.concatenate(maps)), torch.from_numpy(obs.state)))
        while len(self._history) < (self._history.maxlen or 1):
            self._history.appendleft(self._history[0])
        features = torch.stack([f for f, _ in self._history])[None]
        state = torch.stack([s for _, s in self._history])[None]
        mean, log_std = self.net.actor(self.net.heads(features), self.net.normalise(state))
        if mode == "sample":
            noise = torch.randn(mean.shape, generator=generator)
            mean = mean + noise_scale * log_std.exp() * noise
        action: F32 = torch.tanh(mean)[0].numpy()
        return action
