"""The program `hilserl learner`: serve actors, learn, save, resume."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hilserl.build import (
    Player,
    SacAgent,
    Stopped,
    build_encoder,
    build_replay,
    build_sac,
    load_demos,
    set_threads,
)
from hilserl.checkpoint import latest, load_pretrained, load_training_state, save_checkpoint
from hilserl.config import Config
from hilserl.config_loading import to_json
from hilserl.contract import build_contract, check_encoder
from hilserl.display import LearnerDisplay
from hilserl.env import task_spec
from hilserl.episode import (
    TASK_FILE,
    EpisodeInfo,
    durable_numbers,
    load_episode,
    save_episode,
    scan_episodes,
)
from hilserl.learner import Budget, Counters, Learner
from hilserl.metrics import MetricLog, WandbRun, start_wandb
from hilserl.replay import Batch, Replay
from hilserl.rundir import RunDir, write_whole
from hilserl.stopping import Stop, stop_on_interrupt
from hilserl.task_record import check_task, task_hash, task_json
from hilserl.types import Episode, Obs, Role, Spec, Weights
from hilserl.vision import FeatureEncoder
from hilserl.wire import Command, LearnerService

INBOX_EPISODES = 64


def run_learner(config: Config) -> None:
    """Serve actors and learn until interrupted or max_transitions."""
    set_threads(config)
    display = LearnerDisplay()
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_interrupt())
        run = stack.enter_context(
            RunDir.create(config.output_dir, config.job_name, to_json(config), config.resume)
        )
        try:
            _serve_and_learn(config, run, stack, stop, display)
        except Stopped:
            display.message("stopped before learning began; episodes that arrived are kept")


def _serve_and_learn(
    config: Config, run: RunDir, stack: ExitStack, stop: Stop, display: LearnerDisplay
) -> None:
    spec, encoder = task_spec(config.task), build_encoder(config)
    replay, counters = build_replay(config, spec, encoder), Counters()
    load_demos(config, replay, display.message, stop)
    stored = _load_stored(config, run, replay, counters, stop)
    inbox: queue.Queue[Episode] = queue.Queue(INBOX_EPISODES)
    service = _service(config, run, spec, inbox, stored)
    service.start()
    stack.callback(service.stop)
    display.message(f"learner at {config.service.learner_host}:{service.port}, run folder {run.root}")

    def on_episode(episode: Episode) -> None:
        display.message(episode_line(episode))

    _gather(config, replay, inbox, counters, _obedient(service, stop, None), on_episode, display)
    agent = SacAgent(build_sac(config, spec, replay), replay, encoder.hash())
    publisher = _Publisher(service, run.root / "published_version")
    _restore_or_pretrain(config, run, agent, counters, stop, display)
    counters.version = max(counters.version, publisher.last_version())
    log = MetricLog(run.metrics, "learner", tensorboard=config.run.tensorboard, wandb=_wandb(config, run))
    stack.callback(log.close)

    def on_log(values: Mapping[str, float]) -> None:
        log.log(values, transitions=counters.transitions)
        display.table(values)

    def save(best: bool) -> None:
        path = _save(config, run, spec, agent, encoder, counters, best)
        display.message(f"checkpoint {path}" + (" (best so far)" if best else ""))

    Learner(
        agent=agent,
        store=replay,
        inbox=inbox,
        publisher=publisher,
        counters=counters,
        budget=_budget(config),
        on_log=on_log,
        on_episode=on_episode,
        save=save,
        eval_group=config.run.eval_episodes,
    ).run(_obedient(service, stop, save))


def _budget(config: Config) -> Budget:
    policy = config.policy
    return Budget(
        updates_per_transition=policy.utd_ratio,
        updates_per_call=min(policy.policy_update_freq, policy.utd_ratio),
        push_every=config.service.policy_push_every_updates,
        log_every=config.run.log_every_updates,
        checkpoint_every=config.run.checkpoint_every,
        max_transitions=config.run.max_transitions,
    )


def _service(
    config: Config,
    run: RunDir,
    spec: Spec,
    inbox: queue.Queue[Episode],
    stored: list[EpisodeInfo],
) -> LearnerService:
    def store(episode: Episode) -> None:
        if episode.role is not Role.EVAL:
            save_episode(run.episodes, episode)

    return LearnerService(
        config.service,
        spec,
        task_hash(config.task),
        task_json(config.task),
        store,
        inbox,
        durable_numbers(stored),
        config.allow_task_difference,
    )


class _Publisher:
    """Publishes to the actors, and keeps the newest version on disk: no two policies ever share one."""

    def __init__(self, service: LearnerService, path: Path) -> None:
        self._service, self._path = service, path

    def last_version(self) -> int:
        """The newest version ever published in this run, 0 when there is none."""
        return int(self._path.read_text()) if self._path.exists() else 0

    def publish(self, weights: Weights) -> None:
        """Hand new weights to the actors."""
        write_whole(self._path, f"{weights.version}\n")
        self._service.publish(weights)

    def progress(self, transitions: int, updates: int) -> None:
        """Tell the actors how far learning is."""
        self._service.progress(transitions, updates)


def _obedient(service: LearnerService, stop: Stop, save: Callable[[bool], None] | None) -> Callable[[], bool]:
    """A should_stop that first does what was asked for over the wire. save: None while nothing is learned."""

    def should_stop() -> bool:
        while not service.commands.empty():
            match service.commands.get():
                case Command.SAVE if save is not None:
                    save(False)
                case Command.STOP:
                    stop.ask()
        return stop()

    return should_stop


def _load_stored(
    config: Config, run: RunDir, replay: Replay, counters: Counters, stop: Stop
) -> list[EpisodeInfo]:
    """Take in a resumed run's own episodes. Raises TaskMismatch naming a field that differs."""
    task_file = run.episodes / TASK_FILE
    if task_file.exists():
        check_task(config.task, task_file.read_text(), str(task_file), config.allow_task_difference)
    else:
        write_whole(task_file, task_json(config.task))
    stored = scan_episodes(run.episodes)
    for info in stored:
        if stop():
            raise Stopped
        _count(counters, replay, load_episode(info.path))
    return stored


