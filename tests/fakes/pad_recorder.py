"""`hilserl record` with a person at the pad who is made of software.

python -m tests.fakes.pad_recorder SCRIPT WORDS...

SCRIPT: JSON, one list per episode as it is played, one entry per step: "up" (bumper held, right stick up),
"still" (bumper held), a button of `BUTTONS`, or "kill" (this process dies as by a power cut). After its last
entry an episode gets nothing more. WORDS: what `hilserl record` is given.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import hilserl.body
from hilserl.cli import main
from robot.teleop.gamepad import EVENT_BUTTONS, TAKE_OVER, Gamepad
from robot.twin.virtual_pad import VirtualPad
from robot.types import ArmState, Event, Operator, Teleop

BUTTONS = {
    event.name.lower(): number for number, event in reversed(EVENT_BUTTONS.items()) if event is not Event.STOP
} | {"stop": 2}
RIGHT_STICK_Y = 3


class Person:
    """A Gamepad, and the fingers on it: they do the next thing just before each reading."""

    def __init__(self, script: list[list[str]]) -> None:
        self._pad, self._script = VirtualPad(), script
        self._gamepad: Teleop = Gamepad()
        self._steps = iter(())

    def reset(self, seed: int) -> None:
        self._steps = iter(self._script.pop(0))
        self._hold(False, 0.0)
        self._gamepad.reset(seed)

    def read(self, state: ArmState) -> Operator:
        what = next(self._steps, "")
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self._hold(what in ("up", "still"), -1.0 if what == "up" else 0.0)
        if what in BUTTONS:
            self._pad.press(BUTTONS[what])
            self._pad.release(BUTTONS[what])
        return self._gamepad.read(state)

    def stop_asked(self) -> bool:
        return self._gamepad.stop_asked()

    def close(self) -> None:
        self._gamepad.close()
        self._pad.unplug()

    def _hold(self, bumper: bool, right_stick_y: float) -> None:
        (self._pad.press if bumper else self._pad.release)(TAKE_OVER)
        self._pad.axis(RIGHT_STICK_Y, right_stick_y)


if __name__ == "__main__":
    says: list[list[str]] = json.loads(sys.argv[1])
    hilserl.body.build_device = lambda config, message: Person(says)
    sys.exit(main(["record", *sys.argv[2:]]))
