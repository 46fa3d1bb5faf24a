"""A real actor with a policy that wanders: what a fault campaign ends, unplugs and disturbs.

python -m hilserl.benchmark.campaign_actor CONFIG OVERRIDE...

Everything is the product's but the policy: body, guard, watchdog process, camera thread, interaction loop,
spool and wire. Without torch it is there in two seconds, and it waits before it opens anything until a line
"go" comes on its stdin; "pad out" and "pad in" pull and plug its (simulated) gamepad. Lines that begin with @
are one JSON object each, facts for the judge; all others are what a person would read.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilserl.actor import Actor, EpisodeReport, Plan
from hilserl.body import build_body
from hilserl.config import Config
from hilserl.config_loading import load_config
from hilserl.env import max_steps, task_spec
from hilserl.rundir import RunDir
from hilserl.stopping import Stop, stop_on_interrupt
from hilserl.task_record import task_hash, task_json
from hilserl.types import Obs, Step
from hilserl.wire import ActorLink, LearnerUnreachable
from robot.types import F32

HELD_STEPS = 4
"""So many steps in one direction."""
TAKE_OVER_S, LET_GO_S = 2.5, 0.7
_out = threading.Lock()


def say(line: str) -> None:
    """One whole line, at once."""
    with _out:
        sys.stdout.write(line.replace("\n", " ") + "\n")
        sys.stdout.flush()


def tell(what: str, **facts: Any) -> None:  # noqa: ANN401
    """A fact for the judge; "t_s" is monotonic time, which all processes share."""
    say("@" + json.dumps({"what": what, "t_s": time.monotonic(), **facts}))


class Wanderer:
    """A policy: a few steps in one random direction, then in another; the gripper too."""

    def __init__(self) -> None:
        self.deterministic = False
        self._rng = np.random.default_rng()
        self._left = 0
        self._action: F32 = np.zeros(4, np.float32)

    def load(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """There is nothing to learn."""

    def reset(self) -> None:
        """The next step begins a new direction."""
        self._left = 0

    def observe(self, obs: Obs) -> None:
        """Nothing to remember."""

    def act(self, obs: Obs) -> F32:
        """A random action (4,) in [-1, 1]."""
        if not self._left:
            self._left, self._action = HELD_STEPS, self._rng.uniform(-1, 1, 4).astype(np.float32)
        self._left -= 1
        return self._action


class Witness:
    """A rollout listener that tells each step as it is played, and each episode when it is on disk."""

    def begin(self, obs: Obs) -> None:
        """It has begun: from here on the hand belongs into the workspace."""
        tell("begin")

    def step(self, step: Step) -> None:
        """One more step was played."""
        tell("step", action=step.action.tolist(), helped=bool(step.intervention))

    def report(self, episode: EpisodeReport) -> None:
        """It is over, and on this machine's disk unless it was discarded."""
        if episode.fault:
            say(f"episode {episode.number} {episode.played.end.value}: {episode.fault}")
        tell("end", number=episode.number, end=episode.played.end.value, steps=episode.played.steps)


class PadHand(threading.Thread):
    """A person at a simulated gamepad: takes over and lets go."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        from robot.twin.virtual_pad import VirtualPad

        self._make = VirtualPad
        self._pad: Any = VirtualPad()
        self._asked: list[str] = []
        self._rng = random.Random()

    def ask(self, what: str) -> None:
        """Pull its cable in this take-over or the next ("out"); put it back ("in")."""
        self._asked.append(what)

    def run(self) -> None:
        while True:
            if self._pad is not None:
                self._take_over()
            if "in" in self._asked:
                self._asked.clear()
                self._pad = self._pad or self._make()
                tell("pad in")
            time.sleep(LET_GO_S if self._pad is not None else 0.05)

    def _take_over(self) -> None:
        self._pad.press(5)
        end_s = time.monotonic() + TAKE_OVER_S
        while time.monotonic() < end_s:
            for axis in (0, 1, 3):
                self._pad.axis(axis, self._rng.uniform(-1, 1))
            time.sleep(0.1)
            if "out" in self._asked:
                self._asked.remove("out")
                self._pad.unplug()
                self._pad = None
                tell("pad out")
                return
        self._pad.release(5)


def act(config: Config, stop: Stop) -> None:
    """Play until stopped, as `hilserl actor` does. Raises what that raises."""
    name = config.service.actor_name
    with ExitStack() as stack:
        folder = stack.enter_context(RunDir.open_actor(config.output_dir, config.job_name, name, "{}"))
        link = ActorLink(config.service, name, folder.spool, say)
        stack.callback(link.close)
        while not stop():
            try:
                link.connect(
                    task_spec(config.task), task_hash(config.task), task_json(config.task), timeout_s=0.5
                )
                break
            except LearnerUnreachable:
                continue
        body = stack.enter_context(build_body(config, say))
        witness = Witness()
        tell("at work")
        Actor(
            env=body.env,
            policy=Wanderer(),
            teleop=body.teleop,
            reward=body.reward,
            link=link,
            plan=Plan(
                actor=name,
                task_hash=task_hash(config.task),
                seed=config.seed,
                max_steps=max_steps(config.task),
                max_episodes=10**6,
                wait_for_weights=True,
            ),
            report=witness.report,
            should_stop=stop,
            listeners=(witness,),
        ).run()


def main(config: Config) -> int:
    """Wait for "go", then act; returns the exit status."""
    teleop = config.teleop
    hand = PadHand() if "gamepad" in (teleop.type, teleop.buttons) else None
    tell("ready")
    if sys.stdin.readline().strip() != "go":
        return 0
    if hand is not None and teleop.type == "gamepad":
        hand.start()
        threading.Thread(target=_obey, args=(hand,), daemon=True).start()
    try:
        with stop_on_interrupt() as stop:
            act(config, stop)
    except Exception as error:  # noqa: BLE001  # said as the product's command line says it
        say(f"{type(error).__name__}: {error}")
        return 1
    finally:
        tell("over")
    return 0


def _obey(hand: PadHand) -> None:
    for line in sys.stdin:
        hand.ask(line.strip().removeprefix("pad "))


if __name__ == "__main__":
    raise SystemExit(main(load_config(sys.argv[1], sys.argv[2:])))
