"""Checks of learning itself: a round trip to a learner, resuming, and what the policy looks at."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np

from hilserl.build import build_encoder, build_replay, build_sac
from hilserl.checkpoint import latest, load_pretrained
from hilserl.config import Config, RunConfig, ServiceConfig
from hilserl.config_loading import to_json
from hilserl.doctor.context import Context, Missing
from hilserl.doctor.findings import Finding, Status, judged
from hilserl.env import task_spec
from hilserl.episode import EpisodeHeader
from hilserl.inference import load_player
from hilserl.player import Player
from hilserl.sac_agent import SacAgent
from hilserl.task_record import task_hash, task_json
from hilserl.types import End, Episode, Obs, Role, Step
from hilserl.wire import ActorLink, LearnerUnreachable
from robot.errors import CameraError

STEPS = 12
UPDATES = 2
WAIT_S = 120.0
MIN_CHANGE = 0.02
"""Least mean change of an action component, of [-1, 1], when a whole input is swapped."""
PAIRS = 24


def small(config: Config, folder: Path, port: int) -> Config:
    """The same task and encoder in a run so small that it is over in seconds."""
    policy = dataclasses.replace(
        config.policy,
        batch_size=4,
        utd_ratio=1,
        policy_update_freq=1,
        latent_dim=8,
        hidden_dims=(8,),
        feature_channels=4,
        feature_projection="random",
        feature_copies=2,
        bc_pretrain_steps=0,
        critic_pretrain_steps=0,
        online_step_before_learning=STEPS,
        online_buffer_capacity=4 * STEPS,
        offline_buffer_capacity=4 * STEPS,
        compile=False,
    )
    service = ServiceConfig(learner_port=port, policy_push_every_updates=1)
    run = RunConfig(tensorboard=False, num_threads=1, checkpoint_every=10**9)
    return dataclasses.replace(
        config, job_name="doctor", output_dir=str(folder), resume=False, demos=(), policy=policy,
        service=service, run=run,
    )  # fmt: skip


def noise_episode(config: Config, number: int) -> Episode:
    """An episode of noise that fits the task, STEPS long."""
    spec, rng = task_spec(config.task), np.random.default_rng(number)
    images = {name: rng.integers(0, 256, (STEPS + 1, *spec.image_shape), np.uint8) for name in spec.cameras}
    return Episode(
        images=images,
        state=rng.normal(size=(STEPS + 1, spec.state_size)).astype(np.float32),
        action=rng.uniform(-1, 1, (STEPS, 4)).astype(np.float32),
        reward=np.append(np.zeros(STEPS - 1, np.float32), np.float32(1)),
        intervention=np.zeros(STEPS, np.bool_),
        end=End.SUCCESS,
        role=Role.TRAIN,
        actor="doctor",
        number=number,
        policy_version=0,
        seed=number,
        task_hash=task_hash(config.task),
    )


def loopback(context: Context) -> list[Finding]:
    """A learner starts, takes an episode, learns from it, and gives weights back; then it stops."""
    with tempfile.TemporaryDirectory(prefix="doctor_") as place, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        config = small(context.config, Path(place), port)
        with _learner(config, Path(place)) as said:
            link = ActorLink(config.service, "doctor", Path(place) / "spool", lambda _: None)
            try:
                version = _round_trip(config, link)
            except LearnerUnreachable as error:
                return [judged("loopback", False, f"{error}; it said: {said[-1:]}", "weights come back", "")]
            finally:
                link.close()
    good = version is not None
    value = f"an episode went there, weights of version {version} came back" if good else "no weights came"
    return [judged("loopback", good, value, f"within {WAIT_S:.0f} s", f"the learner said: {said[-3:]}")]


def _round_trip(config: Config, link: ActorLink) -> int | None:
    spec, episode = task_spec(config.task), noise_episode(config, 1)
    link.connect(spec, task_hash(config.task), task_json(config.task), timeout_s=WAIT_S)
    header = EpisodeHeader("doctor", link.next_episode_number, Role.TRAIN, 0, 0, task_hash(config.task))
    link.begin(header, _obs(episode, 0))
    for t in range(STEPS):
        end = End.SUCCESS if t == STEPS - 1 else None
        link.step(Step(episode.action[t], float(episode.reward[t]), False, _obs(episode, t + 1), end))
    link.end(End.SUCCESS)
    weights = link.wait_weights(WAIT_S)
    return None if weights is None else weights.version


def _obs(episode: Episode, frame: int) -> Obs:
    return Obs({name: images[frame] for name, images in episode.images.items()}, episode.state[frame])


@contextmanager
def _learner(config: Config, folder: Path) -> Iterator[list[str]]:
    """A learner process of this configuration; gives the lines it says, and stops it at the end."""
    file = folder / "config.json"
    file.write_text(to_json(config))
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "hilserl", "learner", "--config_path", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    ) as process:
        assert process.stdout is not None
        listener = Thread(target=lines.extend, args=(map(str.strip, process.stdout),), daemon=True)
        listener.start()
        try:
            yield lines
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
            listener.join(5)


def resume(context: Context) -> list[Finding]:
    """Twice the half equals the whole: a learner restored from its state goes on as if never stopped."""
    with tempfile.TemporaryDirectory(prefix="doctor_") as place:
        config = small(context.config, Path(place), 1)
        whole = _agent(config)
        for _ in range(2):
            whole.update(UPDATES)
        half = _agent(config)
        half.update(UPDATES)
        tensors, plain = half.sac.state_dict()
        stream = half.replay.rng.bit_generator.state
        again = _agent(config)
        again.sac.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, plain)
        again.replay.rng.bit_generator.state = stream
        again.update(UPDATES)
    ours, theirs = again.sac.state_dict()[0], whole.sac.state_dict()[0]
    different = [name for name in theirs if not bool((ours[name] == theirs[name]).all())]
    value = f"{len(different)} tensors differ, first {different[0]}" if different else "equal to the last bit"
    return [judged("resume_equality", not different, value, "equal", "please report it")]


def _agent(config: Config) -> SacAgent:
    spec, encoder = task_spec(config.task), build_encoder(config)
    replay = build_replay(config, spec, encoder)
    for number in (1, 2):
        replay.add(noise_episode(config, number))
    return SacAgent(build_sac(config, spec, replay, encoder), replay, encoder)


def sensitivity(context: Context) -> list[Finding]:
    """With another picture, or another state, the newest policy acts otherwise."""
    checkpoints = Path(context.config.output_dir) / context.config.job_name / "checkpoints"
    newest = latest(checkpoints) if checkpoints.is_dir() else None
    if newest is None:
        raise Missing(f"{checkpoints} holds no checkpoint yet")
    config = context.config
    player = load_player(load_pretrained(newest), config, task_spec(config.task))
    body, seen = context.body(), []
    for seed in range(PAIRS):
        try:
            obs, _ = body.env.reset(80_100_000 + seed)
            for step in range(seed % 6):
                action = np.random.default_rng((seed, step)).uniform(-1, 1, 4).astype(np.float32)
                obs = body.env.step(action)
        except CameraError as error:
            context.late.append(str(error))
            continue
        seen.append(obs)
    if len(seen) < PAIRS // 2:
        raise Missing(f"pictures came for {len(seen)} of {PAIRS} starts only: see the camera's checks")
    return [
        _swapped("picture_matters", player, seen, lambda one, other: Obs(other.images, one.state)),
        _swapped("state_matters", player, seen, lambda one, other: Obs(one.images, other.state)),
    ]


def _swapped(check: str, player: Player, seen: list[Obs], mixed: Callable[[Obs, Obs], Obs]) -> Finding:
    """The policy's mean action on each observation against that with a part of another's."""
    changes = []
    for one, other in zip(seen, seen[1:] + seen[:1], strict=True):
        player.reset()
        before = player.act(one)
        player.reset()
        changes.append(np.abs(player.act(mixed(one, other)) - before))
    mean = float(np.mean(changes))
    advice = "the policy ignores this input: is it the same picture every time, or are its statistics wrong?"
    status = Status.OK if mean >= MIN_CHANGE else Status.FAIL
    value = f"swapping it changes the action by {mean:.3f} on average"
    return Finding(check, status, value, f"at least {MIN_CHANGE:g} of [-1, 1]", advice)
