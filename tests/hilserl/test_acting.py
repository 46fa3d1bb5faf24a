"""The actor acts on exactly what the learner learns from, and refuses what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hilserl.acting import ActingPolicy, WeightsError
from hilserl.encoder import FeatureEncoder
from hilserl.replay import Replay
from hilserl.types import Episode, Obs, Role
from hilserl.vision import random_trunk
from tests.fakes.learning import SHAPE, SPEC, agent, episode


def seen(data: Episode, t: int) -> Obs:
    return Obs({"cam": data.images["cam"][t]}, data.state[t])


@pytest.fixture(scope="module")
def encoder() -> FeatureEncoder:
    return FeatureEncoder(random_trunk(8, 0), 8)


def store(encoder: FeatureEncoder, n_obs: int, pad: int = 0) -> Replay:
    return Replay(
        SPEC,
        encoder.encode,
        feature_shape=SHAPE,
        capacity=60,
        protected_capacity=60,
        n_obs_steps=n_obs,
        pad=pad,
    )


@pytest.mark.parametrize("n_obs", [1, 3])
def test_the_actor_acts_on_exactly_what_the_learner_learns_from(encoder: FeatureEncoder, n_obs: int) -> None:
    data, replay = episode(6), store(encoder, n_obs)
    replay.add(data)
    sac = agent(n_obs_steps=n_obs)
    acting = ActingPolicy(SPEC, sac.config, encoder)
    acting.load(sac.actor_weights())
    stored = {round(float(s[-1, 0]), 6): (f, s) for b in [replay.sample(200, 0.0)]
              for f, s in zip(b.seen, b.state, strict=True)}  # fmt: skip
    for _ in range(2):  # the second episode must not remember the first
        acting.reset()
        for t in range(6):
            if t == 2:  # the operator acts here
                acting.observe(seen(data, t))
                continue
            action = acting.act(seen(data, t), "mean")
            features, state = stored[round(float(data.state[t, 0]), 6)]
            found = acting._stacked()
            assert torch.equal(found[0][0], features)
            assert torch.equal(found[1][0], state)
            net = sac.nets.net
            mean, _ = net.actor(net.heads(features[None].float()), net.normalise(state[None]))
            assert np.array_equal(action, torch.tanh(mean)[0].detach().numpy())


def test_cloning_one_demonstration_replays_it_within_two_percent(encoder: FeatureEncoder) -> None:
    data, replay = episode(12, role=Role.DEMO), store(encoder, 1, pad=4)
    replay.add(data)
    sac = agent(dropout=0.0, lr=3e-3)
    sac.pretrain_bc(lambda: replay.sample(24, 1.0), 400)
    acting = ActingPolicy(SPEC, sac.config, encoder)
    acting.load(sac.actor_weights())
    replayed = np.stack([acting.act(seen(data, t), "mean") for t in range(12)])
    assert np.abs(replayed - data.action).mean() < 0.02 * 2.0  # actions span 2
    assert np.abs(acting.act(seen(data, 3), "mean") - acting.act(seen(data, 9), "mean")).max() > 0.1
    swapped = Obs({"cam": data.images["cam"][9]}, data.state[3])
    assert np.abs(acting.act(seen(data, 3), "mean") - acting.act(swapped, "mean")).max() > 0.1


def test_modes_of_acting(encoder: FeatureEncoder) -> None:
    data, sac = episode(2), agent()
    acting = ActingPolicy(SPEC, sac.config, encoder)
    with pytest.raises(WeightsError, match="no policy weights"):
        acting.act(seen(data, 0), "mean")
    acting.load(sac.actor_weights())
    mean = acting.act(seen(data, 0), "mean")
    assert np.array_equal(mean, acting.act(seen(data, 0), "mean"))
    drawn = [acting.act(seen(data, 0), "sample", torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert np.array_equal(acting.act(seen(data, 0), "sample", noise_scale=0.0), mean)
    assert mean.dtype == np.float32
    assert mean.shape == (4,)
    with pytest.raises(ValueError, match="mode must be"):
        acting.act(seen(data, 0), "greedy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="image 'cam' must be"):
        acting.act(Obs({"cam": np.zeros((32, 32, 3), np.uint8)}, data.state[0]), "mean")
    with pytest.raises(ValueError, match="state must be"):
        acting.act(Obs({"cam": data.images["cam"][0]}, data.state[0, :2]), "mean")


def test_a_bundle_that_does_not_fit_is_refused(encoder: FeatureEncoder) -> None:
    sac = agent()
    acting = ActingPolicy(SPEC, sac.config, encoder)
    weights = sac.actor_weights()
    with pytest.raises(WeightsError, match=r"missing actor\.out\.bias"):
        acting.load({n: a for n, a in weights.items() if n != "actor.out.bias"})
    with pytest.raises(WeightsError, match=r"actor\.out\.bias .* not finite"):
        acting.load({**weights, "actor.out.bias": np.full(8, np.nan, np.float32)})
    assert not any(n.startswith(("critic", "target")) for n in weights)
