"""A lane of a fault campaign: one arm, one program after the other, one fault after the other."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Final

import numpy as np

from hilserl.benchmark import campaign_judge as judge
from hilserl.benchmark.campaign_data import episodes_of, frame_judge, judge_store
from hilserl.benchmark.campaign_plan import Fault
from hilserl.benchmark.campaign_process import Program
from hilserl.benchmark.campaign_stage import Stage, read_numbers
from hilserl.benchmark.campaign_told import HOLDS, PARKED, RELEASED, untold
from hilserl.config_loading import load_config
from hilserl.env import task_spec
from hilserl.episode import durable_numbers, save_episode, scan_episodes
from hilserl.task_record import task_hash, task_json
from hilserl.types import Episode, Weights
from hilserl.wire import LearnerService

CONFIG: Final = "configs/twin_wire_config.json"
ACTOR: Final = "hilserl.benchmark.campaign_actor"
STEADY_RAD_S: Final = 2.5
"""No arm is parked faster; slower than one that leaps."""
REACTION_S: Final = 0.3


@dataclass(slots=True)
class Outcome:
    """What became of one fault. begin_s, end_s: monotonic time [s]. arm: what it did. told: the words."""

    index: int
    kind: str
    begin_s: float
    end_s: float
    effect: bool = False
    arm: str = ""
    told: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


class Learner:
    """The product's learner service with its episode files, without learning."""

    def __init__(self, config_words: list[str], folder: Path) -> None:
        self.config = load_config(CONFIG, config_words)
        self.folder = folder
        self._service: LearnerService | None = None

    def start(self) -> None:
        """Serve, from what is stored."""
        config = self.config
        self._service = LearnerService(
            config.service,
            task_spec(config.task),
            task_hash(config.task),
            task_json(config.task),
            self._store,
            Queue(),
            durable_numbers(scan_episodes(self.folder)),
        )
        self._service.start()
        self._service.publish(Weights(1, {"none": np.zeros(1, np.float32)}))

    def stop(self) -> None:
        """Be gone. More than once is allowed."""
        if self._service is not None:
            self._service.stop()
            self._service = None

    def _store(self, episode: Episode) -> None:
        save_episode(self.folder, episode)