def _count(counters: Counters, replay: Replay, episode: Episode) -> None:
    """Take one episode in before learning; evaluation never is."""
    if episode.role is Role.EVAL:
        return
    replay.add(episode)
    if episode.role is Role.TRAIN:
        counters.transitions += len(episode)
        counters.episodes += 1


def episode_line(episode: Episode) -> str:
    """One episode as the learner's terminal shows it."""
    return (
        f"{episode.actor}/{episode.number} {episode.role.value}: {episode.end.value} after {len(episode)} "
        f"steps, return {episode.reward.sum():+.2f}, help {100 * episode.intervention.mean():.0f} %, "
        f"policy v{episode.policy_version}"
    )


def _wandb(config: Config, run: RunDir) -> WandbRun | None:
    if not config.run.wandb:
        return None
    return start_wandb(config.job_name, run.root, {"config": to_json(config)})


def _gather(
    config: Config,
    replay: Replay,
    inbox: queue.Queue[Episode],
    counters: Counters,
    should_stop: Callable[[], bool],
    on_episode: Callable[[Episode], None],
    display: LearnerDisplay,
) -> None:
    """Take in episodes until there is enough to learn from; meanwhile actors hold still."""
    needed = max(1, config.policy.online_step_before_learning)
    told = -1
    while (have := replay.transitions) < needed:
        if should_stop():
            raise Stopped
        if have != told:
            display.message(f"{have} of {needed} transitions before learning; demonstrate by taking over")
            told = have
        try:
            episode = inbox.get(timeout=0.2)
        except queue.Empty:
            continue
        on_episode(episode)
        _count(counters, replay, episode)


