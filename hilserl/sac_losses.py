"""The networks of SAC and its losses: pure functions of a batch, the networks and noise drawn beforehand.

B is the batch, n the stacked observations, K the cameras, S the state's size, A the action's, E the critics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hilserl.acting import PolicyNet, Shape
from hilserl.config import PolicyConfig
from hilserl.encoder import FeatureEncoder
from hilserl.networks import Critic, ImageHeads, squashed_sample
from hilserl.sampling import Batch
from hilserl.types import Spec
from robot.types import F32

CLONE_LOG_STD = -1.8
"""Where cloning pulls the log of the policy's standard deviation: some exploration is left."""
_CLONE_STD_WEIGHT = 0.1


class SacNets(nn.Module):
    """Everything that learns, and the targets.

    Actor and critics have image heads of their own: with shared ones, trained by the critic alone as in
    HIL-SERL, the first critic updates destroyed what the actor had cloned (devlog 002).

    encoder: None where batches carry features; otherwise batches carry pictures, and its trunk, frozen or
    not, belongs to the networks.
    """

    def __init__(
        self,
        spec: Spec,
        policy: PolicyConfig,
        shape: Shape,
        mean: F32,
        std: F32,
        encoder: FeatureEncoder | None = None,
    ) -> None:
        super().__init__()
        self.net = PolicyNet(spec, policy, shape, mean, std)
        self.critic_heads, self.target_heads = (self._heads(spec, policy, shape) for _ in range(2))
        sizes = (self.net.embedding, policy.n_obs_steps * spec.state_size, policy.latent_dim)
        self.critic, self.target_critic = (
            Critic(policy.num_critics, *sizes, policy.hidden_dims, len(spec.action_names)) for _ in range(2)
        )
        self.log_alpha = nn.Parameter(torch.tensor(math.log(policy.temperature_init)))
        self.encoder = None if encoder is None else encoder.module
        self.frozen = policy.freeze_vision_encoder
        if self.encoder is not None:
            self.encoder.requires_grad_(not self.frozen)
        for target in (self.target_heads, self.target_critic):
            target.requires_grad_(False)

    @staticmethod
    def _heads(spec: Spec, policy: PolicyConfig, shape: Shape) -> ImageHeads:
        cameras, embeddings = len(spec.cameras), policy.num_spatial_embeddings
        return ImageHeads(cameras, shape, embeddings, policy.latent_dim, policy.dropout)

    def critic_parameters(self) -> list[nn.Parameter]:
        """What the critics' loss moves, in the order of `target_parameters`; an unfrozen trunk last."""
        trunk = [] if self.encoder is None or self.frozen else list(self.encoder.parameters())
        return [*self.critic_heads.parameters(), *self.critic.parameters(), *trunk]

    def target_parameters(self) -> list[nn.Parameter]:
        """The targets' counterparts of the critics' heads and bodies; the trunk has none (as in DrQ-v2)."""
        return [*self.target_heads.parameters(), *self.target_critic.parameters()]

    def actor_parameters(self) -> list[nn.Parameter]:
        """What the actor's loss moves."""
        return [*self.net.heads.parameters(), *self.net.actor.parameters()]

    def look(self, seen: Tensor) -> Tensor:
        """Features (B, n, K, C, h, w) of a batch's `seen`, in the networks' number format.

        In memory they lie channel by channel: that is how image heads read them, and row by row each read
        would be a page away from the last (up to 5 times slower).
        """
        if self.encoder is not None:
            maps: Tensor = self.encoder(seen.flatten(0, 2))
            if self.frozen:
                maps = maps.half()  # as the replay keeps them, so that both ways give the same numbers
            seen = maps.view(*seen.shape[:3], *maps.shape[1:])
        by_channel = seen.permute(2, 3, 0, 1, 4, 5)
        by_channel = by_channel.to(self.log_alpha.dtype, memory_format=torch.contiguous_format)
        return by_channel.permute(2, 3, 0, 1, 4, 5)


@dataclass(frozen=True, slots=True)
class CriticNoise:
    """normal (B, A) for the next action; keep: a dropout mask for each camera; members: a pair of critics."""

    normal: Tensor
    keep: Sequence[Tensor] | None
    members: Tensor | None


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers in the losses. value_range: the least and the most any state can be worth."""

    backup_entropy: bool
    value_range: tuple[float, float]
    bc_weight: float


def critic_target(nets: SacNets, batch: Batch, noise: CriticNoise, rules: Rules) -> Tensor:
    """(B,) reward plus the discounted value of what follows; nothing follows a success or a failure."""
    with torch.no_grad():
        state, features = nets.net.normalise(batch.next_state), nets.look(batch.next_seen)
        mean, log_std = nets.net.actor(nets.net.heads(features), state)
        action, log_density = squashed_sample(mean, log_std, noise.normal)
        # REDQ: the least of a random pair; the other critics are not even computed.
        values = nets.target_critic(nets.target_heads(features), state, action, noise.members)
        value = values.amin(0)
        if rules.backup_entropy:
            value = value - nets.log_alpha.exp() * log_density
        target: Tensor = batch.reward + batch.discount * value
        return target.clamp(*rules.value_range)


@dataclass(frozen=True, slots=True)
class CriticLoss:
    """loss: (); values (E, B), target (B,) and normalised states (B, n, S) it was made of."""

    loss: Tensor
    values: Tensor
    target: Tensor
    state: Tensor


def critic_loss(nets: SacNets, batch: Batch, noise: CriticNoise, rules: Rules) -> CriticLoss:
    """Squared error of the critics, summed over the ensemble: each member learns as it would alone."""
    target = critic_target(nets, batch, noise, rules)
    state = nets.net.normalise(batch.state)
    image = nets.critic_heads(nets.look(batch.seen), noise.keep)
    values = nets.critic(image, state, batch.action)
    return CriticLoss((values - target).square().mean(1).sum(), values, target, state)


@dataclass(frozen=True, slots=True)
class ActorLoss:
    """loss: (), cloning: () (before its weight), and what the policy drew: action, log_std (B, A)."""

    loss: Tensor
    cloning: Tensor
    log_density: Tensor
    action: Tensor
    log_std: Tensor


def actor_loss(
    nets: SacNets,
    batch: Batch,
    normal: Tensor,
    keep: Sequence[Tensor] | None,
    rules: Rules,
    demos: Tensor,
) -> ActorLoss:
    """Temperature times log density minus value, plus cloning of demonstrated rows.

    demos: () float, how many rows of the batch (a process's share of it) count as demonstrated on average.
    """
    state = nets.net.normalise(batch.state)
    with torch.no_grad():  # the critics' image heads learn from the critics' loss alone
        features = nets.look(batch.seen)
        image = nets.critic_heads(features)
    mean, log_std = nets.net.actor(nets.net.heads(features, keep), state)
    action, log_density = squashed_sample(mean, log_std, normal)
    alpha = nets.log_alpha.detach().exp()
    loss = (alpha * log_density - nets.critic(image, state, action).mean(0)).mean()
    cloning = (cloning_loss(mean, log_std, batch.action) * batch.is_demo).sum() / demos
    if rules.bc_weight > 0.0:
        loss = loss + rules.bc_weight * cloning
    return ActorLoss(loss, cloning, log_density, action, log_std)


def cloning_loss(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """(B,) distance of the squashed mean from the action, and a weak pull on the spread."""
    distance = (torch.tanh(mean) - action).square().mean(1)
    return distance + _CLONE_STD_WEIGHT * (log_std - CLONE_LOG_STD).square().mean(1)
