"""The lanes of a fault campaign, and one job of it as a program.

python -m hilserl.benchmark.campaign_lanes JOB    JOB: a JSON file {"lane", "seed", "folder", "faults"};
                                                  the outcomes go to <folder>/outcomes.json
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from hilserl.benchmark import campaign_judge as judge
from hilserl.benchmark.campaign_actor import say
from hilserl.benchmark.campaign_data import episodes_of
from hilserl.benchmark.campaign_full import Full
from hilserl.benchmark.campaign_lane import Lane, Outcome, judge_rescue
from hilserl.benchmark.campaign_plan import Fault
from hilserl.benchmark.campaign_process import Program
from hilserl.benchmark.campaign_stage import LeaderStage
from hilserl.benchmark.campaign_told import cause, told, untold

NAMED: Final = re.compile(r"(?:[A-Z][a-z]+){2,}: ")
"""How a program begins the line that says why it gave up: with the name of its error."""
RECOVERY_S: Final = 40.0
"""After a fault the program plays on, or is over, within this time."""
NOTICED_S: Final = 0.5
"""What is wrong is noticed within this time."""
STARTS: Final = 5


class Disturbed(Lane):
    """Faults that pass: the program lives through them, or gives up in words and parks."""

    def one(self, fault: Fault) -> Outcome:
        program = self.at_work()
        time.sleep(fault.wait_s)
        outcome = Outcome(fault.index, fault.kind, time.monotonic(), 0.0)
        end = self.begin(fault, program)
        time.sleep(fault.lasts_s)
        outcome.end_s = time.monotonic()
        end()
        self.await_recovery(program, outcome)
        return outcome

    def at_work(self) -> Program:
        """A program that plays. One that gives up meanwhile is no fault's doing: the next is taken."""
        for _ in range(STARTS):
            if not (self.programs and self.programs[-1].alive):
                self.program()
            program = self.programs[-1]
            if program.wait_fact("step", time.monotonic()):
                return program
            program.await_end()
        raise RuntimeError(f"{STARTS} programs gave up before a step; see {self.folder / 'programs.log'}")

    def begin(self, fault: Fault, program: Program) -> Callable[[], None]:
        """Make the fault begin; returns what ends it."""
        if fault.kind == "learner_gone":
            self.learner.stop()
            return self.learner.start
        if fault.kind == "disk_full":
            return fill_disk(program.process.pid)
        self.stage.inject(fault.kind, fault.numbers)
        return self.stage.clear

    def await_recovery(self, program: Program, outcome: Outcome) -> None:
        """It plays on or ends parked, and a person was told what was wrong."""
        plays_on = program.wait_fact("step", outcome.end_s + NOTICED_S, RECOVERY_S)
        ended = not plays_on and not program.alive
        if not plays_on and program.fact("over", outcome.begin_s):
            ended = program.await_end()
        if not (plays_on or ended):
            outcome.violations.append(f"it neither plays on nor ends within {RECOVERY_S:g} s")
        if ended:
            self._judge_end(program, outcome)
        reasons = self.reasons(program, outcome.begin_s, ended=ended)
        causes = [cause(outcome.kind, reason) for reason in reasons]
        outcome.violations += [
            f"cut short for no known reason: {reason!r}"
            for reason, whose in zip(reasons, causes, strict=True)
            if not whose
        ]
        outcome.effect = "own" in causes
        self.unprovoked += causes.count("other")
        outcome.told = told(outcome.kind, program.lines, outcome.begin_s, time.monotonic())
        # A program that gave up for another reason has nobody left to see this one.
        missing = untold(outcome.kind, outcome.told, effect=outcome.effect)
        if missing and (outcome.effect or not ended):
            outcome.violations.append(missing)

    def reasons(self, program: Program, since_s: float, *, ended: bool) -> list[str]:
        """What was said of each episode that was cut short since then, and of the program's own end.

        "" where nothing was.
        """
        lines = [line for t_s, line in program.lines if t_s >= since_s]
        starts = [
            rf"episode {e.number} {e.end}: "
            for e in episodes_of(program.facts)
            if e.end in ("discarded", "fault") and e.end_s >= since_s
        ]
        said = [next((line for line in lines if re.match(start, line)), "") for start in starts]
        if ended:  # it may have given up just before the fault: its last error counts, whenever it came
            said.append(next((line for _, line in reversed(program.lines) if NAMED.match(line)), ""))
        return said

    def _judge_end(self, program: Program, outcome: Outcome) -> None:
        """A program that gave up said why, and left its arm parked and released."""
        program.await_end()
        for _, words in judge.not_parked(self.stage.world.trace()):
            excused = "released, but" in words and any(
                "released, but" in line for t_s, line in program.lines if t_s >= outcome.begin_s
            )
            if not excused:
                outcome.violations.append(f"after the program gave up: {words}")
        if program.process.returncode not in (0, 1):
            outcome.violations.append(f"the program ended with code {program.process.returncode}")