def _restore_or_pretrain(
    config: Config, run: RunDir, agent: SacAgent, counters: Counters, stop: Stop, display: LearnerDisplay
) -> None:
    newest = latest(run.checkpoints)
    if newest is None:
        if config.policy.bc_pretrain_steps:
            demonstrations = _watched(agent.demonstrations, stop)
            agent.sac.pretrain_bc(demonstrations, config.policy.bc_pretrain_steps)
            agent.sac.pretrain_critic(demonstrations, config.policy.critic_pretrain_steps)
            display.message(f"cloned the demonstrations for {config.policy.bc_pretrain_steps} steps")
        return
    pretrained = load_pretrained(newest)
    check_encoder(pretrained.contract, agent.encoder_hash, str(pretrained.path))
    saved = load_training_state(newest)
    agent.sac.load_state_dict(
        {name: torch.from_numpy(np.array(array)) for name, array in saved.tensors.items()}, saved.state["sac"]
    )
    agent.replay.rng.bit_generator.state = saved.state["replay_rng"]
    counters.updates, counters.version = saved.state["updates"], saved.state["version"]
    counters.best_success = saved.state["best_success"]
    counters.minutes = saved.state.get("minutes", 0.0)
    display.message(
        f"resumed from {newest}: {counters.updates} updates; {counters.transitions} transitions on disk"
    )


def _watched(sample: Callable[[], Batch], stop: Stop) -> Callable[[], Batch]:
    """A sample that ends cloning, which may take a minute, as soon as the end is asked for."""

    def watched() -> Batch:
        if stop():
            raise Stopped
        return sample()

    return watched


def _save(
    config: Config,
    run: RunDir,
    spec: Spec,
    agent: SacAgent,
    encoder: FeatureEncoder,
    counters: Counters,
    best: bool,
) -> Path:
    tensors, plain = agent.sac.state_dict()
    model = {f"policy.{name}": array for name, array in agent.sac.actor_weights().items()}
    model |= {f"encoder.{name}": array for name, array in encoder_arrays(encoder).items()}
    golden_inputs, golden_outputs = _golden(config, spec, agent, encoder)
    return save_checkpoint(
        run.checkpoints,
        counters.transitions,
        model=model,
        contract=build_contract(spec, config.task, config.policy, encoder.hash()),
        training_tensors={name: tensor.cpu().numpy() for name, tensor in tensors.items()},
        training_state={
            "sac": plain,
            "replay_rng": agent.replay.rng.bit_generator.state,
            "updates": counters.updates,
            "version": counters.version,
            "episodes": counters.episodes,
            "best_success": counters.best_success,
            "minutes": counters.minutes,
        },
        keep=config.run.keep_checkpoints,
        best=best,
        golden_inputs=golden_inputs,
        golden_outputs=golden_outputs,
    )


def encoder_arrays(encoder: FeatureEncoder) -> dict[str, NDArray[Any]]:
    """The frozen encoder's tensors, so that a checkpoint needs no other file."""
    arrays = {
        f"trunk.{name}": tensor.cpu().contiguous().numpy()
        for name, tensor in encoder.trunk.state_dict().items()
    }
    if encoder.projection is not None:
        arrays["projection"] = encoder.projection.cpu().contiguous().numpy()
    return arrays


def golden_observation(spec: Spec, mean: NDArray[Any]) -> Obs:
    """One fixed observation: noise pictures and the mean state."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, spec.image_shape, dtype=np.uint8) for name in spec.cameras}
    return Obs(images, mean.astype(np.float32))


def _golden(
    config: Config, spec: Spec, agent: SacAgent, encoder: FeatureEncoder
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """An input and the policy's answer to it, by which a rebuilt policy is recognised."""
    mean, _ = agent.replay.state_statistics()
    obs = golden_observation(spec, mean)
    player = Player(spec, config, encoder, deterministic=True)
    player.load(agent.weights())
    inputs = {f"image.{name}": image for name, image in obs.images.items()} | {"state": obs.state}
    return inputs, {"action": player.act(obs)}
