"""The benchmark measures what it says: same data, same sizes, real bytes. No test looks at a time."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hilserl.benchmark import lerobot_side, ours, roofline
from hilserl.benchmark.actors import ingest
from hilserl.benchmark.cli import main
from hilserl.benchmark.data import add_noise, episodes, make_spec
from hilserl.benchmark.lerobot_side import LeRobot
from hilserl.benchmark.ours import Ours, TableEncoder
from hilserl.benchmark.timing import Deadline, Side, Spread, alternate, ratio, spread
from hilserl.encoder import FeatureEncoder
from hilserl.episode import load_episode, save_episode
from hilserl.types import Episode, Role
from hilserl.vision import random_trunk

STEPS = 150  # one episode of 100 and one of 50
PICTURES = np.random.default_rng(0).integers(0, 256, (6, 128, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> list[Episode]:
    return list(episodes(make_spec(1), PICTURES, STEPS))


@pytest.fixture(scope="module")
def standin(tmp_path_factory) -> Path:
    return lerobot_side.save_resnet10(tmp_path_factory.mktemp("resnet10"))


@pytest.fixture(scope="module")
def theirs(data, standin) -> LeRobot:
    return LeRobot(make_spec(1), data, standin, batch_size=4)


@pytest.fixture(scope="module")
def mine(data) -> Ours:
    return Ours(make_spec(1), data, TableEncoder(512, PICTURES), copies=2, batch_size=4)


def test_both_sides_hold_the_same_transitions(data, theirs, mine):
    assert {e.role for e in data} == {Role.DEMO, Role.TRAIN}
    for role, buffer, ring in (
        (Role.DEMO, theirs.offline, mine.replay.protected),
        (Role.TRAIN, theirs.online, mine.replay.online),
    ):
        (episode,) = [e for e in data if e.role is role]
        steps = len(episode)
        assert len(buffer) == steps
        np.testing.assert_array_equal(buffer.states[lerobot_side.STATE_KEY], episode.state[:-1])
        np.testing.assert_array_equal(ring.arrays["state"][: steps + 1], episode.state)
        np.testing.assert_array_equal(buffer.actions, episode.action)
        np.testing.assert_array_equal(ring.arrays["action"][:steps], episode.action)
        np.testing.assert_array_equal(buffer.rewards, episode.reward)
        np.testing.assert_array_equal(ring.arrays["reward"][:steps], episode.reward)
        assert buffer.dones.tolist() == [False] * (steps - 1) + [True]
        (camera,) = episode.images
        pixels = (buffer.states[lerobot_side.image_key(camera)] * 255).round().byte().permute(0, 2, 3, 1)
        np.testing.assert_array_equal(pixels, episode.images[camera][:-1])


def test_the_table_answers_with_real_features():
    encoder = TableEncoder(16, PICTURES)
    real = FeatureEncoder(random_trunk(64, 0), 16).encode(PICTURES)
    for start, count in ((0, 4), (4, 5)):  # in turn, around the end
        np.testing.assert_array_equal(encoder.encode(PICTURES[:count]), real[(start + np.arange(count)) % 6])
    assert encoder.hash() == FeatureEncoder(random_trunk(64, 0), 16).hash()


def test_their_encoder_is_the_saved_one_and_frozen(theirs, standin):
    from safetensors.torch import load_file

    loaded = theirs.policy.encoder_critic.image_encoder.image_enc_layers
    saved = load_file(standin / "model.safetensors")
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, p in loaded.named_parameters():
        assert torch.equal(p.cpu(), saved[name]), name
    assert theirs.encode(torch.rand(2, 3, 128, 128)).shape == (2, 512, 4, 4)


def test_the_networks_are_of_the_same_size(theirs, mine):
    assert theirs.parameters() == mine.parameters()
    assert mine.parameters()["trunk"] > 4e6


def test_critic_updates_move_the_critics_alone(theirs, mine):
    def their_state() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        heads = [p.detach().clone() for p in theirs.algorithm.critic_ensemble.critics.parameters()]
        acting = [p.detach().clone() for n, p in theirs.policy.actor.named_parameters() if "encoder" not in n]
        return heads, acting

    heads, acting = their_state()
    theirs.critic_updates(2)
    after = their_state()
    assert not any(torch.equal(a, b) for a, b in zip(heads, after[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(acting, after[1], strict=True))
    before = mine.sac.critic_updates, mine.sac.actor_updates
    mine.critic_updates(2)
    assert (mine.sac.critic_updates, mine.sac.actor_updates) == (before[0] + 2, before[1])


@pytest.mark.parametrize("utd", [1, 3])
def test_a_full_step_is_utd_critic_steps_and_one_of_the_actor(theirs, mine, utd):
    def their_steps(name: str) -> float:
        states = theirs.algorithm.optimizers[name].state.values()
        return max((float(s["step"]) for s in states), default=0.0)

    names = ("critic", "actor", "temperature")
    for count in (1, 1, 2):  # each step by itself has its actor step
        before = {name: their_steps(name) for name in names}
        theirs.full_steps(utd, count)
        assert [their_steps(name) - before[name] for name in names] == [count * utd, count, count]
        done = mine.sac.critic_updates, mine.sac.actor_updates
        mine.full_steps(utd, count)
        assert (mine.sac.critic_updates, mine.sac.actor_updates) == (done[0] + count * utd, done[1] + count)


def test_each_update_gathers_a_whole_batch_half_of_it_demonstrations(theirs, mine, monkeypatch):
    drawn: list[tuple[str, int]] = []
    for name, buffer in (("demo", theirs.offline), ("online", theirs.online)):
        real = buffer.sample

        def sample(size, real=real, name=name):
            drawn.append((name, size))
            return real(size)

        monkeypatch.setattr(buffer, "sample", sample)
    theirs.set_batch(6)
    theirs.critic_updates(1)
    drawn.clear()  # their iterator fetches the first batch ahead
    theirs.critic_updates(3)
    assert sorted(drawn) == [("demo", 3)] * 3 + [("online", 3)] * 3
    mine.batch_size = 6
    batch = mine.sample()
    assert len(batch.action) == 6
    assert int(batch.is_demo.sum()) == 3


def test_their_buffers_bytes_are_counted_once_each(theirs, data):
    picture, state, rest = 128 * 128 * 3 * 4, 18 * 4, 4 * 4 + 4 + 1 + 1 + 1 + 4 + 4
    optimised = theirs.buffer(data[:1], optimize_memory=True)
    plain = theirs.buffer(data[:1], optimize_memory=False)
    assert lerobot_side.buffer_bytes(optimised) == picture + state + rest
    assert lerobot_side.buffer_bytes(plain) == 2 * (picture + state) + rest


def test_their_wire_bytes_are_those_of_their_own_serialisation(data):
    episode = data[1]
    pictures = (len(episode) + 1) / len(episode) * 128 * 128 * 3 * 4
    shared, copied = (lerobot_side.wire_bytes(episode, shared=s) for s in (True, False))
    assert pictures < shared < 1.05 * pictures  # each picture once
    assert 2 * 128 * 128 * 3 * 4 < copied < 2.02 * 128 * 128 * 3 * 4  # both pictures of each transition


def test_our_bytes_are_those_on_the_disk_on_the_wire_and_in_the_ring(data, mine, tmp_path):
    episode = data[1]
    path = save_episode(tmp_path, episode)
    assert ours.archive_bytes(episode) == path.stat().st_size / len(episode)
    np.testing.assert_array_equal(load_episode(path).images["gripper_cam"], episode.images["gripper_cam"])
    pixels = (len(episode) + 1) / len(episode) * 128 * 128 * 3
    assert pixels < ours.wire_bytes(episode) < 1.03 * pixels
    assert ours.feature_bytes(mine.replay) == 2 * 512 * 16 * 2
    everything = sum(a.nbytes for a in mine.replay.online.arrays.values())
    each = ours.row_bytes(mine.replay) + ours.feature_bytes(mine.replay)
    assert each * mine.replay.online.capacity == everything
    policy = replace(ours.policy_config(512, 2, "cpu"), cache_features=False)
    raw = ours.make_replay(make_spec(1), ours.plain_encoder(512), policy, (10, 1))
    assert ours.feature_bytes(raw) == 0
    assert 128 * 128 * 3 < ours.row_bytes(raw) < 128 * 128 * 3 + 200


def test_our_weights_message_is_smaller_than_the_trunk_and_theirs_is_not(theirs, mine):
    trunk = 4 * mine.parameters()["trunk"]
    assert mine.weight_bytes() < trunk < theirs.weight_bytes()
    assert mine.weight_bytes() > sum(a.nbytes for a in mine.sac.actor_weights().values())


@pytest.mark.parametrize(("cameras", "channels", "batch"), [(1, 512, 4), (2, 8, 16), (1, 3, 1)])
def test_the_arithmetic_counted_by_hand_is_what_torch_counts(cameras, channels, batch):
    spec = make_spec(cameras)
    learner = Ours(
        spec,
        list(episodes(spec, PICTURES, 110)),
        TableEncoder(channels, PICTURES),
        copies=1,
        batch_size=batch,
    )
    shape = roofline.Shape.of(learner)
    by_hand = roofline.total(roofline.parts(shape)).flops
    # torch also computes the gradient of the actions in the batch, which nobody needs.
    unneeded = 2.0 * batch * shape.critics * shape.actions * shape.hidden[0]
    assert roofline.counted_flops(learner) == pytest.approx(by_hand + unneeded, rel=1e-6)


def test_the_parts_add_up_to_the_update(mine):
    took = roofline.measured_parts(mine, 5.0, budget_s=0.01)
    assert list(took) == list(roofline.parts(roofline.Shape.of(mine)))
    assert sum(took.values()) == pytest.approx(5.0)


def test_noise_has_the_strength_asked_for():
    grey = np.full((4, 128, 128, 3), 128, np.uint8)
    assert add_noise(grey, 0.0).std() == 0.0
    assert add_noise(grey, 3.0).std() == pytest.approx(3.0, rel=0.02)
    extremes = add_noise(np.array([0, 255], np.uint8), 3.0)
    assert extremes[0] < 20 and extremes[1] > 235  # no wrapping around


@pytest.mark.parametrize("transitions", [1, 100, 101, 250])
def test_episodes_hold_exactly_the_transitions_asked_for(transitions):
    made = list(episodes(make_spec(2), PICTURES, transitions))
    assert sum(len(e) for e in made) == transitions
    assert [e.number for e in made] == list(range(1, len(made) + 1))
    assert all(set(e.images) == set(make_spec(2).cameras) for e in made)


def test_sides_take_turns_and_a_deadline_ends_them_after_a_whole_round():
    calls: list[tuple[str, int]] = []
    sides = {
        name: Side(
            lambda n, name=name: calls.append((name, n)), 0.0, lambda name=name: calls.append((name, 0))
        )
        for name in "ab"
    }
    found = alternate(sides, 3, Deadline(60.0))
    assert calls == [("a", 0), ("b", 0)] + [("a", 1), ("b", 1)] * 3
    assert found["a"].count == 3
    assert alternate(sides, 3, Deadline(60.0, spent_s=100.0))["b"].count == 1


def test_a_turn_repeats_the_work_and_tells_the_time_of_one():
    counts: list[int] = []
    took: list[float] = []

    def work(n: int) -> None:
        start = time.perf_counter()
        counts.append(n)
        time.sleep(0.005 * n)
        took.append(time.perf_counter() - start)

    found = alternate({"a": Side(work, 0.2, lambda: None)}, 2, Deadline(60.0))["a"]
    assert counts[0] == 1 and counts[1] == counts[2] > 1
    assert min(took[1:]) / counts[1] <= found.low < min(took[1:])


def test_spread_and_ratio():
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread(2.0, 1.0, 3.0, 3).scaled(10).as_dict() == {"median": 20, "low": 10, "high": 30, "count": 3}
    assert ratio(Spread(10, 8, 12, 1), Spread(2, 1, 4, 1)) == {"median": 5, "low": 2, "high": 12}
    with pytest.raises(ValueError, match="no measurement"):
        spread([])


def test_every_transition_of_every_actor_is_counted(data):
    short = replace(
        data[1],
        images={name: images[:4] for name, images in data[1].images.items()},
        state=data[1].state[:4],
        action=data[1].action[:3],
        reward=data[1].reward[:3],
        intervention=data[1].intervention[:3],
    )
    (row,) = ingest(make_spec(1), short, (2,), 4)
    assert (row["actors"], row["transitions"]) == (2, 12)
    assert row["learner_cpu_ms"] > 0


@pytest.mark.slow
def test_the_last_line_of_a_quick_run_is_json(tmp_path):
    lines: list[str] = []
    arguments = ["learner", "--against", "lerobot", "--quick", "--json"]
    arguments += ["--markdown", str(tmp_path / "tables.md"), "--plot", str(tmp_path / "plot.png")]
    # Started long ago: a single round is measured.
    assert main(arguments, lines.append, time.monotonic() - 1000) == 0
    found = json.loads(lines[-1])
    speed = found["critic_updates_per_s"]
    assert found["critic_updates_per_s_ratio"] == pytest.approx(speed["ours_512_channels"] / speed["lerobot"])
    assert found["critic_updates_per_s_ratio_channels"] == 512
    for kind in ("memory", "wire"):
        sizes = found[f"{kind}_per_transition_bytes"]
        assert found[f"{kind}_per_transition_ratio"] == pytest.approx(sizes["lerobot"] / sizes["ours"])
        assert found[f"{kind}_per_transition_ratio"] > 7
    assert (tmp_path / "plot.png").stat().st_size > 1000
    columns = 0
    for text in (tmp_path / "tables.md").read_text().splitlines():
        columns = (columns or text.count("|")) if text.startswith("|") else 0
        assert text.count("|") == columns, text
