"""Soft actor-critic with demonstrations (RLPD as in HIL-SERL): optimisers, counters, what a checkpoint holds.

`SAC` is the learner's half; `hilserl.acting.ActingPolicy` is the actor's. The losses are in
`hilserl.sac_losses`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hilserl.acting import ENCODER, Shape, check_tensors
from hilserl.adam_state import adam_tensors, expected_adam_tensors, restore_adam
from hilserl.config import PolicyConfig
from hilserl.encoder import FeatureEncoder
from hilserl.group import Alone, Group
from hilserl.networks import DEGENERATE_STD, product_format, set_precision
from hilserl.noise import Noise
from hilserl.running_means import RunningMeans
from hilserl.sac_losses import (
    ActorLoss,
    CriticLoss,
    CriticNoise,
    Rules,
    SacNets,
    actor_loss,
    cloning_loss,
    critic_loss,
    critic_target,
)
from hilserl.sampling import Batch
from hilserl.types import Spec
from robot.types import F32

log = logging.getLogger(__name__)

Sample = Callable[[], Batch]
_SATURATED = 0.98
_SUSPICIOUS, _LARGE_INPUT = 5.0, 10.0
_SUSPICIOUS_SHARE = 0.01


class SAC:
    """The learner: networks, targets, optimisers and counters.

    feature_shape: (C, h, w) of the features. state_mean, state_std: (S,) in physical units, from the data;
    components with hardly any spread are dropped, and named in the log. update counters count optimisation
    steps, not control steps. value_range: the least and the most any state can be worth under the task's
    reward; targets beyond it are known to be wrong and are put back into it. encoder: needed where updates
    encode pictures (policy.cache_features false); its trunk learns unless freeze_vision_encoder. group: the
    processes that share each batch.
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
        *,
        encoder: FeatureEncoder | None = None,
        group: Group | None = None,
    ) -> None:
        if policy.cache_features != (encoder is None):
            raise ValueError("an encoder is given exactly where policy.cache_features is false")
        if policy.cache_features and not policy.freeze_vision_encoder:
            raise ValueError("freeze_vision_encoder must be true where cache_features is")
        self.config, self.spec, self.group = policy, spec, group or Alone()
        self.device = torch.device(policy.device)
        flat = [name for name, std in zip(spec.state_names, state_std, strict=True) if std < DEGENERATE_STD]
        if flat:
            log.warning("state components that do not vary in the data are dropped: %s", ", ".join(flat))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.nets = SacNets(spec, policy, feature_shape, state_mean, state_std, encoder).to(self.device)
        set_precision(self.nets, product_format(policy.precision, self.device))
        self.rules = Rules(policy.use_backup_entropy, value_range, policy.bc_weight)
        self._parameters = {
            "critic": self.nets.critic_parameters(),
            "actor": self.nets.actor_parameters(),
            "temperature": [self.nets.log_alpha],
        }
        self._targets: list[Tensor] = list(self.nets.target_parameters())
        with torch.no_grad():
            torch._foreach_copy_(self._targets, self._followed())
        self.optimisers = {
            name: torch.optim.Adam(parameters, lr=policy.lr, fused=True)
            for name, parameters in self._parameters.items()
        }
        self.noise = Noise(seed, self.device, self.group.rank, self.group.world)
        self.critic_updates = 0
        self.actor_updates = 0
        self.value_bound = torch.zeros((), device=self.device)
        self._large_streak = torch.zeros(spec.state_size, dtype=torch.int64, device=self.device)
        self._means = RunningMeans()
        self._critic_loss, self._actor_loss = critic_loss, actor_loss
        if policy.compile:
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            self._critic_loss = torch.compile(critic_loss, mode=mode)
            self._actor_loss = torch.compile(actor_loss, mode=mode)

    def _followed(self) -> list[Tensor]:
        """The critics' parameters that have a target."""
        return list(self._parameters["critic"][: len(self._targets)])

    def update(self, sample: Sample, critic_updates: int) -> None:
        """`critic_updates` critic steps on fresh batches, then one actor and temperature step on the last."""
        batch = None
        for _ in range(critic_updates):
            batch = sample().to(self.device)
            self._critic_step(batch)
        if batch is not None:
            self._actor_step(batch)

    def _critic_noise(self, batch: Batch) -> CriticNoise:
        size = len(batch.action)
        members = self.noise.pair(self.config.num_critics) if self.config.num_critics > 2 else None
        return CriticNoise(self.noise.normal(size, len(self.spec.action_names)), self._keep(batch), members)

    def _keep(self, batch: Batch) -> list[Tensor] | None:
        """A dropout mask for each camera."""
        drop = self.config.dropout
        if drop == 0.0:
            return None
        size, frames = len(batch.action), self.config.n_obs_steps
        return [self.noise.keep(drop, head.pooled, size, frames) for head in self.nets.critic_heads.each()]

    def critic_target(self, batch: Batch) -> Tensor:
        """(B,) what the critics are pulled to, for the next noise in turn."""
        return critic_target(self.nets, batch, self._critic_noise(batch), self.rules)

    def _critic_step(self, batch: Batch) -> None:
        found = self._critic_loss(self.nets, batch, self._critic_noise(batch), self.rules)
        self._step("critic", found.loss)
        with torch.no_grad():
            torch._foreach_lerp_(self._targets, self._followed(), self.config.tau)
            self._note_critic(batch, found)
        self.critic_updates += 1

    def _note_critic(self, batch: Batch, found: CriticLoss) -> None:
        # No return can exceed the best last reward, or the best other reward earned for ever.
        horizon = 1.0 / max(1.0 - self.config.discount, 1e-6)
        best = batch.reward * torch.where(batch.discount > 0, horizon, 1.0)
        self.value_bound = torch.maximum(self.value_bound, best.max())
        values, size = found.values, found.state.abs()
        often = (size > _SUSPICIOUS).float().mean((0, 1)) > _SUSPICIOUS_SHARE
        self._large_streak = (self._large_streak + 1) * often  # in a row: one ordinary batch ends it
        self._means.add(
            {
                "critic/loss": (values - found.target).square().mean(),
                "critic/q_mean": values.mean(),
                "critic/q_max": values.max(),
                "critic/q_bound": self.value_bound,
                "critic/target_mean": found.target.mean(),
                "data/demo_share": batch.is_demo.float().mean(),
                "data/reward_mean": batch.reward.mean(),
                "data/state_max": size.max(),
                "data/state_large_share": (size > _LARGE_INPUT).float().mean(),
            }
        )

    def _actor_step(self, batch: Batch) -> None:
        demos = batch.is_demo.float().sum()
        self.group.mean([demos])  # a process without demonstrations must not weigh another's twice
        normal = self.noise.normal(len(batch.action), len(self.spec.action_names))
        found = self._actor_loss(
            self.nets, batch, normal, self._keep(batch), self.rules, demos.clamp(min=1.0 / self.group.world)
        )
        self._step("actor", found.loss)
        entropy = -found.log_density.detach().mean()
        self._step("temperature", self.nets.log_alpha.exp() * (entropy - self.config.target_entropy))
        self.actor_updates += 1
        self._note_actor(found, entropy)

    @torch.no_grad()
    def _note_actor(self, found: ActorLoss, entropy: Tensor) -> None:
        self._means.add(
            {
                "actor/loss": found.loss,
                "actor/entropy": entropy,
                "actor/temperature": self.nets.log_alpha.exp(),
                "actor/saturated_share": (found.action.abs() > _SATURATED).float().mean(),
                "actor/std": found.log_std.exp().mean(0),
            }
        )
        if self.rules.bc_weight > 0.0:
            self._means.add({"actor/cloning_loss": found.cloning})

    def pretrain_bc(self, sample: Sample, steps: int) -> None:
        """Clone the batches' actions for `steps` steps; the actor and its image heads learn."""
        parameters = self._parameters["actor"]
        optimiser = torch.optim.Adam(parameters, lr=self.config.lr, fused=True)
        for _ in range(steps):
            batch = sample().to(self.device)
            with torch.no_grad():
                features = self.nets.look(batch.seen)
            image = self.nets.net.heads(features, self._keep(batch))
            mean, log_std = self.nets.net.actor(image, self.nets.net.normalise(batch.state))
            loss = cloning_loss(mean, log_std, batch.action).mean()
            self._descend(optimiser, loss, parameters)
            self._means.add({"pretrain/cloning_loss": loss.detach()})

    def pretrain_critic(self, sample: Sample, steps: int) -> None:
        """Let the critics value the present policy on the batches for `steps` steps, before it changes."""
        for _ in range(steps):
            self._critic_step(sample().to(self.device))

    def _step(self, name: str, loss: Tensor) -> None:
        norm = self._descend(self.optimisers[name], loss, self._parameters[name])
        self._means.add({f"{name}/grad_norm": norm})

    def _descend(
        self, optimiser: torch.optim.Optimizer, loss: Tensor, parameters: Sequence[nn.Parameter]
    ) -> Tensor:
        """One optimiser step on `parameters` and nothing else; the norm of the gradient before clipping."""
        gradients = torch.autograd.grad(loss, parameters)
        self.group.mean(gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_(parameters, self.config.grad_clip_norm)
        optimiser.step()
        return norm

    def metrics(self) -> dict[str, float]:
        """Means since the last call. Raises FloatingPointError when one is not finite: training diverged."""
        out = self._means.take({"actor/std": self.spec.action_names})
        broken = [name for name, value in out.items() if not math.isfinite(value)]
        if broken:
            raise FloatingPointError(
                f"training diverged by critic update {self.critic_updates}: {', '.join(broken)} not finite"
            )
        return out

    def large_inputs(self) -> dict[str, int]:
        """{state component: critic updates in a row with over 1 % of its normalised values beyond 5}."""
        return dict(zip(self.spec.state_names, self._large_streak.tolist(), strict=True))

    def actor_weights(self) -> dict[str, NDArray[Any]]:
        """The tensors `ActingPolicy.load` takes: state statistics, image heads, actor; a learning encoder."""
        tensors = dict(self.nets.net.state_dict())
        if self.nets.encoder is not None and not self.nets.frozen:
            tensors |= {f"{ENCODER}{name}": t for name, t in self.nets.encoder.state_dict().items()}
        return {name: t.detach().cpu().numpy().copy() for name, t in tensors.items()}

    def _current(self) -> dict[str, Tensor]:
        """Every tensor of the learner but the optimisers', under its name in a checkpoint."""
        tensors = {
            name: tensor
            for name, tensor in self.nets.state_dict().items()
            if not (self.nets.frozen and name.startswith(ENCODER))
        }
        return {**tensors, "value_bound": self.value_bound, "generator": self.noise.state()[0]}

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything, as tensors (for safetensors) and plain values (for JSON); copies, on the CPU."""
        tensors = {**self._current(), **adam_tensors(self.optimisers)}
        plain = {
            "critic_updates": self.critic_updates,
            "actor_updates": self.actor_updates,
            "noise": self.noise.state()[1],
        }
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, plain

    def load_state_dict(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Continue from `state_dict`. Raises WeightsError naming what is missing, unknown or misshapen."""
        current = self._current()
        stepped = {name: plain["actor_updates"] > 0 for name in self.optimisers}
        stepped["critic"] = plain["critic_updates"] > 0
        moments = expected_adam_tensors(self.optimisers, stepped)
        check_tensors({**current, **moments}, tensors, "the learner state")
        with torch.no_grad():
            for name, tensor in current.items():
                tensor.copy_(tensors[name])
        self.noise.restore(tensors["generator"], plain["noise"])
        restore_adam(self.optimisers, {name: tensors[name] for name in moments})
        self.critic_updates = int(plain["critic_updates"])
        self.actor_updates = int(plain["actor_updates"])
