"""The demo: a learner and an actor as two processes on the twin, with baselines, a curve and a film.

What runs is what a real arm runs: the same service, loops and driver interfaces, started as a person would.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from hilserl.body import build_body
from hilserl.build import build_encoder, build_replay, build_sac, set_threads
from hilserl.checkpoint import BEST, LAST, load_pretrained
from hilserl.config import Config, ConfigError
from hilserl.config_loading import save
from hilserl.env import STATE_NAMES, max_steps, task_spec
from hilserl.episode import EpisodeHeader, save_episode
from hilserl.episode_builder import EpisodeBuilder, Recorder
from hilserl.evaluate import Summary, save_summary
from hilserl.inference import load_player, measure, play_trial, show
from hilserl.learning_curve import learning_curve_png
from hilserl.metrics import read_rows
from hilserl.player import Player
from hilserl.rollout import HoldStill, Policy, rollout
from hilserl.rundir import write_whole
from hilserl.sac_agent import SacAgent
from hilserl.task_record import task_hash, task_json
from hilserl.types import End, Obs, Role
from robot.twin.lift import FINGER_CLEARANCE_M, GRASP_M
from robot.types import F32

DEMO_SEED = 20_000_000
"""Where the seeds of demonstrations start; below, of the baselines and of the final evaluation."""
BASELINE_SEED, FINAL_SEED = 30_000_000, 40_000_000
CLONING_STEPS = 1000
HAND = slice(STATE_NAMES.index("ee_xyz.x_m"), STATE_NAMES.index("ee_xyz.z_m") + 1)
"""Where the hand's position [m] stands in the state."""
POLL_S = 1.0
INTERRUPTED = 130
GOOD_ENOUGH = 0.95
"""Two groups of held-out episodes in a row this good end the training early."""


class DemoError(Exception):
    """A process of the demo failed; says which, how, and where its output is."""


def record_demonstrations(config: Config, folder: Path, count: int) -> int:
    """Record `count` successful scripted demonstrations into `folder`; returns their transitions.

    The folder also gets task.json, the task record they were played under.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "task.json", task_json(config.task))
    spec, transitions, attempt, number = task_spec(config.task), 0, 0, 0
    with build_body(config, lambda _: None, demonstrate=True) as body:
        while number < count:
            if attempt >= 4 * count:
                raise ConfigError(
                    f"only {number} of {attempt} scripted demonstrations succeeded; widen nothing further"
                )
            seed = DEMO_SEED + 1000 * config.seed + attempt
            attempt += 1
            header = EpisodeHeader("operator", number + 1, Role.DEMO, 0, seed, task_hash(config.task))
            recorder = Recorder(EpisodeBuilder(spec, header))
            played = rollout(
                env=body.env,
                policy=HoldStill(),
                teleop=body.teleop,
                reward=body.reward,
                seed=seed,
                max_steps=max_steps(config.task),
                listeners=(recorder,),
            )
            if played.end is End.SUCCESS:
                save_episode(folder, recorder.builder.finish(End.SUCCESS, played.facts))
                number, transitions = number + 1, transitions + played.steps
    return transitions


class BlindScript:
    """A constant script that sees nothing: go to where cubes are on average, close, lift."""

    def __init__(self, grasp_xyz: tuple[float, float, float], action_scale: float) -> None:
        self._goal, self._scale, self._count = np.array(grasp_xyz), action_scale, 0

    def reset(self) -> None:
        """Start the script over."""
        self._count = 0

    def observe(self, obs: Obs) -> None:
        """It never looks."""

    def act(self, obs: Obs) -> F32:
        """Down to the average grasp for 25 steps (by proprioception alone), close for 8, then lift."""
        self._count += 1
        if self._count <= 25:
            hand = obs.state[HAND].astype(np.float64)
            move, gripper = np.clip(0.5 * (self._goal - hand) / self._scale, -1, 1), 1.0
        elif self._count <= 33:
            move, gripper = np.zeros(3), -1.0
        else:
            move, gripper = np.array([0.0, 0.0, 0.5]), -1.0
        return np.array([*move, gripper], np.float32)


def blind_script(config: Config) -> BlindScript:
    """The best constant guess for this task: the average grasp."""
    x, y = config.task.scene.cube_center_xy
    half = (config.task.scene.cube_size_min + config.task.scene.cube_size_max) / 4
    return BlindScript((x, y - half - FINGER_CLEARANCE_M, GRASP_M), config.task.action_scale)


class Random:
    """Uniformly random actions."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def reset(self) -> None:
        """Nothing to forget."""

    def observe(self, obs: Obs) -> None:
        """It never looks."""

    def act(self, obs: Obs) -> F32:
        """(4,) uniform in [-1, 1]."""
        return self._rng.uniform(-1, 1, 4).astype(np.float32)


