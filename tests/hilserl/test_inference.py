"""A stored policy: rebuilt as it was, refused where it does not fit, played without help."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.alarms import CollapseGuard
from hilserl.build import build_encoder, build_replay, build_sac
from hilserl.checkpoint import load_pretrained
from hilserl.config import Config, InferenceArgs, PolicyConfig
from hilserl.config_loading import load_config
from hilserl.contract import CheckpointError, ContractMismatch
from hilserl.counters import Counters
from hilserl.env import task_spec
from hilserl.inference import load_player, run_inference
from hilserl.learner_saving import CheckpointSaver, golden_observation
from hilserl.player import ENCODER_KEY, Player
from hilserl.rundir import RunDir
from hilserl.sac_agent import SacAgent
from hilserl.types import End, Episode, Role

torch.set_num_threads(1)
SMALL = (
    "--policy.vision_encoder_name=random:8:0",
    "--policy.feature_channels=8",
    "--policy.latent_dim=8",
    "--policy.hidden_dims=[8,8]",
    "--policy.online_buffer_capacity=300",
    "--policy.offline_buffer_capacity=300",
    "--task.control_time_s=1",
    "--task.resize_size=[64,64]",
    "--teleop.type=none",
)


def small_config(folder, *words: str) -> Config:
    words = (*SMALL, f"--output_dir={folder}", *words)
    return load_config("configs/twin_lift_easy_config.json", list(words))


def noise_episode(config: Config, steps: int = 20) -> Episode:
    spec, rng = task_spec(config.task), np.random.default_rng(0)
    return Episode(
        images={
            n: rng.integers(0, 256, (steps + 1, *spec.image_shape), dtype=np.uint8) for n in spec.cameras
        },
        state=rng.normal(0.2, 0.1, (steps + 1, spec.state_size)).astype(np.float32),
        action=rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
        reward=np.zeros(steps, np.float32),
        intervention=np.zeros(steps, np.bool_),
        end=End.TIMEOUT,
        role=Role.TRAIN,
        actor="a",
        number=1,
        policy_version=0,
        seed=0,
        task_hash="",
    )


@pytest.fixture(scope="module", params=[1, 3], ids=["one frame", "three frames"])
def saved(request, tmp_path_factory):
    """(configuration, checkpoint, the agent that was saved)."""
    folder = tmp_path_factory.mktemp("run")
    config = small_config(folder, f"--policy.n_obs_steps={request.param}")
    spec, encoder = task_spec(config.task), build_encoder(config)
    replay = build_replay(config, spec, encoder)
    replay.add(noise_episode(config))
    agent = SacAgent(build_sac(config, spec, replay, encoder), replay, encoder)
    with RunDir.create(folder, "job", "{}", False) as run:
        counters = Counters(transitions=20)
        guard = CollapseGuard(config.policy)
        with CheckpointSaver(config, run.checkpoints, spec, agent, encoder, counters, guard) as saver:
            saver.save(best=True)
    return config, run.checkpoints / "000020", agent


def test_the_rebuilt_policy_answers_as_the_trained_one_did(saved):
    config, path, agent = saved
    spec = task_spec(config.task)
    rebuilt = load_player(load_pretrained(path), config, spec)
    trained = Player(spec, config, build_encoder(config), deterministic=True)
    trained.load(agent.weights())
    rng = np.random.default_rng(1)
    for player in (rebuilt, trained):
        player.reset()
    for _ in range(4):  # a history, where there is one
        obs = golden_observation(spec, rng.normal(0.2, 0.1, spec.state_size))
        np.testing.assert_allclose(rebuilt.act(obs), trained.act(obs), atol=1e-5)


def test_the_architecture_is_the_checkpoints_not_the_configurations(saved):
    config, path, _ = saved
    other = replace(config, policy=replace(PolicyConfig(), vision_encoder_name="nowhere"))
    load_player(load_pretrained(path), other, task_spec(config.task))


@pytest.mark.parametrize(("word", "field"), [
    ("--task.action_scale=0.03", "action_scale: here 0.03, there 0.02"),
    ("--task.fps=5", "fps: here 5.0, there 10.0"),
    ("--task.resize_size=[96,96]", "image_height_width_channels"),
])  # fmt: skip
def test_a_checkpoint_of_another_task_is_refused_with_the_fields(saved, word, field):
    config, path, _ = saved
    other = small_config(config.output_dir, word)
    with pytest.raises(ContractMismatch) as refusal:
        load_player(load_pretrained(path), other, task_spec(other.task))
    assert field in str(refusal.value)


def test_an_allowed_difference_is_accepted(saved):
    config, path, _ = saved
    other = small_config(config.output_dir, "--task.fps=5", "--allow_task_difference=fps")
    load_player(load_pretrained(path), other, task_spec(other.task))


def test_an_action_of_another_shape_is_refused(saved):
    config, path, _ = saved
    pretrained = load_pretrained(path)
    pretrained.contract["action"]["names"].append("wrist")
    with pytest.raises(ContractMismatch, match="action.names: here .*, there .*wrist"):
        load_player(pretrained, config, task_spec(config.task))


def test_tensors_that_are_not_those_of_training_are_noticed(saved):
    config, path, _ = saved
    pretrained = load_pretrained(path)
    rng = np.random.default_rng(0)
    for name in [n for n in pretrained.tensors if n.startswith("policy.") and n.endswith("weight")]:
        array = pretrained.tensors[name]
        pretrained.tensors[name] = array + rng.normal(size=array.shape).astype(array.dtype)
    with pytest.raises(CheckpointError, match="answers differently"):
        load_player(pretrained, config, task_spec(config.task))


def test_an_actor_refuses_weights_of_another_encoder(saved):
    config, _, agent = saved
    other = replace(config, policy=replace(config.policy, vision_encoder_name="random:8:1"))
    player = Player(task_spec(config.task), other, build_encoder(other), deterministic=True)
    with pytest.raises(ContractMismatch, match="vision_encoder_name"):
        player.load(agent.weights())
    assert ENCODER_KEY in agent.weights(), "loading does not change what was published"


def test_deterministic_repeats_itself_and_sampling_does_not(saved):
    config, path, _ = saved
    spec = task_spec(config.task)
    obs = golden_observation(spec, np.zeros(spec.state_size))
    for stochastic in (False, True):
        player = load_player(load_pretrained(path), config, spec, stochastic=stochastic)
        actions = []
        for _ in range(3):
            player.reset()
            actions.append(player.act(obs))
        assert bool(np.ptp(actions, axis=0).max() > 0) is stochastic
        assert np.abs(actions).max() <= 1


@settings(max_examples=10, deadline=None)
@given(state=st.lists(st.floats(-5, 5, width=32), min_size=18, max_size=18))
def test_every_answer_is_an_action(saved, state):
    config, path, agent = saved
    spec = task_spec(config.task)
    player = Player(spec, config, build_encoder(config), deterministic=False)
    player.load(agent.weights())
    action = player.act(golden_observation(spec, np.array(state)))
    assert action.shape == (4,) and action.dtype == np.float32 and np.abs(action).max() <= 1


def test_two_episodes_are_played_counted_and_filmed(saved, tmp_path, capsys):
    config, path, _ = saved
    args = InferenceArgs(str(path / "pretrained_model"), 2, record_video=True, video_dir=str(tmp_path))
    summary = run_inference(config, args)
    assert summary.complete and len(summary.trials) == 2
    on_disk = json.loads((tmp_path / "summary.json").read_text())
    assert on_disk == json.loads(json.dumps(summary.to_json()))
    assert on_disk["settings"]["deterministic"] is True
    assert sorted(p.name for p in tmp_path.glob("*.mp4")) == ["episode_000.mp4", "episode_001.mp4"]
    seeds = [trial.seed for trial in summary.trials]
    assert len(set(seeds)) == 2
    out = capsys.readouterr().out
    assert "95 % interval" in out and "episode 1:" in out and str(tmp_path) in out.replace("\n", "")
    again = run_inference(config, replace(args, record_video=False, num_episodes=1))
    assert again.trials[0].reward == summary.trials[0].reward and again.trials[0].seed == seeds[0]