class Lane:
    """One arm and what is done to it. Subclasses say how each kind of fault is played.

    After `play`: outcomes, and lost_steps, episodes (stored), unprovoked (cut short for what was not done).
    """

    config_path = CONFIG
    control_time_s = 1.5
    lost_steps = episodes = unprovoked = 0
    in_time = 0.0
    """Share of the moments at which the physics kept real time, and speeds could be judged."""

    def __init__(self, name: str, seed: int, folder: Path, say: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.folder, self.say = name, folder, say
        self.outcomes: list[Outcome] = []
        self.programs: list[Program] = []
        self.stage = Stage(folder, seed)
        self._spare: Program | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.words = [
            f"--robot.port={self.stage.twin.port}",
            f"--robot.calibration_dir={folder / 'calibration'}",
            "--robot.object_time_s=0",
            "--robot.health.lasting_s=3",
            f"--cameras.gripper_cam.port={self.stage.twin.camera_address[1]}",
            f"--output_dir={folder}",
            "--job_name=job",
            f"--service.learner_port={port}",
            "--teleop.type=none",
            f"--task.control_time_s={self.control_time_s:g}",
        ]

    def play(self, faults: list[Fault]) -> None:
        """Inject them all, judge them all."""
        with ExitStack() as stack:
            stack.enter_context(self.stage.twin)
            stack.callback(self._close_programs)
            self.learner = Learner(self.words, self.folder / "episodes")
            self.learner.start()
            stack.callback(self.learner.stop)
            self.prepare(stack)
            for fault in faults:
                outcome = self.one(fault)
                self.outcomes.append(outcome)
                self.say(f"{self.name} {fault.index} {fault.kind}: {outcome.told[:1] or '-'}")
            self.finish()
            self.judge_all()

    def prepare(self, stack: ExitStack) -> None:
        """What this lane needs besides."""

    def one(self, fault: Fault) -> Outcome:
        """Play one fault."""
        raise NotImplementedError

    def program(self) -> Program:
        """The next program, told to go; another is started ahead of its turn."""
        program = self._spare or self._start()
        if not program.wait_fact("ready"):
            raise RuntimeError(f"the program does not start; see {self.folder / 'programs.log'}")
        program.send("go")
        self.programs.append(program)
        self._spare = self._start()
        return program

    def finish(self) -> None:
        """The last program sends what is left, parks and ends."""
        last = self.programs[-1] if self.programs and self.programs[-1].alive else self.program()
        last.wait_fact("step", time.monotonic())
        last.signal(signal.SIGINT)
        if not last.await_end():
            self._accuse(time.monotonic(), "the last program does not end")

    def judge_all(self) -> None:
        """The laws that hold all the time, each finding put down to the fault it came with."""
        trace = self.stage.world.trace()
        self.episodes = len(scan_episodes(self.folder / "episodes"))
        task, limit = self.learner.config.task, self.learner.config.robot.max_joint_speed
        played = [episode for program in self.programs for episode in episodes_of(program.facts)]
        found = judge.too_fast(trace, limit)
        found += judge.outside(trace, [e.span for e in played], task.workspace_min, task.workspace_max)
        found += judge.into_table(trace) + judge.not_parked(trace)
        frame_wrong = frame_judge(self.stage.world.taken_s, read_numbers, trace)
        wrong, self.lost_steps = judge_store(self.folder / "episodes", played, frame_wrong, trace)
        for t_s, words in found + wrong:
            self._accuse(t_s, words)
        self.describe(trace)
        self.unprovoked += sum(
            e.end in ("discarded", "fault") and not self._provoked(e.end_s) for e in played if e.end
        )

    def describe(self, trace: judge.Trace) -> None:
        """Say of each fault what the arm did until it ended, or until a killed program was dealt with."""
        for outcome in self.outcomes:
            outcome.arm = judge.did(trace.between(outcome.begin_s, outcome.end_s))
        self.in_time = float(judge.in_time(trace).mean())

    def _provoked(self, t_s: float) -> bool:
        return any(o.begin_s <= t_s <= o.end_s + 5.0 for o in self.outcomes)

    def _accuse(self, t_s: float, words: str) -> None:
        """Put a violation down to the last fault that began before it."""
        before = [o for o in self.outcomes if o.begin_s <= t_s] or self.outcomes[:1]
        before[-1].violations.append(words)

    def _start(self) -> Program:
        return Program(ACTOR, [CONFIG, *self.words], self.folder / "programs.log")

    def _close_programs(self) -> None:
        for program in [*self.programs, *([self._spare] if self._spare else [])]:
            program.close()


def judge_rescue(trace: judge.Trace, program: Program, outcome: Outcome, *, gone: bool) -> None:
    """The watchdog of a program that is gone laid the arm down gently, released it, said so, and ended."""
    if not gone:
        outcome.violations.append("the watchdog does not end")
    # From a moving arm's goal back to where it is: until then the limit of every motion holds.
    holds_s = min((t for t, line in program.lines if t >= outcome.begin_s and HOLDS in line), default=None)
    steady = trace.between((holds_s or outcome.begin_s) + REACTION_S, outcome.end_s)
    wrong = judge.not_parked(trace) + judge.too_fast(steady, STEADY_RAD_S / judge.SPEED_TOLERANCE)
    outcome.violations += [words for _, words in wrong]
    if missing := untold(outcome.kind, outcome.told, effect=outcome.effect):
        outcome.violations.append(missing)
    ends = (PARKED,) if outcome.effect else (PARKED, RELEASED)  # it may be killed just before torque comes on
    said = [line for t_s, line in program.lines if t_s >= outcome.begin_s]
    if outcome.told and not any(end in line for end in ends for line in said):
        outcome.violations.append("nobody was told that the arm is parked and released")
