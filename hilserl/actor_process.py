"""The program `hilserl actor`: drive the body for a learner."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np

from hilserl.actor import Actor, EpisodeReport, Plan
from hilserl.arm_metrics import ArmMetrics
from hilserl.body import build_body, build_reward
from hilserl.build import build_encoder, set_threads
from hilserl.config import Config
from hilserl.config_loading import to_json
from hilserl.display import EpisodeDisplay, LiveLine
from hilserl.doctor.result import METADATA, check_preflight
from hilserl.env import max_steps, task_spec
from hilserl.metrics import MetricLog
from hilserl.overrules import append_overrule, overrule_of
from hilserl.player import Player
from hilserl.rundir import RunDir
from hilserl.stopping import stop_on_interrupt
from hilserl.task_record import task_hash, task_json
from hilserl.types import End, Role
from hilserl.wire import ActorLink, LearnerUnreachable


def run_actor(config: Config) -> None:
    """Drive the body for a learner until interrupted, stopped by a button, or max_episodes.

    Raises PreflightError where the last pre-flight of this job is red.
    """
    set_threads(config)
    preflight = check_preflight(config)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_interrupt())
        name = config.service.actor_name
        folder = stack.enter_context(
            RunDir.open_actor(config.output_dir, config.job_name, name, to_json(config))
        )
        display = stack.enter_context(EpisodeDisplay())
        display.message(preflight.line, warning=not preflight.made)
        judge = None
        if config.task.success.kind == "classifier":
            judge = build_reward(config, None)  # one that cannot be used is found before the learner is
        spec, encoder = task_spec(config.task), build_encoder(config)
        link = ActorLink(config.service, name, folder.spool, display.message)
        stack.callback(link.close)
        while not stop():
            try:
                link.connect(spec, task_hash(config.task), task_json(config.task), timeout_s=0.5)
                break
            except LearnerUnreachable:
                continue
        if stop():
            return
        log = MetricLog(folder.metrics, "actor", tensorboard=config.run.tensorboard)
        stack.callback(log.close)
        body = stack.enter_context(
            build_body(config, display.message, first_episode=link.next_episode_number - 1, judge=judge)
        )
        transitions = 0
        arm_row = ArmMetrics(body.servos)
        line = LiveLine(display.live, body.torque, body.holding, recording=False)

        def report(episode: EpisodeReport) -> None:
            nonlocal transitions
            line.rest()
            if episode.fault:
                what = "discarded" if episode.played.end is End.DISCARDED else "cut short"
                display.message(f"episode {episode.number} {what}: {episode.fault}", warning=True)
            if episode.played.end is End.DISCARDED:
                return  # it leaves no trace, in the logs no more than in the replay
            transitions += episode.played.steps
            if overrule := overrule_of(name, episode.number, episode.played):
                append_overrule(folder.overrules, overrule)
                display.message(overrule.sentence())
            row = episode_row(episode) | arm_row() | {"actor/spooled": link.backlog}
            if episode.role is Role.TRAIN:
                taken, updates = link.progress()
                row["train/updates_per_transition"] = updates / max(1, taken)
            log.log(row, transitions=transitions)
            display.episode(row)

        Actor(
            env=body.env,
            policy=Player(spec, config, encoder, deterministic=False),
            teleop=body.teleop,
            reward=body.reward,
            link=link,
            plan=Plan(
                actor=name,
                task_hash=task_hash(config.task),
                seed=config.seed,
                max_steps=max_steps(config.task),
                max_episodes=config.run.max_episodes,
                wait_for_weights=bool(config.demos),
                pace=config.policy.utd_ratio if config.service.pace else 0,
                eval_every=config.run.eval_every_episodes,
                eval_episodes=config.run.eval_episodes,
                info={METADATA: preflight.line},
            ),
            report=report,
            should_stop=stop,
            listeners=(line,),
        ).run()


def episode_row(episode: EpisodeReport) -> dict[str, float]:
    """The glossary's metrics of one played episode."""
    played, periods = episode.played, np.array(episode.timing.period_s)
    row: dict[str, Any] = {
        "episode/index": episode.number,
        "episode/steps": played.steps,
        "episode/return": played.total_reward,
        "episode/success": float(played.end is End.SUCCESS),
        "episode/intervention_share": played.interventions / played.steps,
        "episode/policy_version": episode.policy_version,
        "episode/evaluation": float(episode.role is Role.EVAL),
        "episode/clipped_share": played.clipped_steps / played.steps,
        "actor/overruns": episode.timing.overruns,
    }
    if len(periods):
        row["actor/loop_hz"] = float(1 / periods.mean())
        row["actor/loop_p99_ms"] = float(np.quantile(periods, 0.99) * 1000)
    return row
