"""Real processes, real gRPC, the lock-step twin: start, stop, kill, resume, play; bad input, in words."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Queue

import numpy as np
import pytest

from hilserl.actor import Actor, Plan
from hilserl.body import build_body
from hilserl.build import build_encoder, build_replay, set_threads
from hilserl.cli import main
from hilserl.config_loading import load_config
from hilserl.env import task_spec
from hilserl.episode import load_episode, save_episode, scan_episodes
from hilserl.replay import Key
from hilserl.task_record import task_hash, task_json
from hilserl.types import End, Episode, Role, Weights
from hilserl.wire import ActorLink, LearnerService
from robot.calibration import model_limits
from robot.errors import CalibrationError
from robot.types import GRIPPER, Operator
from tests.fakes.classifiers import ALWAYS, save_classifier

ROOT = Path(__file__).resolve().parents[1]
EASY = "configs/twin_lift_easy_config.json"
SMALL = (
    "--policy.vision_encoder_name=random:16:0",
    "--policy.feature_channels=16",
    "--policy.batch_size=16",
    "--policy.utd_ratio=1",
    "--policy.policy_update_freq=1",
    "--policy.latent_dim=16",
    "--policy.hidden_dims=[16,16]",
    "--policy.bc_pretrain_steps=20",
    "--policy.critic_pretrain_steps=5",
    "--policy.online_step_before_learning=10",
    "--policy.online_buffer_capacity=3000",
    "--policy.offline_buffer_capacity=3000",
    "--service.policy_push_every_updates=20",
    "--run.num_threads=1",
    "--run.tensorboard=false",
    "--run.checkpoint_every=30",
    "--task.control_time_s=3",
)
PATIENCE_S = 120.0


class Process:
    """A program with a configuration, its output gathered by a thread."""

    def __init__(self, program: Sequence[str], *words: str) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, *program, "--config_path", EASY, *words],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._heard:
                self.lines.append(line.rstrip("\n"))
                self._heard.notify_all()
        with self._heard:
            self.lines.append("<end>")
            self._heard.notify_all()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, count: int = 1) -> None:
        """Wait until `count` lines match."""

        def enough() -> bool:
            return sum(bool(re.search(pattern, line)) for line in self.lines) >= count

        with self._heard:
            self._heard.wait_for(lambda: enough() or "<end>" in self.lines, PATIENCE_S)
            assert enough(), f"no {count} lines like {pattern!r} in:\n{self.text}"

    def match(self, pattern: str) -> re.Match[str]:
        """The first line's match."""
        return next(found for line in self.lines if (found := re.search(pattern, line)))

    def interrupt(self) -> int:
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def wait(self) -> int:
        code = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()


EPISODE = r"^ *\d+ +\d+ +-?\d+\.\d\d +(yes|no)"
"""A row of the actor's table."""
LEARNING = r"^checkpoint "
SERVING = r"^learner at "
TAKEN_IN = r"^\w+/\d+ train: "
"""A training episode the learner has encoded and taken in."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Run:
    """A job in a folder of its own, with a free port; its processes end with the test."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.port = free_port()
        self.root = folder / "job"
        self.words = (
            *SMALL,
            f"--output_dir={folder}",
            "--job_name=job",
            f"--service.learner_port={self.port}",
            *words,
        )
        self.processes: list[Process] = []

    def start(self, command: str, *words: str) -> Process:
        return self.start_program(("-m", "hilserl", command), *words)

    def start_program(self, program: Sequence[str], *words: str) -> Process:
        self.processes.append(Process(program, *self.words, *words))
        return self.processes[-1]

    def episodes(self) -> dict[str, list[int]]:
        """Stored episode numbers of each actor, in order of the files."""
        found: dict[str, list[int]] = {}
        for info in scan_episodes(self.root / "episodes"):
            found.setdefault(info.actor, []).append(info.number)
        return found

    def rows(self, *path: str) -> list[dict]:
        return [json.loads(line) for line in self.root.joinpath(*path).read_text().splitlines()]

    def state(self) -> dict:
        return json.loads((self.root / "checkpoints/last/training_state/state.json").read_text())


@pytest.fixture
def job(tmp_path):
    runs: list[Run] = []

    def make(*words: str) -> Run:
        runs.append(Run(tmp_path, *words))
        return runs[-1]

    yield make
    for run in runs:
        for process in run.processes:
            process.close()


def contiguous(numbers: list[int]) -> bool:
    return sorted(numbers) == list(range(1, len(numbers) + 1))


def told(capsys, command: str, *words: str) -> str:
    """What `hilserl` says of bad input; exit code 2 and no traceback are checked here."""
    assert main([command, "--config_path", EASY, *words]) == 2
    out = capsys.readouterr()
    assert "Traceback" not in out.out + out.err
    return out.err


