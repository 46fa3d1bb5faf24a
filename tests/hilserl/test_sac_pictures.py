"""Encoding in the update: the numbers of kept features while the trunk is frozen; a trunk that learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hilserl.acting import ActingPolicy, WeightsError
from hilserl.encoder import FeatureEncoder
from hilserl.sac import SAC
from hilserl.sampling import Batch
from hilserl.types import Obs, Spec
from hilserl.vision import random_trunk
from tests.fakes.learning import MEAN, SMALL, SPEC, STD, batch

TWO = Spec(("front", "wrist"), (64, 64, 3), SPEC.state_names, SPEC.action_names)
CHANNELS = 12


def encoder() -> FeatureEncoder:
    return FeatureEncoder(random_trunk(4, 0), CHANNELS)


def learner(spec: Spec, eye: FeatureEncoder | None, **changes: object) -> SAC:
    policy = replace(SMALL, n_obs_steps=2, dropout=0.1, **changes)  # type: ignore[arg-type]
    return SAC(spec, policy, (CHANNELS, 2, 2), MEAN, STD, 0, encoder=eye)


def pictures(spec: Spec, size: int = 16) -> Batch:
    rng = np.random.default_rng(0)
    shape = (size, 2, len(spec.cameras), *spec.image_shape)
    one, two = (torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(2))
    return replace(batch(size, n_obs=2), seen=one, next_seen=two)


def encoded(data: Batch, eye: FeatureEncoder) -> Batch:
    def features(images: torch.Tensor) -> torch.Tensor:
        flat = torch.from_numpy(eye.encode(images.flatten(0, 2).numpy()))
        return flat.view(*images.shape[:3], *flat.shape[1:])

    return replace(data, seen=features(data.seen), next_seen=features(data.next_seen))


@pytest.mark.parametrize("spec", [SPEC, TWO], ids=["one camera", "two cameras"])
def test_a_frozen_trunk_gives_the_same_numbers_kept_or_in_the_update(spec: Spec) -> None:
    kept, fresh = learner(spec, None), learner(spec, encoder(), cache_features=False)
    data = pictures(spec)
    features = encoded(data, encoder())
    kept.update(lambda: features, 3)
    fresh.update(lambda: data, 3)
    mine, theirs = kept.state_dict()[0], fresh.state_dict()[0]
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=0)


def test_an_unfrozen_trunk_learns_from_the_critics_loss_alone() -> None:
    eye = encoder()
    sac = learner(SPEC, eye, cache_features=False, freeze_vision_encoder=False)
    data = pictures(SPEC)
    before = {name: t.clone() for name, t in eye.trunk.state_dict().items()}
    sac._actor_step(data)
    assert all(torch.equal(t, before[name]) for name, t in eye.trunk.state_dict().items())
    first = eye.hash()
    sac._critic_step(data)
    assert all(
        not torch.equal(t, before[name]) for name, t in eye.trunk.state_dict().items() if "weight" in name
    )
    assert eye.hash() != first


def test_an_actor_sees_with_the_trunk_that_learned() -> None:
    sac = learner(SPEC, encoder(), cache_features=False, freeze_vision_encoder=False)
    data = pictures(SPEC)
    sac.update(lambda: data, 5)
    acting = ActingPolicy(SPEC, sac.config, encoder())
    acting.load(sac.actor_weights())
    for now in range(2):
        obs = Obs({"cam": data.seen[0, now, 0].numpy()}, data.state[0, now].numpy())
        action = acting.act(obs, "mean")
    with torch.no_grad():
        features = sac.nets.look(data.seen[:1])
        mean, _ = sac.nets.net.actor(sac.nets.net.heads(features), sac.nets.net.normalise(data.state[:1]))
    np.testing.assert_allclose(action, torch.tanh(mean)[0].numpy(), atol=2e-3)  # features acted on are halves
    weights = sac.actor_weights()
    weights.pop("encoder.trunk.embedder.0.weight")
    with pytest.raises(WeightsError, match=r"missing trunk\.embedder\.0\.weight"):
        acting.load(weights)


def test_a_learner_whose_trunk_learns_continues_bit_for_bit() -> None:
    data = pictures(SPEC)
    one = learner(SPEC, encoder(), cache_features=False, freeze_vision_encoder=False)
    one.update(lambda: data, 2)
    two = learner(SPEC, encoder(), cache_features=False, freeze_vision_encoder=False)
    two.load_state_dict(*one.state_dict())
    for sac in (one, two):
        sac.update(lambda: data, 2)
    mine, theirs = one.state_dict()[0], two.state_dict()[0]
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="freeze_vision_encoder"):
        learner(SPEC, None, freeze_vision_encoder=False)
    with pytest.raises(ValueError, match="cache_features"):
        learner(SPEC, None, cache_features=False)