def cloning_player(config: Config, demos: Path, steps: int = CLONING_STEPS) -> Player:
    """Behaviour cloning of the demonstrations with the same networks: the baseline RL must beat."""
    from hilserl.build import load_demos

    config = dataclasses.replace(config, demos=(str(demos),))
    spec, encoder = task_spec(config.task), build_encoder(config)
    replay = build_replay(config, spec, encoder)
    load_demos(config, replay, lambda _: None)
    agent = SacAgent(build_sac(config, spec, replay, encoder), replay, encoder)
    agent.sac.pretrain_bc(agent.demonstrations, steps)
    player = Player(spec, config, encoder, deterministic=True)
    player.load(agent.weights())
    return player


def baselines(config: Config, demos: Path, episodes: int, say: Callable[[str], None]) -> dict[str, Summary]:
    """Scripted operator, cloning, blind script and random actions over the same held-out seeds."""
    seeds = range(BASELINE_SEED, BASELINE_SEED + episodes)
    found: dict[str, Summary] = {}
    with build_body(config, lambda _: None, demonstrate=True) as body:
        found["scripted"] = measure(body, HoldStill(), config, seeds, help_allowed=True)
    with build_body(no_help(config), lambda _: None) as body:
        policies: dict[str, Policy] = {
            "cloning": cloning_player(config, demos),
            "blind": blind_script(config),
            "random": Random(config.seed),
        }
        for name, policy in policies.items():
            found[name] = measure(body, policy, config, seeds)
    for name, summary in found.items():
        say(f"baseline {name}: {summary.sentence()}")
    return found


def no_help(config: Config) -> Config:
    """The same configuration with nobody at the controls."""
    return dataclasses.replace(config, teleop=dataclasses.replace(config.teleop, type="none"))


def run_demo(config: Config, minutes: float, eval_episodes: int) -> dict[str, Any]:
    """Demonstrations, training by two processes, baselines, evaluation; returns what summary.json says."""
    console = Console(highlight=False)
    start = time.monotonic()
    set_threads(config)
    root = Path(config.output_dir) / config.job_name
    if root.exists():
        console.print(f"removing the last demo's {root}")
        shutil.rmtree(root)
    folder = root.with_name(root.name + "_demos")
    shutil.rmtree(folder, ignore_errors=True)
    transitions = record_demonstrations(config, folder, config.run.demo_episodes)
    console.print(f"{config.run.demo_episodes} scripted demonstrations, {transitions} transitions: {folder}")
    config = dataclasses.replace(
        config,
        demos=(str(folder),),
        service=dataclasses.replace(config.service, learner_port=_free_port()),
    )
    training_s = _train(config, root, console, lambda: (time.monotonic() - start) / 60 < minutes)
    rows = read_rows(root / "actors" / config.service.actor_name / "metrics" / "actor.jsonl")
    base = baselines(config, folder, min(50, eval_episodes), console.print)
    final = _final(config, root, eval_episodes, console)
    curve = root / "learning_curve.png"
    learning_curve_png(
        curve,
        curve_rows(rows),
        {name: summary.success_rate or 0.0 for name, summary in base.items()},
        title=f"{config.task.name}, seed {config.seed}",
    )
    summary = _summary(config, rows, base, final, training_s)
    write_whole(root / "summary.json", json.dumps(summary, indent=2) + "\n")
    show(console, final)
    for name in ("summary.json", "learning_curve.png", "best_policy.mp4", "evaluation.json"):
        console.print(f"{name}: {root / name}")
    console.print(
        f"HIL-SERL after {summary['train_episodes']} episodes, "
        f"{summary['minutes']:.1f} min: {final.sentence()}; "
        f"{(time.monotonic() - start) / 60:.1f} min in all"
    )
    return summary