@pytest.mark.slow
def test_trains_checkpoints_and_plays_with_stacked_frames(job, tmp_path, capsys, monkeypatch):
    """Actor first, learner later; one interrupt ends each; the checkpoint plays and is filmed."""
    monkeypatch.chdir(ROOT)
    run = job("--policy.n_obs_steps=3", "--run.eval_every_episodes=2", "--run.eval_episodes=1")
    actor = run.start("actor")
    actor.wait_for(f"waiting: no learner at 127.0.0.1:{run.port}")
    learner = run.start("learner")
    learner.wait_for(LEARNING)
    actor.wait_for(EPISODE, 5)
    learner.wait_for(r"^actor/\d+ eval: ")
    assert actor.interrupt() == 0, actor.text
    learner.wait_for(TAKEN_IN, len(scan_episodes(run.root / "episodes")))
    assert learner.interrupt() == 0, learner.text
    assert "Traceback" not in actor.text + learner.text
    assert sum("waiting: no learner" in line for line in actor.lines) < 10, "the wait is told, not spammed"

    stored = [load_episode(info.path) for info in scan_episodes(run.root / "episodes")]
    assert stored and all(episode.role is Role.TRAIN for episode in stored), "evaluation is never stored"
    counted = sum(map(len, stored))
    assert run.state()["transitions"] == counted
    assert 0 < run.state()["updates"] <= counted, "the update budget"
    played = run.rows("actors", "actor", "metrics", "actor.jsonl")
    judged = [row for row in played if row["episode/evaluation"]]
    assert judged and all(row["episode/intervention_share"] == 0 for row in judged)
    assert (run.root / "checkpoints/best").is_dir(), "a full evaluation group was judged"

    videos = tmp_path / "videos"
    checkpoint = str(run.root / "checkpoints/last/pretrained_model")
    words = ("--checkpoint", checkpoint, "--num_episodes", "2", "--record_video", "--video_dir", str(videos))
    player = run.start("inference", *words)
    assert player.wait() == 0, player.text
    summary = json.loads((videos / "summary.json").read_text())
    assert summary["episodes"] == 2 and summary["complete"]
    assert "95 % interval" in player.text
    assert sorted(path.name for path in videos.glob("*.mp4")) == ["episode_000.mp4", "episode_001.mp4"]

    words = ("--checkpoint", checkpoint, *run.words)
    assert "action_scale: here 0.03, there 0.02" in told(
        capsys, "inference", *words, "--task.action_scale=0.03"
    )
    config = run.root / "checkpoints/last/pretrained_model/config.json"
    contract = json.loads(config.read_text())
    contract["action"]["names"].append("wrist")
    config.write_text(json.dumps(contract))
    assert re.search(r"action\.names: here .*, there .*wrist", told(capsys, "inference", *words))


