"""The building blocks of SAC, each against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hilserl.networks import Critic, dropout, squashed_sample

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


def test_dropout_zeroes_its_share_and_keeps_the_mean() -> None:
    x = torch.ones(200, 500)
    y = dropout(x, 0.1, np.random.default_rng(0))
    assert float((y == 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.005)
    assert dropout(x, 0.1, None) is x