def _train(config: Config, root: Path, console: Console, time_left: Callable[[], bool]) -> float:
    """Start learner and actor, watch the held-out success, end both; returns the training's seconds."""
    path = root.with_name(root.name + "_config.json")
    save(config, path)
    start = time.monotonic()
    command = [sys.executable, "-m", "hilserl"]
    learner_log = root.with_name(root.name + "_learner.log").open("w")
    learner = subprocess.Popen(
        [*command, "learner", "--config_path", str(path)], stdout=learner_log, stderr=subprocess.STDOUT
    )
    actor = subprocess.Popen([*command, "actor", "--config_path", str(path)])
    processes = {"learner": learner, "actor": actor}
    metrics = root / "metrics" / "learner.jsonl"
    early = ""
    try:
        while time_left() and not _good_enough(metrics) and not early:
            time.sleep(POLL_S)
            early = next((name for name, p in processes.items() if p.poll() is not None), "")
    finally:
        for process in (actor, learner):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in (actor, learner):
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
        learner_log.close()
    for name, process in processes.items():
        if name == early or process.returncode not in (0, INTERRUPTED):
            raise DemoError(
                f"the {name} ended by itself with exit code {process.returncode}; see {learner_log.name}"
            )
    return time.monotonic() - start


def _good_enough(metrics: Path) -> bool:
    rates = [row["eval/success_rate"] for row in read_rows(metrics) if "eval/success_rate" in row]
    return len(rates) >= 2 and min(rates[-2:]) >= GOOD_ENOUGH


def _final(config: Config, root: Path, episodes: int, console: Console) -> Summary:
    """Evaluate the best checkpoint (the last where none was evaluated) on seeds nobody has seen; film one."""
    best = root / "checkpoints" / BEST
    checkpoint = best if best.exists() else root / "checkpoints" / LAST
    quiet = no_help(config)
    player = load_player(load_pretrained(checkpoint), quiet, task_spec(config.task))
    with build_body(quiet, console.print) as body:
        summary = measure(body, player, quiet, range(FINAL_SEED, FINAL_SEED + episodes))
        good = [trial.seed for trial in summary.trials if trial.success][:1] or [FINAL_SEED]
        play_trial(body, player, quiet, good[0], root / "best_policy.mp4")
    summary = dataclasses.replace(
        summary, settings={**summary.settings, "checkpoint": str(checkpoint.resolve())}
    )
    save_summary(root / "evaluation.json", summary)
    return summary


def curve_rows(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Rows of the actor's log as the learning curve wants them: minutes, and one row per evaluation group."""
    from hilserl.evaluate import wilson_interval

    out: list[dict[str, float]] = []
    group: list[float] = []
    first_s = rows[0]["time/unix_s"] if rows else 0.0

    def close_group(minutes: float) -> None:
        low, high = wilson_interval(int(sum(group)), len(group))
        out.append(
            {
                "eval/success_rate": sum(group) / len(group),
                "eval/low95": low,
                "eval/high95": high,
                "time/minutes": minutes,
            }
        )
        group.clear()

    for row in rows:
        minutes = (row["time/unix_s"] - first_s) / 60
        if row["episode/evaluation"]:
            group.append(row["episode/success"])
            continue
        if group:
            close_group(minutes)
        out.append({**row, "time/minutes": minutes})
    if group:
        close_group((rows[-1]["time/unix_s"] - first_s) / 60)
    return out


def _summary(
    config: Config, rows: list[dict[str, float]], base: dict[str, Summary], final: Summary, training_s: float
) -> dict[str, Any]:
    trained = [row for row in rows if not row["episode/evaluation"]]
    steps = sum(row["episode/steps"] for row in trained)
    helped = sum(row["episode/steps"] * row["episode/intervention_share"] for row in trained)
    return {
        "success_rate": final.success_rate,
        "success_low95": final.interval95[0],
        "eval_episodes": len(final.counted),
        "train_episodes": len(trained),
        "train_transitions": int(steps),
        "minutes": training_s / 60,
        "intervention_share": helped / max(1.0, steps),
        **{f"{name}_rate": summary.success_rate for name, summary in base.items()},
        "baseline_episodes": len(base["cloning"].counted),
        "seed": config.seed,
        "task_hash": task_hash(config.task),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
