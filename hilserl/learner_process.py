"""The program `hilserl learner`: serve actors, learn, save, resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from hilserl.alarms import CollapseGuard
from hilserl.arrivals import Arrivals
from hilserl.build import build_sac, learner_encoder, load_demos, set_threads, with_imported_demos
from hilserl.checkpoint import latest
from hilserl.config import Config
from hilserl.config_loading import to_json
from hilserl.counters import Counters
from hilserl.display import LearnerDisplay
from hilserl.doctor.result import Standing, check_preflight
from hilserl.env import task_spec
from hilserl.idle_refresh import IdleRefresh
from hilserl.learner import WAIT_S, Budget, Learner
from hilserl.learner_follower import follow
from hilserl.learner_saving import CheckpointSaver, restore
from hilserl.learner_serving import Serving
from hilserl.learner_storage import Archive, open_replay, take_in_run
from hilserl.metrics import MetricLog, WandbRun, start_wandb
from hilserl.oversight import Oversight
from hilserl.pacing import PacingWatch
from hilserl.parallel import Processes, launched
from hilserl.replay import Replay
from hilserl.rollback import finish_rollback
from hilserl.rundir import RunDir
from hilserl.sac_agent import SacAgent, Stopped
from hilserl.stopping import Stop, stop_on_interrupt
from hilserl.types import Episode, Role


def run_learner(config: Config) -> None:
    """Serve actors and learn until interrupted or max_transitions.

    Under torchrun the process of rank 0 does; the others compute their share of each of its batches. Raises
    PreflightError where the last pre-flight of this job is red.
    """
    set_threads(config)
    group = None
    if launched():
        group = Processes(config.policy.device, config.policy.batch_size)
        policy = dataclasses.replace(config.policy, device=str(group.device))
        config = dataclasses.replace(config, policy=policy)
        if group.rank > 0:
            follow(config, group)
            return
    display = LearnerDisplay()
    with ExitStack() as stack:
        if group is not None:
            stack.callback(group.dismiss)
        stop = stack.enter_context(stop_on_interrupt())
        preflight = check_preflight(config)
        display.message(preflight.line, warning=not preflight.made)
        run = stack.enter_context(
            RunDir.create(config.output_dir, config.job_name, to_json(config), config.resume)
        )
        try:
            _serve_and_learn(config, run, stack, stop, display, group, preflight)
        except Stopped:
            display.message("stopped before learning began; episodes that arrived are kept")


def _serve_and_learn(
    config: Config,
    run: RunDir,
    stack: ExitStack,
    stop: Stop,
    display: LearnerDisplay,
    group: Processes | None,
    preflight: Standing,
) -> None:
    finish_rollback(run.root)
    config = with_imported_demos(config, display.message, stop)
    spec, encoder = task_spec(config.task), learner_encoder(config, latest(run.checkpoints))
    archive, counters = Archive(run.episodes), Counters()
    replay = open_replay(config, spec, encoder, run.root / "replay", display.message)
    stack.callback(replay.close)
    load_demos(config, replay, display.message, stop, archive.know)
    stored = take_in_run(config, run, replay, archive, counters, display.message, stop)
    serving = Serving(config, spec, archive, stored, counters.transitions, run.root / "published_version")
    arrivals = stack.enter_context(Arrivals(serving.inbox, replay.features_of))
    serving.start()
    stack.callback(serving.close)
    display.message(f"learner at {config.service.learner_host}:{serving.port}, run folder {run.root}")
    guard, watch = _oversight(config, serving, display)

    def on_episode(episode: Episode) -> None:
        display.message(episode_line(episode))

    _gather(
        config, replay, arrivals, counters, watch, serving.obedient(stop, watch, None), on_episode, display
    )
    agent = SacAgent(build_sac(config, spec, replay, encoder, group), replay, encoder, group)
    agent.share_state()
    _restore_or_pretrain(config, run, agent, counters, guard, stop, display)
    counters.version = max(counters.version, serving.last_version())
    log = MetricLog(run.metrics, "learner", tensorboard=config.run.tensorboard, wandb=_wandb(config, run))
    stack.callback(log.close)

    def on_log(values: Mapping[str, float]) -> None:
        log.log(values, transitions=counters.transitions)
        display.table(values)

    def on_saved(path: Path, best: bool) -> None:
        display.message(f"checkpoint {path}" + (" (best so far)" if best else ""))

    saver = stack.enter_context(
        CheckpointSaver(
            config, run.checkpoints, spec, agent, encoder, counters, guard, on_saved, preflight.line
        )
    )
    Learner(
        agent=agent,
        store=replay,
        arrivals=arrivals,
        publisher=serving,
        saver=saver,
        watch=watch,
        counters=counters,
        budget=_budget(config),
        on_log=on_log,
        on_episode=on_episode,
        eval_group=config.run.eval_episodes,
        idle=_idle(config, replay, archive, counters),
    ).run(serving.obedient(stop, watch, saver.save))


def _oversight(config: Config, serving: Serving, display: LearnerDisplay) -> tuple[CollapseGuard, Oversight]:
    guard = CollapseGuard(config.policy)
    pacing = PacingWatch(
        utd_ratio=config.policy.utd_ratio,
        batch=config.policy.batch_size,
        episode_s=config.task.control_time_s,
    )
    watch = Oversight(
        guard,
        pacing,
        auto_pause=config.run.auto_pause,
        say=lambda line: display.message(line, warning=True),
        report=serving.report,
    )
    return guard, watch


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
    watch: Oversight,
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
        watch.episode(arrival.episode)
        if arrival.episode.role is not Role.EVAL:
            replay.write(*arrival)
            counters.count(arrival.episode)


def _restore_or_pretrain(
    config: Config,
    run: RunDir,
    agent: SacAgent,
    counters: Counters,
    guard: CollapseGuard,
    stop: Stop,
    display: LearnerDisplay,
) -> None:
    newest = latest(run.checkpoints)
    if newest is None:
        if config.policy.bc_pretrain_steps:
            agent.pretrain(stop)
            display.message(f"cloned the demonstrations for {config.policy.bc_pretrain_steps} steps")
        return
    restore(newest, agent, counters, guard)
    agent.share_state()
    display.message(
        f"resumed from {newest}: {counters.updates} updates; {counters.transitions} transitions on disk"
    )
