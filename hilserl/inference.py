"""Inference: play a stored policy without help, and say honestly how well it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from hilserl.actor import EVAL_SEED
from hilserl.body import Body, build_body
from hilserl.build import set_threads
from hilserl.checkpoint import Pretrained, load_pretrained, verify_golden
from hilserl.config import Config, InferenceArgs
from hilserl.contract import check_contract, check_encoder, policy_of
from hilserl.doctor.result import METADATA, standing
from hilserl.encoder import FeatureEncoder
from hilserl.env import Env, max_steps, task_spec
from hilserl.evaluate import Summary, TrialResult, evaluate, report
from hilserl.player import Player, encoder_mark
from hilserl.rollout import Policy, rollout
from hilserl.stopping import stop_on_interrupt
from hilserl.task_record import task_hash
from hilserl.types import Obs, Spec, Step
from hilserl.video import Overlay, VideoWriter, compose_frame
from hilserl.vision import Trunk, check_tensors
from robot.types import U8


class Film:
    """A rollout listener that films: the side view where there is one, and what the policy sees."""

    def __init__(
        self, video: VideoWriter, env: Env, side_view: Callable[[], U8] | None, limit: int, seed: int
    ) -> None:
        self._video, self._env, self._side_view = video, env, side_view
        self._limit, self._seed = limit, seed
        self._count, self._total = 0, 0.0

    def begin(self, obs: Obs) -> None:
        """Nothing has happened yet."""

    def step(self, step: Step) -> None:
        """Add one frame."""
        self._count += 1
        self._total += step.reward
        views: dict[str, U8] = {"side": self._side_view()} if self._side_view else {}
        if not self._side_view:
            views |= {name: frame.rgb for name, frame in self._env.frames.items()}
        views |= {f"policy sees {name}": image for name, image in step.obs.images.items()}
        overlay = Overlay(
            self._count,
            self._limit,
            step.reward,
            self._total,
            step.action,
            step.intervention,
            step.end,
            seed=self._seed,
        )
        self._video.add(compose_frame(views, overlay))


def play_trial(
    body: Body,
    policy: Policy,
    config: Config,
    seed: int,
    video: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    help_allowed: bool = False,
) -> TrialResult:
    """One episode for the record; help_allowed only to measure the operator itself.

    video: the mp4 to write, there only when the episode was played to its end.
    """
    limit = max_steps(config.task)
    with ExitStack() as stack:
        listeners: tuple[Film, ...] = ()
        if video is not None:
            writer = stack.enter_context(VideoWriter(video, config.task.fps))
            listeners = (Film(writer, body.env, body.side_view, limit, seed),)
        played = rollout(
            env=body.env,
            policy=policy,
            teleop=body.teleop,
            reward=body.reward,
            seed=seed,
            max_steps=limit,
            listeners=listeners,
            help_allowed=help_allowed,
            should_stop=should_stop,
        )
    return TrialResult(
        seed,
        played.steps,
        played.total_reward,
        played.end,
        stopped=played.stopped,
        facts=played.facts,
        video=str(video or ""),
    )


def load_player(
    pretrained: Pretrained, config: Config, spec: Spec, *, stochastic: bool = False, temperature: float = 1.0
) -> Player:
    """The stored policy, rebuilt from its own contract and verified on its golden observation.

    Raises ContractMismatch where it does not fit this configuration, CheckpointError where it is damaged.
    """
    source = str(pretrained.path / "config.json")
    check_contract(pretrained.contract, spec, config.task, source, config.allow_task_difference)
    policy = policy_of(pretrained.contract, source, config.policy.device)
    encoder = encoder_of(pretrained, policy.device)
    check_encoder(pretrained.contract, encoder.hash(), source)

    player = Player(spec, dataclasses.replace(config, policy=policy), encoder, deterministic=not stochastic)
    player.noise_scale = temperature
    weights = {
        name.removeprefix("policy."): array
        for name, array in pretrained.tensors.items()
        if name.startswith("policy.")
    }
    player.load(weights | encoder_mark(encoder.hash()))
    _verify(pretrained, player)
    return player


def encoder_of(pretrained: Pretrained, device: str) -> FeatureEncoder:
    """The frozen image encoder stored in a checkpoint."""
    tensors = {
        name.removeprefix("encoder."): torch.from_numpy(np.array(array))
        for name, array in pretrained.tensors.items()
        if name.startswith("encoder.")
    }
    projection = tensors.pop("projection", None)
    found = {name.removeprefix("trunk."): tensor for name, tensor in tensors.items()}
    trunk = Trunk(found["embedder.0.weight"].shape[0])
    check_tensors(trunk.state_dict(), found, str(pretrained.path))
    trunk.load_state_dict(found)
    channels = trunk.channels if projection is None else projection.shape[0]
    return FeatureEncoder(trunk, channels, projection=projection, device=device)


def _verify(pretrained: Pretrained, player: Player) -> None:
    def compute(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        images = {
            name.removeprefix("image."): array for name, array in inputs.items() if name.startswith("image.")
        }
        before, player.deterministic = player.deterministic, True
        player.reset()
        action = player.act(Obs(images, inputs["state"]))
        player.deterministic = before
        return {"action": action}

    verify_golden(pretrained, compute)


def run_inference(config: Config, args: InferenceArgs) -> Summary:
    """Play args.num_episodes without help; table, success rate with its interval, JSON, videos."""
    set_threads(config)
    console = Console(highlight=False)
    preflight = standing(config)
    pretrained = load_pretrained(args.checkpoint)
    player = load_player(
        pretrained, config, task_spec(config.task), stochastic=args.stochastic, temperature=args.temperature
    )
    stamp = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    folder = (
        Path(args.video_dir)
        if args.video_dir
        else Path(config.output_dir) / config.job_name / "inference" / stamp
    )
    settings: dict[str, Any] = {
        "checkpoint": str(Path(args.checkpoint).resolve()),  # `last` and `best` will lead elsewhere
        "deterministic": not args.stochastic,
        "temperature": args.temperature if args.stochastic else 0.0,
        "task": config.task.name,
        "task_hash": task_hash(config.task),
        "allow_task_difference": list(config.allow_task_difference),
        "device": config.policy.device,
        METADATA: preflight.line,
    }
    console.print(preflight.line)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_interrupt())
        body = stack.enter_context(build_body(config, console.print))

        def play(seed: int) -> TrialResult:
            video = folder / f"episode_{seed - first:03d}.mp4" if args.record_video else None
            return play_trial(body, player, config, seed, video, stop)

        first = EVAL_SEED + 100_000 * (1 + config.seed)
        summary = evaluate(
            play,
            range(first, first + args.num_episodes),
            on_trial=lambda trial: console.print(_line(trial, first)),
            settings=settings,
            json_path=folder / "summary.json",
        )
    show(console, summary)
    console.print(f"everything: {folder / 'summary.json'}")
    return summary


def show(console: Console, summary: Summary) -> None:
    """The table of trials, the map of successes where it is known, and the rate with its interval."""
    console.print(report(summary))


def _line(trial: TrialResult, first: int) -> str:
    number, result = trial.seed - first, trial.result.value
    return f"episode {number}: {result} after {trial.steps} steps, reward {trial.reward:+.2f}"


def measure(
    body: Body, policy: Policy, config: Config, seeds: Iterable[int], *, help_allowed: bool = False
) -> Summary:
    """Success of `policy` over `seeds`, without a word."""
    return evaluate(lambda seed: play_trial(body, policy, config, seed, help_allowed=help_allowed), seeds)
