"""Laws of the update, each against numbers worked out here, and of what a checkpoint must carry."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from hilserl.acting import WeightsError
from hilserl.networks import EnsembleLinear, squashed_sample
from hilserl.noise import Noise
from hilserl.replay import Replay
from hilserl.sac import SAC
from hilserl.sampling import Batch
from hilserl.types import End
from tests.fakes.learning import MEAN, SHAPE, SPEC, agent, batch, batches, episode


def changed(sac: SAC, before: dict[str, torch.Tensor]) -> set[str]:
    """Parts of the learner (first two words of the names) that are no longer as `before`."""
    now = sac.state_dict()[0]
    return {".".join(n.split(".")[:2]) for n in before if not torch.equal(before[n], now[n])}


# -- the target


def test_the_target_is_reward_plus_discounted_value_unless_the_future_is_over() -> None:
    sac, data = agent(), batch()
    noise = Noise(0, torch.device("cpu")).normal(16, 4)
    state = sac.nets.net.normalise(data.next_state)
    mean, log_std = sac.nets.net.actor(sac.nets.net.heads(data.next_seen.float()), state)
    action = torch.tanh(mean + log_std.exp() * noise)
    value = sac.nets.target_critic(sac.nets.target_heads(data.next_seen.float()), state, action).amin(0)
    expected = [float(data.reward[i]) + float(data.discount[i]) * value[i].item() for i in range(16)]
    np.testing.assert_allclose(sac.critic_target(data), expected, rtol=1e-5, atol=1e-6)


def test_a_timeout_is_bootstrapped_through_and_a_success_is_not() -> None:
    def target(end: End) -> float:
        replay = Replay(
            SPEC,
            lambda images: np.ones((len(images), *SHAPE), np.float16),
            feature_shape=SHAPE,
            capacity=9,
            protected_capacity=9,
        )
        replay.add(episode(1, end=end))
        sac = agent(seed=3)
        with torch.no_grad():
            for layer in list(sac.nets.target_critic.body)[-1:]:
                layer.bias.fill_(5.0)  # type: ignore[operator, union-attr]
                layer.weight.zero_()  # type: ignore[operator, union-attr]
        return float(sac.critic_target(replay.sample(1, 0.0)))

    assert target(End.SUCCESS) == 1.0
    assert target(End.FAILURE) == 1.0
    assert target(End.TIMEOUT) == pytest.approx(1.0 + 0.97 * 5.0)
    assert target(End.FAULT) == pytest.approx(1.0 + 0.97 * 5.0)


def test_backup_entropy_lowers_the_target_by_temperature_times_log_density() -> None:
    data = replace(batch(), discount=torch.full((16,), 0.97))
    plain, entropic = agent(), agent(use_backup_entropy=True)
    noise = Noise(0, torch.device("cpu")).normal(16, 4)
    state = plain.nets.net.normalise(data.next_state)
    _, log_density = squashed_sample(
        *plain.nets.net.actor(plain.nets.net.heads(data.next_seen.float()), state), noise
    )
    difference = plain.critic_target(data) - entropic.critic_target(data)
    torch.testing.assert_close(difference, 0.97 * 0.1 * log_density.detach(), rtol=1e-3, atol=1e-5)


def test_many_critics_back_up_the_minimum_of_a_random_pair() -> None:
    sac, data = (
        agent(num_critics=5),
        replace(batch(), discount=torch.full((16,), 0.97), reward=torch.zeros(16)),
    )
    with torch.no_grad():
        last = list(sac.nets.target_critic.body)[-1]
        assert isinstance(last, EnsembleLinear)
        last.weight.zero_()
        last.bias.copy_(torch.arange(5.0)[:, None])
    seen = {round(float(sac.critic_target(data)[0]) / 0.97) for _ in range(60)}
    assert seen == {0, 1, 2, 3}


# -- who learns from what


def test_a_critic_step_moves_heads_critics_and_targets_only() -> None:
    sac = agent()
    before = sac.state_dict()[0]
    sac._critic_step(batch())
    assert changed(sac, before) - {"generator"} == {
        "critic_heads.heads", "critic.branch", "critic.body", "target_heads.heads", "target_critic.branch",
        "target_critic.body", "value_bound",
    }  # fmt: skip


def test_an_actor_step_moves_its_own_heads_and_never_the_critics() -> None:
    sac = agent(bc_weight=0.5)
    before = sac.state_dict()[0]
    sac._actor_step(batch())
    assert changed(sac, before) - {"generator"} == {"net.heads", "net.actor", "log_alpha"}


def test_targets_stay_within_what_the_task_can_pay() -> None:
    data = replace(batch(), discount=torch.full((16,), 0.97))
    free, bound = agent(), agent()
    bound.rules = replace(bound.rules, value_range=(0.2, 0.5))
    wild = free.critic_target(data)
    assert float(wild.max()) > 0.5
    assert float(wild.min()) < 0.2
    torch.testing.assert_close(bound.critic_target(data), wild.clamp(0.2, 0.5))


def test_pretraining_the_critic_leaves_the_actor_alone() -> None:
    sac = agent()
    before = sac.state_dict()[0]
    sac.pretrain_critic(batches(), 3)
    assert not {part for part in changed(sac, before) if part.startswith(("net", "log_alpha"))}
    assert sac.critic_updates == 3


def test_targets_start_as_the_critics_are() -> None:
    nets = agent(num_critics=3).nets
    followed = [*nets.critic_heads.parameters(), *nets.critic.parameters()]
    for critic, target in zip(followed, nets.target_parameters(), strict=True):
        assert torch.equal(critic, target)


def test_targets_follow_by_tau() -> None:
    sac = agent(tau=0.25)
    target = sac.nets.target_critic.body[0].weight.clone()  # type: ignore[union-attr, operator]
    sac._critic_step(batch())
    online = sac.nets.critic.body[0].weight  # type: ignore[union-attr]
    expected = target + 0.25 * (online.detach() - target)  # type: ignore[operator]
    torch.testing.assert_close(sac.nets.target_critic.body[0].weight, expected)  # type: ignore[union-attr]


def test_an_update_is_so_many_critic_steps_and_one_actor_step() -> None:
    sac, drawn = agent(), []
    sample = batches()

    def counted() -> Batch:
        drawn.append(sample())
        return drawn[-1]

    sac.update(counted, 7)
    assert (len(drawn), sac.critic_updates, sac.actor_updates) == (7, 7, 1)


def test_the_temperature_falls_when_entropy_is_above_its_target_and_rises_below() -> None:
    for target, sign in ((-50.0, -1), (50.0, 1)):
        sac = agent(target_entropy=target)
        before = sac.nets.log_alpha.item()
        sac._actor_step(batch())
        assert (sac.nets.log_alpha.item() - before) * sign > 0


def test_only_demonstration_rows_are_cloned() -> None:
    data = batch()
    other = replace(data, action=torch.where(data.is_demo[:, None], data.action, -data.action))
    demos = replace(data, action=torch.where(data.is_demo[:, None], -data.action, data.action))
    found = []
    for each in (data, other, demos):
        sac = agent(bc_weight=1.0)
        sac._actor_step(each)
        found.append(sac.metrics()["actor/cloning_loss"])
    assert found[0] == found[1] != found[2]


def test_data_that_differ_in_an_intervention_only_change_the_update() -> None:
    data = batch()
    action = data.action.clone()
    action[0, 3] = -action[0, 3]  # the operator closed instead of opening in one protected row
    one, two = agent(), agent()
    one.update(lambda: data, 1)
    two.update(lambda: replace(data, action=action), 1)
    assert any(not np.array_equal(a, two.actor_weights()[n]) for n, a in one.actor_weights().items())


def test_a_row_is_judged_by_itself() -> None:
    sac, data = agent(num_critics=3), batch()

    def values(rows: slice) -> torch.Tensor:
        image = sac.nets.net.heads(data.seen[rows].float())
        return sac.nets.critic(image, sac.nets.net.normalise(data.state[rows]), data.action[rows])

    for row in range(16):
        torch.testing.assert_close(values(slice(row, row + 1))[:, 0], values(slice(None))[:, row])


# -- what the networks see


def test_still_state_components_are_dropped_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sac = agent()
    assert "stuck_rad" in caplog.text
    assert "x_m" not in caplog.text
    state = torch.tensor([[[0.3, 0.05, 99.0]]])
    torch.testing.assert_close(sac.nets.net.normalise(state), torch.tensor([[[1.0, 1.0, 0.0]]]))


def test_inputs_far_outside_the_data_are_reported() -> None:
    sac, data = agent(), batch()
    state = data.state.clone()
    state[0, 0, 0] = 0.2 + 0.1 * 25
    sac.update(lambda: replace(data, state=state), 1)
    found = sac.metrics()
    assert found["data/state_max"] == pytest.approx(25.0, rel=1e-4)
    assert found["data/state_large_share"] == pytest.approx(1 / 48)
    assert found["data/demo_share"] == 0.5
    assert found["critic/q_bound"] == pytest.approx(1 / 0.03, rel=1e-4)
    assert sac.metrics() == {}


def test_a_reward_paid_once_bounds_the_value_by_itself() -> None:
    sac, data = agent(), batch()
    sac.update(lambda: replace(data, discount=0.97 * (1.0 - data.reward)), 1)
    assert sac.metrics()["critic/q_bound"] == 1.0


def test_divergence_is_an_error_and_not_a_number() -> None:
    sac, data = agent(), batch()
    sac.update(lambda: replace(data, reward=torch.full((16,), torch.nan)), 1)
    with pytest.raises(FloatingPointError, match="critic/loss"):
        sac.metrics()


def test_inputs_out_of_range_are_counted_and_named() -> None:
    sac, data = agent(), batch()
    data = replace(data, state=torch.zeros_like(data.state) + torch.from_numpy(MEAN))
    state = data.state.clone()
    state[0, 0, 0] += 0.1 * 6
    wild = replace(data, state=state)
    for found in (wild, wild, wild):
        sac._critic_step(found)
    names = SPEC.state_names
    assert sac.large_inputs() == {names[0]: 3, names[1]: 0, names[2]: 0}
    sac._critic_step(data)
    assert set(sac.large_inputs().values()) == {0}


# -- checkpoints


def test_a_restored_learner_continues_bit_for_bit() -> None:
    first = agent(bc_weight=0.2, num_critics=3)
    first.pretrain_bc(batches(500), 3)
    first.update(batches(), 5)
    tensors, plain = first.state_dict()
    tensors, plain = load(save(tensors)), json.loads(json.dumps(plain))
    second = agent(seed=9, bc_weight=0.2, num_critics=3)
    second.load_state_dict(tensors, plain)
    for sac in (first, second):
        sac.update(batches(100), 4)
        sac.update(batches(200), 2)
    one, two = first.state_dict(), second.state_dict()
    assert one[1] == two[1]
    assert one[0].keys() == two[0].keys()
    assert all(torch.equal(tensor, two[0][name]) for name, tensor in one[0].items())


def test_the_same_seed_gives_the_same_learner_and_leaves_torch_alone() -> None:
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    one, two, other = agent(1), agent(1), agent(2)
    assert torch.rand(1) == expected
    name = "critic.body.0.weight"
    assert torch.equal(one.state_dict()[0][name], two.state_dict()[0][name])
    assert not torch.equal(one.state_dict()[0][name], other.state_dict()[0][name])


@pytest.mark.parametrize("name", ["net.actor.out.weight", "optimiser.critic.0.exp_avg", "log_alpha"])
def test_an_incomplete_state_is_refused_and_changes_nothing(name: str) -> None:
    sac = agent()
    sac.update(batches(), 1)
    tensors, plain = sac.state_dict()
    fresh = agent(seed=1)
    before = fresh.state_dict()[0]
    missing = {n: t for n, t in tensors.items() if n != name}
    with pytest.raises(WeightsError, match=f"missing {name}"):
        fresh.load_state_dict(missing, plain)
    with pytest.raises(WeightsError, match=f"{name} has shape"):
        fresh.load_state_dict({**tensors, name: torch.zeros(1, 2, 3)}, plain)
    with pytest.raises(WeightsError, match="unknown nonsense"):
        fresh.load_state_dict({**tensors, "nonsense": torch.zeros(1)}, plain)
    assert changed(fresh, before) == set()
