"""The least an update can cost: its arithmetic and its bytes against what this machine can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hilserl.benchmark.ours import Ours
from hilserl.benchmark.timing import seconds

HALF, FLOAT = 2, 4


@dataclass(frozen=True, slots=True)
class Shape:
    """What the counts depend on: batch, cameras, feature channels and positions, and the networks' sizes."""

    batch: int
    cameras: int
    channels: int
    positions: int
    embeddings: int
    latent: int
    hidden: tuple[int, ...]
    critics: int
    state: int
    actions: int

    @staticmethod
    def of(ours: Ours) -> Shape:
        """The shape of a learner."""
        policy, spec = ours.config.policy, ours.spec
        channels, height, width = ours.replay.feature_shape
        return Shape(
            ours.batch_size, len(spec.cameras), channels, height * width, policy.num_spatial_embeddings,
            policy.latent_dim, policy.hidden_dims, policy.num_critics, spec.state_size,
            len(spec.action_names),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating-point operations (a multiplication and an addition are two) and bytes moved."""

    flops: float
    bytes: float


def _mlp(sizes: list[int]) -> int:
    """Weights of a chain of linear layers."""
    return sum(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def parts(shape: Shape) -> dict[str, Cost]:
    """Least cost of each part of a critic update, matrix products alone.

    Bytes: features are read once where they lie, written to the batch and read from it once by each of the
    networks that need them; each parameter is read once per pass; activations stay in the cache. A backward
    pass costs a product for the weights and, but for the layers on the data, one for the inputs.
    """
    batch, cameras = shape.batch, shape.cameras
    pooling = cameras * shape.channels * shape.positions * shape.embeddings
    pooled = cameras * shape.channels * shape.embeddings * shape.latent
    branch = shape.state * shape.latent
    seen = (cameras + 1) * shape.latent
    actor = _mlp([seen, *shape.hidden, 2 * shape.actions])
    critic = shape.critics * _mlp([seen + shape.actions, *shape.hidden, 1])
    first_action_inputs = shape.critics * shape.actions * shape.hidden[0]
    head = pooling + pooled
    critic_weights = head + branch + critic
    pictures = batch * cameras * shape.channels * shape.positions * HALF
    moved = FLOAT * critic_weights
    forward = 2.0 * batch * (head + branch + critic)
    # Weight gradients of all layers; input gradients but for the two layers whose inputs are data.
    backward = 2.0 * batch * (head + branch + critic + pooled + critic - first_action_inputs)
    return {
        "gather": Cost(0.0, 2 * 2 * pictures),
        "targets": Cost(
            2.0 * batch * (2 * head + 2 * branch + actor + critic),
            pictures + FLOAT * (head + branch + actor) + moved,
        ),
        "critic forward and backward": Cost(forward + backward, 2 * pictures + 3 * moved),
        "gradient norm, Adam": Cost(0.0, (1 + 4 + 3) * moved),
        "targets follow": Cost(0.0, 3 * moved),
    }


def total(costs: dict[str, Cost]) -> Cost:
    """The sum of the parts."""
    return Cost(sum(c.flops for c in costs.values()), sum(c.bytes for c in costs.values()))


def counted_flops(ours: Ours) -> float:
    """What torch itself counts in one critic update."""
    counter = FlopCounterMode(display=False)
    with counter:
        ours.critic_updates(1)
    return float(counter.get_total_flops())


@dataclass(frozen=True, slots=True)
class Peak:
    """What the machine reached: float32 products [FLOP/s] and a copy, reads and writes counted [byte/s]."""

    flops: float
    bandwidth: float

    def least_s(self, cost: Cost) -> float:
        """Time nothing can beat: arithmetic and memory traffic perfectly overlapped."""
        return max(cost.flops / self.flops, cost.bytes / self.bandwidth)


def measure_peak(device: str, budget_s: float = 2.0) -> Peak:
    """The best of a large matrix product and of a copy far larger than the caches."""
    size = 8192 if device.startswith("cuda") else 2048
    a, b = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    out = torch.empty_like(a)
    source = torch.rand(2**26, device=device)
    target = torch.empty_like(source)
    product_s = _best(lambda: torch.mm(a, b, out=out), budget_s / 2)
    copy_s = _best(lambda: target.copy_(source), budget_s / 2)
    return Peak(2.0 * size**3 / product_s, 2.0 * source.nbytes / copy_s)


def _best(work: Callable[[], object], budget_s: float) -> float:
    work()
    end = time.monotonic() + budget_s
    best = seconds(work)
    while time.monotonic() < end:
        best = min(best, seconds(work))
    return best


def measured_parts(ours: Ours, update_s: float, budget_s: float = 1.0) -> dict[str, float]:
    """Seconds of each part, given the whole update's. What cannot be called alone is what remains."""
    device = ours.sac.device
    batch = ours.sample().to(device)
    with torch.no_grad():
        copies = [p.detach().clone() for p in ours.sac.optimisers["critic"].param_groups[0]["params"]]
    follow = [p.clone() for p in copies]
    trained = [torch.nn.Parameter(p.clone()) for p in copies]
    for p in trained:
        p.grad = torch.full_like(p, 1e-3)
    adam = torch.optim.Adam(trained, lr=1e-4, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(trained, 1e6)
        adam.step()

    found = {
        "gather": _typical(lambda: ours.sample().to(device), budget_s),
        "targets": _typical(lambda: _no_grad(lambda: ours.sac.critic_target(batch)), budget_s),
        "gradient norm, Adam": _typical(step, budget_s),
        "targets follow": _typical(lambda: torch._foreach_lerp_(follow, copies, 0.005), budget_s),
    }
    rest = update_s - sum(found.values())
    order = ("gather", "targets", "critic forward and backward", "gradient norm, Adam", "targets follow")
    return {name: found.get(name, rest) for name in order}


@torch.no_grad()
def _no_grad(work: Callable[[], Tensor]) -> Tensor:
    return work()


def _typical(work: Callable[[], object], budget_s: float) -> float:
    work()
    end = time.monotonic() + budget_s
    found = [seconds(work)]
    while time.monotonic() < end:
        found.append(seconds(work))
    return sorted(found)[len(found) // 2]
