"""The product's own `hilserl actor` and `hilserl learner`, killed on the wire-level twin."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack
from typing import Final

from hilserl.benchmark import campaign_judge as judge
from hilserl.benchmark.campaign_lane import Lane, Outcome, judge_rescue
from hilserl.benchmark.campaign_plan import Fault
from hilserl.benchmark.campaign_process import Program
from hilserl.benchmark.campaign_told import told, untold
from hilserl.episode import EpisodeFileError, load_episode, scan_episodes

SMALL: Final = (
    "--policy.vision_encoder_name=random:16:0",
    "--policy.feature_channels=16",
    "--policy.batch_size=16",
    "--policy.utd_ratio=1",
    "--policy.policy_update_freq=1",
    "--policy.latent_dim=16",
    "--policy.hidden_dims=[16,16]",
    "--policy.online_step_before_learning=10",
    "--policy.online_buffer_capacity=3000",
    "--policy.offline_buffer_capacity=3000",
    "--service.policy_push_every_updates=20",
    "--run.num_threads=1",
    "--run.tensorboard=false",
    "--run.checkpoint_every=50",
)
"""A learner that costs little."""
AT_WORK: Final = r"\b(HOLD|POLICY|PARKED): |^ *\d+ +\d+ +-?\d+\.\d\d"
BUILT: Final = r"^arm 'twin', calibration"
SERVING: Final = r"^learner at "


class Full(Lane):
    """The actor is killed, and started again; or its learner is."""

    lost_steps = 0

    def prepare(self, stack: ExitStack) -> None:
        self.learner.stop()  # the real one serves instead
        self.words += SMALL
        self._teacher = self._serve()
        stack.callback(lambda: self._teacher.close())
        self._teacher.wait_line(SERVING)

    def one(self, fault: Fault) -> Outcome:
        actor = self._actor()
        time.sleep(fault.wait_s)
        outcome = Outcome(fault.index, fault.kind, time.monotonic(), 0.0, effect=True)
        if fault.kind == "kill_full":
            energised = bool(self.stage.world.trace().on[-1].any())
            actor.signal(signal.SIGKILL)
            gone = actor.await_end()
            outcome.end_s = time.monotonic()
            outcome.effect = energised
            outcome.told = told(fault.kind, actor.lines, outcome.begin_s, outcome.end_s)
            judge_rescue(self.stage.world.trace(), actor, outcome, gone=gone)
            return outcome
        self._teacher.signal(signal.SIGKILL)
        self._teacher.close()
        time.sleep(fault.lasts_s)
        self._teacher = self._serve("--resume=true")
        self._teacher.wait_line(SERVING)
        found = actor.wait_line("found the learner")
        outcome.end_s = time.monotonic()
        if not found:
            outcome.violations.append("the actor does not find its learner again")
        outcome.told = told(fault.kind, actor.lines, outcome.begin_s, outcome.end_s)
        if missing := untold(fault.kind, outcome.told, effect=True):
            outcome.violations.append(missing)
        return outcome

    def finish(self) -> None:
        """One more start sends what is left; both end when they are asked to."""
        actor = self._actor()
        time.sleep(8.0)
        for program in (actor, self._teacher):
            program.signal(signal.SIGINT)
            if not program.await_end():
                self._accuse(time.monotonic(), "the actor or the learner does not end")

    def judge_all(self) -> None:
        trace, config = self.stage.world.trace(), self.learner.config
        found = judge.too_fast(trace, config.robot.max_joint_speed)
        found += judge.into_table(trace) + judge.not_parked(trace)
        for t_s, words in found + self._data():
            self._accuse(t_s, words)
        self.describe(trace)
        self.unprovoked = 0

    def _data(self) -> judge.Found:
        """What its own log says was played is stored once, and every file re-reads whole."""
        job = self.folder / "job"
        log = job / "actors" / "actor" / "metrics" / "actor.jsonl"
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        found: judge.Found = []
        try:
            stored = {info.number: info for info in scan_episodes(job / "episodes")}
            for info in stored.values():
                load_episode(info.path)
        except EpisodeFileError as error:
            return [(0.0, str(error))]
        self.episodes = len(stored)
        for row in rows:
            number, steps = int(row["episode/index"]), int(row["episode/steps"])
            if number not in stored or stored[number].length != steps:
                self.lost_steps += steps
                found.append((0.0, f"episode {number} ({steps} steps) was finished and is not stored whole"))
        return found

    def _serve(self, *words: str) -> Program:
        return self._hilserl("learner", *words)

    def _actor(self) -> Program:
        """One that drives the arm."""
        if not (self.programs and self.programs[-1].alive):
            self.programs.append(self._hilserl("actor"))
            self.programs[-1].wait_line(BUILT)
        return self.programs[-1]

    def _hilserl(self, command: str, *words: str) -> Program:
        words = (command, "--config_path", self.config_path, *self.words, *words)
        return Program("hilserl", words, self.folder / f"{command}.log")