@pytest.mark.slow
def test_a_classifier_is_the_only_reward(job, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    model = tmp_path / "best_model"
    run = job(
        "--task.success.kind=classifier", f"--classifier.model={model}", "--run.eval_every_episodes=0",
        "--teleop.type=none",
    )  # fmt: skip
    config = load_config(EASY, [*run.words])
    assert "best_model" in told(capsys, "actor", *run.words), "told before there is a learner"
    save_classifier(model, config, replace(ALWAYS, min_frames=6))
    learner, actor = run.start("learner"), run.start("actor")
    learner.wait_for(TAKEN_IN, 2)
    assert (actor.interrupt(), learner.interrupt()) == (0, 0)
    played = [load_episode(info.path, pictures=False) for info in scan_episodes(run.root / "episodes")]
    assert played and all(episode.end is End.SUCCESS for episode in played)
    for episode in played:
        assert episode.reward.tolist() == [0.0] * 5 + [1.0] and episode.info["judge"] == "classifier"


@pytest.mark.slow
def test_a_learner_of_two_processes_serves_learns_and_ends(job):
    """As on two GPUs: torchrun starts both, rank 0 serves, one command ends them."""
    run = job("--policy.online_step_before_learning=10")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    learner = run.start_program((*torchrun, "scripts/learner_server.py"))
    learner.wait_for(SERVING)
    actor = run.start("actor")
    learner.wait_for(LEARNING)
    learner.wait_for(TAKEN_IN, 4)
    stop = run.start_program(("-m", "hilserl", "control", "stop"))
    assert stop.wait() == 0, stop.text
    assert learner.wait() == 0, learner.text
    actor.interrupt()
    assert run.state()["updates"] > 0
    assert "Traceback" not in learner.text
    assert sum(bool(re.search(SERVING, line)) for line in learner.lines) == 1, "one process serves"


@pytest.mark.slow
def test_killed_learners_and_a_killed_actor_lose_and_repeat_nothing(job):
    run = job("--run.eval_every_episodes=0")
    moments = random.Random(0)
    learner = run.start("learner")
    learner.wait_for(SERVING)
    actor = run.start("actor")
    learner.wait_for(LEARNING, 2)
    before: list[int] = []
    updates = version = 0
    for sign in (TAKEN_IN, SERVING, r"^resumed from", None):
        learner.kill()
        stored = run.episodes()["actor"]
        assert stored[: len(before)] == before, "an acknowledged episode is gone"
        before = stored
        updates, version = run.state()["updates"], int((run.root / "published_version").read_text())
        learner = run.start("learner", "--resume=true")
        if sign is not None:
            learner.wait_for(sign)
            time.sleep(moments.uniform(0.0, 1.0))
    learner.wait_for(f"resumed from .*: {updates} updates")
    actor.wait_for("lost the learner")
    actor.wait_for("found the learner")
    learner.wait_for(LEARNING)
    actor.kill()
    second = run.start("actor")
    second.wait_for(EPISODE, 2)
    assert second.interrupt() == 0, second.text
    # The last learner found on disk what was there when it looked; the rest it said.
    found = learner.match(r"^(\d+) episodes of this run")
    learner.wait_for(TAKEN_IN, len(run.episodes()["actor"]) - int(found[1]))
    assert learner.interrupt() == 0, learner.text
    assert "Traceback" not in second.text + learner.text + actor.text

    numbers = run.episodes()["actor"]
    played = [int(row["episode/index"]) for row in run.rows("actors", "actor", "metrics", "actor.jsonl")]
    assert len(set(numbers)) == len(numbers), "twice"
    assert len(set(played)) == len(played), "a number used again"
    spooled = {int(path.stem) for path in (run.root / "actors/actor/spool").glob("*.ready")}
    assert set(played) <= set(numbers) | spooled, "lost"
    assert set(numbers) <= set(range(1, max(played) + 1))
    assert max(numbers) > max(before)
    stored = [load_episode(info.path) for info in scan_episodes(run.root / "episodes")]
    state = run.state()
    assert state["transitions"] == sum(map(len, stored))
    assert state["numbers"] == {"actor": max(numbers)}
    assert state["updates"] >= updates and state["version"] > version
    versions = [e.policy_version for e in stored]
    assert versions == sorted(versions), "a version once used never comes back"
    assert_replay_holds(run, stored)


def assert_replay_holds(run: Run, stored: list[Episode]) -> None:
    """The rings on disk hold each stored episode once, the bits of its features included."""
    config = load_config(ROOT / EASY, run.words)
    set_threads(config)  # as the learner had: other numbers of threads may round otherwise
    encoder = build_encoder(config)
    replay = build_replay(config, task_spec(config.task), encoder, run.root / "replay")
    held = {entry.key: entry for entry in replay.online.entries}
    assert len(held) == len(replay.online.entries) and held.keys() == {Key.of(e) for e in stored}
    for episode in stored:
        entry = held[Key.of(episode)]
        slots = replay.online.slots(entry.first, entry.frames)
        np.testing.assert_array_equal(replay.online.arrays["state"][slots], episode.state)
        as_acted = replay.features_of(episode)[:, :, 0]
        np.testing.assert_array_equal(replay.online.arrays["features"][slots][:, :, 0], as_acted)
    replay.close()


@pytest.mark.slow
def test_two_actors_join_and_the_same_name_twice_is_refused(job, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    run = job()
    learner = run.start("learner")
    learner.wait_for(SERVING)
    left = run.start("actor", "--service.actor_name=left")
    right = run.start("actor", "--service.actor_name=right")
    left.wait_for(EPISODE)
    right.wait_for(EPISODE)
    again = (*run.words, "--service.actor_name=left")
    assert "is in use by an actor" in told(capsys, "actor", *again)
    assert "'left'" in told(capsys, "actor", *again, f"--output_dir={tmp_path / 'other'}")
    assert str(run.port) in told(capsys, "learner", *run.words, "--job_name=second")
    left.wait_for(EPISODE, 2)
    right.wait_for(EPISODE, 2)
    assert [left.interrupt(), right.interrupt(), learner.interrupt()] == [0, 0, 0]
    episodes = run.episodes()
    assert set(episodes) == {"left", "right"} and all(map(contiguous, episodes.values()))
    first = {
        e.actor: e
        for e in (load_episode(i.path) for i in scan_episodes(run.root / "episodes"))
        if e.number == 1
    }
    assert first["left"].seed != first["right"].seed, "two actors must not play the same episodes"


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("learner", ["--policy.utd_ration=4"], r"policy\.utd_ration.*did you mean.*utd_ratio"),
        ("actor", ["--policy.utd_ratio=many"], r"policy\.utd_ratio is .*many.*expected a whole number"),
        ("actor", ["--task.reset_xyz=[0.5,0,0.07]"], r"task\.reset_xyz has x = 0\.5.*outside the workspace"),
        ("inference", ["--checkpoint", "nowhere"], "no pretrained_model folder"),
        ("learner", ["--resume=true"], "nothing to resume"),
        ("learner", ["--demos=nowhere"], "nowhere, which holds no episode"),
    ],
)
def test_bad_input_is_told_in_words(capsys, tmp_path, monkeypatch, command, words, message):
    monkeypatch.chdir(ROOT)
    said = told(capsys, command, *SMALL, f"--output_dir={tmp_path}", *words)
    assert re.search(message, said), said


