"""The building blocks of SAC, each against its definition."""

from __future__ import annotations

import pytest
import torch

from hilserl.networks import Critic, squashed_sample, tanh
from hilserl.noise import Noise

torch.set_num_threads(1)


def test_the_squashed_density_is_that_of_the_change_of_variable() -> None:
    mean, log_std, noise = torch.tensor([[0.3]]), torch.tensor([[-0.5]]), torch.tensor([[0.8]])
    action, log_density = squashed_sample(mean, log_std, noise)
    normal = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(normal, [torch.distributions.TanhTransform()])
    torch.testing.assert_close(log_density, squashed.log_prob(action)[:, 0])


def test_an_ensemble_learns_as_its_members_would_alone() -> None:
    torch.manual_seed(0)
    both = Critic(2, 16, 3, 8, (12, 12), 4)
    image, state, action = torch.randn(5, 16), torch.randn(5, 1, 3), torch.rand(5, 4)
    values = both(image, state, action)
    gradients = torch.autograd.grad(values.square().mean(1).sum(), list(both.body.parameters()))
    for member in range(2):
        alone = Critic(1, 16, 3, 8, (12, 12), 4)
        alone.branch.load_state_dict(both.branch.state_dict())
        alone.body.load_state_dict({n: t[member : member + 1] for n, t in both.body.state_dict().items()})
        value = alone(image, state, action)
        torch.testing.assert_close(value[0], values[member])
        own = torch.autograd.grad(value.square().mean(), list(alone.body.parameters()))
        for mine, shared in zip(own, gradients, strict=True):
            torch.testing.assert_close(mine[0], shared[member], rtol=1e-4, atol=1e-6)


def test_a_dropout_mask_zeroes_its_share_and_keeps_the_mean() -> None:
    mask = Noise(0, torch.device("cpu")).keep(0.1, 500, 200)
    assert float((mask == 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert float(mask.mean()) == pytest.approx(1.0, abs=0.005)


def test_several_processes_draw_together_what_one_draws_alone() -> None:
    cpu = torch.device("cpu")
    alone, parts = Noise(3, cpu), [Noise(3, cpu, rank, 3) for rank in range(3)]
    for _ in range(2):
        shares = torch.stack([part.normal(2, 4) for part in parts], 1)
        assert torch.equal(alone.normal(6, 4), shares.flatten(0, 1))
        masks = torch.stack([part.keep(0.2, 5, 2, frames=2).view(5, 2, 2) for part in parts], 2)
        assert torch.equal(alone.keep(0.2, 5, 6, frames=2), masks.flatten(1))
        pairs = {tuple(part.pair(9).tolist()) for part in parts}
        assert pairs == {tuple(alone.pair(9).tolist())}


def test_noise_continues_from_its_state() -> None:
    first, second = Noise(0, torch.device("cpu")), Noise(1, torch.device("cpu"))
    first.normal(3, 2)
    first.keep(0.5, 3, 3)
    second.restore(*first.state())
    assert torch.equal(first.normal(4, 4), second.normal(4, 4))
    assert torch.equal(first.keep(0.5, 4, 4), second.keep(0.5, 4, 4))
    assert torch.equal(first.pair(10), second.pair(10))


def test_the_fast_tanh_is_tanh_and_so_is_its_slope() -> None:
    x = torch.linspace(-12, 12, 2001, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(tanh(x), torch.tanh(x))
    (slope,) = torch.autograd.grad(tanh(x).sum(), x)
    torch.testing.assert_close(slope, 1 - torch.tanh(x.detach()).square())
    single = x.detach().float()
    torch.testing.assert_close(tanh(single), torch.tanh(single), rtol=0, atol=2e-7)