class Pad(Disturbed):
    """The operator's pad is pulled in the middle of a take-over."""

    control_time_s = 4.0
    out_s = 0.0
    """When it was last pulled [s]."""

    def prepare(self, stack: ExitStack) -> None:
        self.words += ["--teleop.type=gamepad"]

    def begin(self, fault: Fault, program: Program) -> Callable[[], None]:
        self.await_take_over(fault, program)
        begin_s = time.monotonic()
        program.send("pad out")
        program.wait_fact("pad out", begin_s, 20.0)
        self.out_s = time.monotonic()

        def back() -> None:
            program.send("pad in")
            program.wait_fact("pad in", begin_s, 10.0)

        return back

    def await_recovery(self, program: Program, outcome: Outcome) -> None:
        self.nothing_played(program, outcome)
        super().await_recovery(program, outcome)

    def await_take_over(self, fault: Fault, program: Program) -> None:
        """Until the operator has acted for a moment."""
        now_s = time.monotonic()
        program.wait(lambda: any(f.get("helped") and f["t_s"] > now_s for f in list(program.facts)), 20.0)
        time.sleep(fault.numbers["into_s"])

    def nothing_played(self, program: Program, outcome: Outcome) -> None:
        """Without the operator's device nobody drives: neither its last word nor the policy."""
        late = [
            f
            for f in list(program.facts)
            if f["what"] == "step" and self.out_s + NOTICED_S < f["t_s"] < outcome.end_s
        ]
        if late:
            outcome.violations.append(f"{len(late)} steps were played while the device was unplugged")


class Leader(Pad):
    """The leader arm's cable is pulled."""

    def prepare(self, stack: ExitStack) -> None:
        leader = LeaderStage(self.folder)
        stack.callback(leader.cable.close)
        self._cable = leader.cable
        self.words += [
            "--teleop.type=leader",
            f"--teleop.port={leader.cable.port}",
            "--teleop.id=leader",
            f"--teleop.calibration_dir={self.folder / 'calibration'}",
            "--teleop.buttons=gamepad",
        ]

    def begin(self, fault: Fault, program: Program) -> Callable[[], None]:
        self.await_take_over(fault, program)
        self._cable.unplug()
        self.out_s = time.monotonic()
        return self._cable.plug


class Killed(Lane):
    """The program is killed, or stopped for good: its watchdog parks the arm."""

    _emergency = False

    def one(self, fault: Fault) -> Outcome:
        program = self.program()
        if fault.kind == "kill_parking":
            program.wait_fact("begin")
            time.sleep(fault.wait_s)
            program.signal(signal.SIGINT)
            time.sleep(fault.numbers["parking_s"])
        else:
            if not fault.numbers["early"]:
                program.wait_fact("at work")
            time.sleep(fault.wait_s)
        outcome = Outcome(fault.index, fault.kind, time.monotonic(), 0.0)
        energised = bool(self.stage.world.trace().on[-1].any())
        program.signal(signal.SIGSTOP if fault.kind == "stopped" else signal.SIGKILL)
        gone = program.await_end()
        outcome.end_s = time.monotonic()
        outcome.effect = energised and program.process.returncode != 0
        outcome.told = told(fault.kind, program.lines, outcome.begin_s, outcome.end_s)
        self._judge(program, outcome, gone)
        return outcome

    def _judge(self, program: Program, outcome: Outcome, gone: bool) -> None:
        judge_rescue(self.stage.world.trace(), program, outcome, gone=gone)
        if program.wait_line("stepped in", 0.0):
            self._emergency = False
        if self._emergency and program.fact("at work"):
            outcome.violations.append("the next start does not say what the watchdog did")
        self._emergency = bool(outcome.told)


def fill_disk(pid: int) -> Callable[[], None]:
    """No file of process `pid` may grow beyond some frames: to it the disk is full. Returns what ends it."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (150_000, before[1]))

    def free() -> None:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)

    return free


LANES: Final[dict[str, type[Lane]]] = {
    "wire": Disturbed,
    "kill": Killed,
    "pad": Pad,
    "leader": Leader,
    "full": Full,
}


def main(job: dict[str, Any]) -> None:
    """Play a job and write its outcomes down."""
    sys.setswitchinterval(0.0005)
    folder = Path(job["folder"])
    lane = LANES[job["lane"]](folder.name, job["seed"], folder, say)
    lane.play([Fault.of(fault) for fault in job["faults"]])
    result = {
        "outcomes": [asdict(outcome) for outcome in lane.outcomes],
        "lost_steps": lane.lost_steps,
        "episodes": lane.episodes,
        "unprovoked": lane.unprovoked,
        "lost_s": lane.stage.twin.lost_s,
        "in_time": lane.in_time,
    }
    (folder / "outcomes.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