def test_a_missing_calibration_is_told_in_words(tmp_path):
    config = load_config(
        ROOT / "configs/grasp_only_hilserl_train_config.json",
        [f"--robot.calibration_dir={tmp_path}", "--teleop.type=none", "--cameras.gripper_cam.type=zmq"],
    )
    with pytest.raises(CalibrationError) as refusal, build_body(config, print):
        pass
    assert str(tmp_path) in str(refusal.value) and "lerobot-calibrate" in str(refusal.value)


class Scripted:
    """A policy, and in another test an operator, that closes, holds, opens, holds."""

    plan = (-1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    deterministic = False

    def __init__(self, says: bool) -> None:
        self._says, self._at = says, 0

    def load(self, weights):
        pass

    def reset(self, seed: int = 0):
        self._at = 0

    def observe(self, obs):
        pass

    def act(self, obs):
        if not self._says:
            return np.array([0, 0, 0, -self._value()], np.float32)  # overruled by the operator
        action = np.array([0, 0, 0, self._value()], np.float32)
        self._at += 1
        return action

    def read(self, state):
        action = np.array([0, 0, 0, self._value()], np.float32)
        self._at += 1
        return Operator(action)

    def stop_asked(self):
        return False

    def close(self):
        pass

    def _value(self) -> float:
        return self.plan[min(self._at, len(self.plan) - 1)]


@pytest.mark.parametrize("who", ["policy", "operator"])
def test_gripper_law_from_the_hand_to_the_learners_file(tmp_path, who):
    """-1 closes, 0 holds, +1 opens, for policy and operator alike, in episode 1 and in episode 5."""
    words = [*SMALL, "--teleop.type=none", "--service.pace=false", "--task.control_time_s=1.2"]
    config = load_config(ROOT / EASY, words)
    service_config = replace(config.service, learner_port=free_port())
    spec, record, folder = task_spec(config.task), task_json(config.task), tmp_path / "episodes"
    with ExitStack() as stack:
        service = LearnerService(
            service_config, spec, task_hash(config.task), record, partial(save_episode, folder), Queue(9), {}
        )
        service.start()
        stack.callback(service.stop)
        service.publish(Weights(1, {"w": np.zeros(1, np.float32)}))
        link = ActorLink(service_config, "hand", tmp_path / "spool")
        stack.callback(link.close)
        link.connect(spec, task_hash(config.task), record, PATIENCE_S)
        body = stack.enter_context(build_body(config, print))
        plan = Plan("hand", task_hash(config.task), 0, len(Scripted.plan), 5, wait_for_weights=True)
        Actor(
            env=body.env,
            policy=Scripted(who == "policy"),
            teleop=body.teleop if who == "policy" else Scripted(True),
            reward=body.reward,
            link=link,
            plan=plan,
            report=lambda _: None,
            should_stop=lambda: False,
        ).run()
        assert link.close(PATIENCE_S) == 0
    stored = [load_episode(info.path) for info in scan_episodes(folder)]
    assert [episode.number for episode in stored] == [1, 2, 3, 4, 5]
    unit = 0.01 * float(np.ptp(model_limits_gripper()))
    for episode in (stored[0], stored[4]):
        np.testing.assert_array_equal(episode.action[:, 3], Scripted.plan)
        assert episode.intervention.all() == (who == "operator")
        gripper = episode.state[:, spec.state_names.index("joint_pos.gripper_rad")]
        opened, closed, held, reopened = gripper[0], gripper[5], gripper[6], gripper[12]
        assert closed < opened - 0.4 and reopened > closed + 0.4, gripper
        assert abs(held - closed) < unit and abs(gripper[11] - reopened) < unit, gripper


def model_limits_gripper() -> tuple[float, float]:
    limits = model_limits()
    return float(limits.lower_rad[GRIPPER]), float(limits.upper_rad[GRIPPER])


def test_an_actor_without_a_learner_waits_and_one_interrupt_ends_it(job):
    run = job()
    actor = run.start("actor")
    actor.wait_for(f"waiting: no learner at 127.0.0.1:{run.port}")
    assert actor.interrupt() == 0
    assert "Traceback" not in actor.text
