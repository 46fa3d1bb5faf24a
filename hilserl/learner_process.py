"""The program `hilserl learner`: serve actors, learn, save, resume."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from hilserl.arrivals import Arrivals
from hilserl.build import SacAgent, Stopped, build_encoder, build_sac, load_demos, set_threads
from hilserl.checkpoint import latest
from hilserl.config import Config
from hilserl.config_loading import to_json
from hilserl.display import LearnerDisplay
from hilserl.env import task_spec
from hilserl.episode import EpisodeInfo, durable_numbers
from hilserl.idle_refresh import IdleRefresh
from hilserl.learner import WAIT_S, Budget, Counters, Learner
from hilserl.learner_saving import CheckpointSaver, restore
from hilserl.learner_storage import Archive, open_replay, take_in_run
from hilserl.metrics import MetricLog, WandbRun, start_wandb
from hilserl.replay import Batch, Replay
from hilserl.rundir import RunDir, write_whole
from hilserl.stopping import Stop, stop_on_interrupt
from hilserl.task_record import task_hash, task_json
from hilserl.types import Episode, Role, Spec, Weights
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
    archive, counters = Archive(run.episodes), Counters()
    replay = open_replay(config, spec, encoder, run.root / "replay", display.message)
    stack.callback(replay.close)
    load_demos(config, replay, display.message, stop, archive.know)
    stored = take_in_run(config, run, replay, archive, counters, display.message, stop)
    inbox: queue.Queue[Episode] = queue.Queue(INBOX_EPISODES)
    arrivals = stack.enter_context(Arrivals(inbox, replay.features_of))
    service = _service(config, spec, inbox, archive, stored)
    service.start()
    stack.callback(service.stop)
    display.message(f"learner at {config.service.learner_host}:{service.port}, run folder {run.root}")

    def on_episode(episode: Episode) -> None:
        display.message(episode_line(episode))

    _gather(config, replay, arrivals, counters, _obedient(service, stop, None), on_episode, display)
    agent = SacAgent(build_sac(config, spec, replay), replay, encoder.hash())
    publisher = _Publisher(service, run.root / "published_version")
    _restore_or_pretrain(config, run, agent, counters, stop, display)
    counters.version = max(counters.version, publisher.last_version())
    log = MetricLog(run.metrics, "learner", tensorboard=config.run.tensorboard, wandb=_wandb(config, run))
    stack.callback(log.close)

    def on_log(values: Mapping[str, float]) -> None:
        log.log(values, transitions=counters.transitions)
        display.table(values)

    def on_saved(path: Path, best: bool) -> None:
        display.message(f"checkpoint {path}" + (" (best so far)" if best else ""))

    saver = stack.enter_context(
        CheckpointSaver(config, run.checkpoints, spec, agent, encoder, counters, on_saved)
    )
    Learner(
        agent=agent,
        store=replay,
        arrivals=arrivals,
        publisher=publisher,
        saver=saver,
        counters=counters,
        budget=_budget(config),
        on_log=on_log,
        on_episode=on_episode,
        eval_group=config.run.eval_episodes,
        idle=_idle(config, replay, archive, counters),
    ).run(_obedient(service, stop, saver.save))


def _idle(config: Config, replay: Replay, archive: Archive, counters: Counters) -> Callable[[int], float]:
    """What the loop does with idle time: refresh shifted copies where the replay keeps any."""
    if replay.copies == 1:
        return lambda _updates: WAIT_S
    return IdleRefresh(
        lambda: replay.refresh(archive.pictures),
        lambda: replay.online.used + replay.protected.used,
        config.policy.batch_size / replay.copies,
        counters.updates,
    )


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
    spec: Spec,
    inbox: queue.Queue[Episode],
    archive: Archive,
    stored: list[EpisodeInfo],
) -> LearnerService:
    return LearnerService(
        config.service,
        spec,
        task_hash(config.task),
        task_json(config.task),
        archive.store,
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
    arrivals: Arrivals,
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
        arrival = arrivals.get(WAIT_S)
        if arrival is None:
            continue
        on_episode(arrival.episode)
        if arrival.episode.role is not Role.EVAL:
            replay.write(*arrival)
            counters.count(arrival.episode)


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
    restore(newest, agent, counters)
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
