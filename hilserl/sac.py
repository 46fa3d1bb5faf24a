"""Soft actor-critic with demonstrations (RLPD as in HIL-SERL) on cached trunk features.

Actor and critics have image heads of their own: with shared heads, trained by the critic alone as in
HIL-SERL, the first critic updates destroyed what the actor had cloned (devlog 002). `SAC` is the learner's
half; `hilserl.acting.ActingPolicy` is the actor's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hilserl.acting import ActingPolicy, PolicyNet, Shape, check_tensors
from hilserl.config import PolicyConfig
from hilserl.networks import DEGENERATE_STD, Critic, squashed_sample
from hilserl.replay import Batch
from hilserl.types import Spec
from robot.types import F32

__all__ = ["SAC", "ActingPolicy"]

log = logging.getLogger(__name__)

Sample = Callable[[], Batch]
_CLONE_LOG_STD = -1.8
"""Where cloning pulls the log of the policy's standard deviation: some exploration is left."""
_CLONE_STD_WEIGHT = 0.1
_SATURATED = 0.98
_LARGE_INPUT = 10.0


class SAC:
    """The learner: networks, targets, optimisers and counters.

    feature_shape: (C, h, w) of the replay's features. state_mean, state_std: (S,) in physical units, from
    the data; components with hardly any spread are dropped, and named in the log. update counters count
    optimisation steps, not control steps. value_range: the least and the most any state can be worth under
    the task's reward; targets beyond it are known to be wrong and are put back into it.
    """

    def __init__(
        self,
        spec: Spec,
        policy: PolicyConfig,
        feature_shape: Shape,
        state_mean: F32,
        state_std: F32,
        seed: int,
        value_range: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        if not policy.freeze_vision_encoder:
            raise ValueError("freeze_vision_encoder must be true: the replay keeps features, not gradients")
        self.config, self.spec, self.value_range = policy, spec, value_range
        self.device = torch.device(policy.device)
        flat = [name for name, std in zip(spec.state_names, state_std, strict=True) if std < DEGENERATE_STD]
        if flat:
            log.warning("state components that do not vary in the data are dropped: %s", ", ".join(flat))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(feature_shape, state_mean, state_std)
        self.optimisers = {
            "critic": torch.optim.Adam(self._critic_params, lr=policy.lr, fused=True),
            "actor": torch.optim.Adam(self._actor_params, lr=policy.lr, fused=True),
            "temperature": torch.optim.Adam([self.log_alpha], lr=policy.lr, fused=True),
        }
        self.noise = np.random.default_rng(seed)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.critic_updates = 0
        self.actor_updates = 0
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def _build(self, shape: Shape, mean: F32, std: F32) -> None:
        """Make the networks, the targets as copies of them, and the lists of what each optimiser moves."""
        config, spec = self.config, self.spec
        self.net = PolicyNet(spec, config, shape, mean, std)
        self.critic_heads, self.target_heads = (
            PolicyNet(spec, config, shape, mean, std).heads for _ in range(2)
        )
        sizes = (self.net.embedding, config.n_obs_steps * spec.state_size, config.latent_dim)
        self.critic, self.target_critic = (
            Critic(config.num_critics, *sizes, config.hidden_dims, len(spec.action_names)) for _ in range(2)
        )
        for module in (self.net, self.critic_heads, self.critic, self.target_heads, self.target_critic):
            module.to(self.device)
        self.log_alpha = torch.tensor(math.log(config.temperature_init), device=self.device).requires_grad_()
        self.value_bound = torch.zeros((), device=self.device)
        self._critic_params: list[Tensor] = [*self.critic_heads.parameters(), *self.critic.parameters()]
        self._actor_params: list[Tensor] = [*self.net.heads.parameters(), *self.net.actor.parameters()]
        targets = nn.ModuleList([self.target_heads, self.target_critic]).requires_grad_(False)
        self._target_params: list[Tensor] = list(targets.parameters())
        self._copy_targets()

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
        image = self.critic_heads(batch.seen, self.noise)
        values = self.critic(image, state, batch.action)
        # Summed over the ensemble: each member learns as it would alone.
        loss = (values - target).square().mean(1).sum()
        self._step("critic", loss, self._critic_params)
        torch._foreach_lerp_(self._target_params, self._critic_params, self.config.tau)
        self.critic_updates += 1
        self._note_critic(batch, values.detach(), target, state)

    @torch.no_grad()
    def _note_critic(self, batch: Batch, values: Tensor, target: Tensor, state: Tensor) -> None:
        # No return can exceed the best last reward, or the best other reward earned for ever.
        horizon = 1.0 / max(1.0 - self.config.discount, 1e-6)
        best = batch.reward * torch.where(batch.discount > 0, horizon, 1.0)
        self.value_bound = torch.maximum(self.value_bound, best.max())
        self._note("critic/loss", (values - target).square().mean())
        self._note("critic/q_mean", values.mean())
        self._note("critic/q_max", values.max())
        self._note("critic/q_bound", self.value_bound)
        self._note("critic/target_mean", target.mean())
        self._note("data/demo_share", batch.is_demo.float().mean())
        self._note("data/reward_mean", batch.reward.mean())
        self._note("data/state_max", state.abs().max())
        self._note("data/state_large_share", (state.abs() > _LARGE_INPUT).float().mean())

    @torch.no_grad()
    def critic_target(self, batch: Batch) -> Tensor:
        """(B,) reward plus the discounted value of what follows; nothing follows a success or a failure."""
        state = self.net.normalise(batch.next_state)
        mean, log_std = self.net.actor(self.net.heads(batch.next_seen), state)
        action, log_density = squashed_sample(mean, log_std, self._normal(mean))
        values = self.target_critic(self.target_heads(batch.next_seen), state, action)
        if len(values) > 2:  # REDQ: the minimum over a random pair
            values = values[torch.from_numpy(self.noise.permutation(len(values))[:2]).to(self.device)]
        value = values.min(0).values
        if self.config.use_backup_entropy:
            value = value - self.log_alpha.exp() * log_density
        target: Tensor = batch.reward + batch.discount * value
        return target.clamp(*self.value_range)

    def _actor_step(self, batch: Batch) -> None:
        state = self.net.normalise(batch.state)
        with torch.no_grad():  # the critic's image heads learn from the critic's loss alone
            image = self.critic_heads(batch.seen)
        mean, log_std = self.net.actor(self.net.heads(batch.seen, self.noise), state)
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
        surplus = entropy - self.config.target_entropy
        self._step("temperature", self.log_alpha.exp() * surplus, [self.log_alpha])
        self.actor_updates += 1
        self._note("actor/loss", loss.detach())
        self._note("actor/entropy", entropy)
        self._note("actor/temperature", alpha)
        self._note("actor/saturated_share", (action.detach().abs() > _SATURATED).float().mean())
        self._note("actor/std", log_std.detach().exp().mean(0))

    def pretrain_bc(self, sample: Sample, steps: int) -> None:
        """Clone the batches' actions for `steps` steps; image heads and actor learn, targets follow after."""
        parameters = self._actor_params
        optimiser = torch.optim.Adam(parameters, lr=self.config.lr, fused=True)
        for _ in range(steps):
            batch = sample().to(self.device)
            image = self.net.heads(batch.seen, self.noise)
            mean, log_std = self.net.actor(image, self.net.normalise(batch.state))
            loss = _cloning_loss(mean, log_std, batch.action).mean()
            self._descend(optimiser, loss, parameters)
            self._note("pretrain/cloning_loss", loss.detach())

    def pretrain_critic(self, sample: Sample, steps: int) -> None:
        """Let the critics value the present policy on the batches for `steps` steps, before it changes."""
        for _ in range(steps):
            self._critic_step(sample().to(self.device))

    def _step(self, name: str, loss: Tensor, parameters: list[Tensor]) -> None:
        self._note(f"{name}/grad_norm", self._descend(self.optimisers[name], loss, parameters))

    def _descend(self, optimiser: torch.optim.Optimizer, loss: Tensor, parameters: list[Tensor]) -> Tensor:
        """One optimiser step on `parameters` and nothing else; the norm of the gradient before clipping."""
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_(parameters, self.config.grad_clip_norm)
        optimiser.step()
        return norm

    def _copy_targets(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self._target_params, self._critic_params)

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, device=self.device)

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
                parts = zip(self.spec.action_names, mean.tolist(), strict=True)
                out |= {f"{name}_{part}": value for part, value in parts}
        self._sums.clear()
        self._counts.clear()
        broken = [name for name, value in out.items() if not math.isfinite(value)]
        if broken:
            raise FloatingPointError(
                f"training diverged by critic update {self.critic_updates}: {', '.join(broken)} not finite"
            )
        return out

    def actor_weights(self) -> dict[str, NDArray[Any]]:
        """The tensors `ActingPolicy.load` takes: state statistics, image heads and actor."""
        return {name: t.detach().cpu().numpy().copy() for name, t in self.net.state_dict().items()}

    def _current(self) -> dict[str, Tensor]:
        """Every tensor of the learner but the optimisers', under its name in a checkpoint."""
        modules = (("net", self.net), ("critic_heads", self.critic_heads), ("critic", self.critic))
        targets = (("target_heads", self.target_heads), ("target_critic", self.target_critic))
        tensors = {
            f"{part}.{n}": t for part, module in modules + targets for n, t in module.state_dict().items()
        }
        return {
            **tensors,
            "log_alpha": self.log_alpha.detach(),
            "value_bound": self.value_bound,
            "generator": self.generator.get_state(),
        }

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything, as tensors (for safetensors) and plain values (for JSON)."""
        tensors = self._current()
        for name, optimiser in self.optimisers.items():
            for index, slots in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{name}.{index}.{slot}": tensor for slot, tensor in slots.items()}
        plain = {
            "critic_updates": self.critic_updates,
            "actor_updates": self.actor_updates,
            "noise": self.noise.bit_generator.state,
        }
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, plain

    def load_state_dict(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Continue from `state_dict`. Raises WeightsError naming what is missing, unknown or misshapen."""
        current = self._current()
        moments = self._expected_moments(plain)
        check_tensors({**current, **moments}, tensors, "the learner state")
        with torch.no_grad():
            for name, tensor in current.items():
                tensor.copy_(tensors[name])
        self.generator.set_state(tensors["generator"].cpu())
        for name, optimiser in self.optimisers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key in moments:
                _, owner, index, slot = key.split(".")
                if owner == name:
                    state.setdefault(int(index), {})[slot] = tensors[key].clone()
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        self.critic_updates = int(plain["critic_updates"])
        self.actor_updates = int(plain["actor_updates"])
        self.noise.bit_generator.state = plain["noise"]

    def _expected_moments(self, plain: Mapping[str, Any]) -> dict[str, Tensor]:
        """The optimisers' tensors that a state with these counters holds."""
        moments: dict[str, Tensor] = {}
        for name, optimiser in self.optimisers.items():
            if plain["critic_updates" if name == "critic" else "actor_updates"]:
                for index, parameter in enumerate(optimiser.param_groups[0]["params"]):
                    key = f"optimiser.{name}.{index}."
                    moments |= {key + "exp_avg": parameter, key + "exp_avg_sq": parameter}
                    moments[key + "step"] = torch.zeros(())
        return moments


def _cloning_loss(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """(B,) distance of the squashed mean from the action, and a weak pull on the spread."""
    distance = (torch.tanh(mean) - action).square().mean(1)
    return distance + _CLONE_STD_WEIGHT * (log_std - _CLONE_LOG_STD).square().mean(1)
