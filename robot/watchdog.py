"""The watchdog process: it parks and releases an arm whose program died or froze.

python -m robot.watchdog SETTINGS PID    (started by `robot.watchdog_link`, never by hand)

Signs of life come through stdin. When the pipe closes while servos may be energised, or nothing comes for a
while (then the program is ended: a frozen one keeps the port), or its main loop left the arm holding for too
long, the watchdog takes the port, makes the arm hold where it is, folds it and releases it servo by servo.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Final

from robot.calibration import load_calibration
from robot.clearance import Clearance
from robot.errors import BusError
from robot.landing import Lander, Landing
from robot.servo_link import ServoLink
from robot.timing import RealClock
from robot.types import JOINT_NAMES
from robot.watchdog_protocol import HEARD, READY, Beat, Emergency, WatchdogSettings, emergency_path

TICK_S: Final = 0.1
OPEN_AGAIN_S: Final = 0.05
DONE, GAVE_UP = 0, 1


class Watch:
    """Watches over the program at the other end of a pipe, whose process is `pid`."""

    def __init__(self, settings: WatchdogSettings, pid: int, beats: int, answers: int) -> None:
        """beats, answers: file descriptors the signs of life come from and are answered to."""
        self._settings, self._pid = settings, pid
        self._beats, self._answers = beats, answers
        self._beat = Beat(False, 0.0)
        self._unread = b""

    def reason(self) -> str:
        """Wait. Why the arm must be parked, in words; empty when the program is done with it."""
        settings, silent_s, last_s, frozen = self._settings, 0.0, time.monotonic(), False
        while True:
            ready, _, _ = select.select([self._beats], [], [], TICK_S)
            now_s = time.monotonic()
            # A machine that stood still stood still for both: only what this process lived through counts.
            silent_s += min(now_s - last_s, 2 * TICK_S)
            last_s = now_s
            if ready:
                if not self._hear():
                    gone = f"its program (process {self._pid}) ended without parking it"
                    return gone if self._beat.torque else ""
                if frozen:
                    say(f"the program is back after {silent_s:.1f} s")
                silent_s, frozen = 0.0, False
            if not self._beat.torque:
                continue
            if self._beat.idle_s > settings.park_after_s:
                self._kill()
                return (
                    f"its program (process {self._pid}) left it holding for {self._beat.idle_s:.0f} s"
                    f" (robot.park_after_s = {settings.park_after_s:g}) and was ended"
                )
            if silent_s > settings.quiet_s and not frozen:
                frozen = True
                say(f"no sign of life from process {self._pid} for {silent_s:.1f} s")
            if silent_s > settings.quiet_s + settings.kill_after_s:
                self._kill()
                return f"its program (process {self._pid}) was frozen for {silent_s:.1f} s and was ended"

    def _hear(self) -> bool:
        """Take in what came. False when the other end is closed."""
        data = os.read(self._beats, 65536)
        *lines, self._unread = (self._unread + data).split(b"\n")
        if lines:
            self._beat = Beat.of(lines[-1])
            with contextlib.suppress(OSError):
                os.write(self._answers, HEARD)
        return bool(data)

    def _kill(self) -> None:
        """End the program, unless it ended by itself: then this process has another parent."""
        if os.getppid() == self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)


class Rescue:
    """One emergency: what is done, said and written down."""

    def __init__(self, settings: WatchdogSettings, lander: Lander, pid: int) -> None:
        self._settings, self._lander, self._pid = settings, lander, pid
        self._path = emergency_path(settings.calibration_dir, settings.robot_id)
        self._start_s = 0.0
        self._report = Emergency(settings.robot_id, settings.port, pid, "")

    def run(self, reason: str) -> int:
        """Hold, park, release. Returns the exit status."""
        self._start_s = time.monotonic()
        self._report.reason = reason
        self._step(f"arm {self._settings.robot_id!r} at {self._settings.port}: {reason}")
        if not self._open():
            return self._gave_up()
        states, _ = self._lander.await_bus(self._settings.port_patience_s)
        if not states:
            return self._gave_up()
        if not any(state.torque for state in states.values()):
            return self._end(Landing(on=[], limp=list(states)), "nothing to do: every servo is released")
        problems = self._lander.hold(states)
        self._step(f"it holds{''.join(f'; {who} {what}' for who, what in problems.items())}")
        time.sleep(self._settings.hold_s)
        self._step("parking")
        landing = self._lander.land()
        outcome = "it could NOT be released, hold it before you switch it off" if landing.on else ""
        outcome = outcome or "parked and released"
        if landing.problems:
            outcome += f", but {landing.told()}"
        return self._end(landing, outcome)

    def _open(self) -> bool:
        """Open the port as soon as it is there and free."""
        end_s, told = time.monotonic() + self._settings.port_patience_s, ""
        while True:
            try:
                self._lander.link.open()
                return True
            except BusError as error:
                if told != (told := str(error).partition(" (")[0]):
                    self._step(f"waiting: {told}")
                if time.monotonic() > end_s:
                    return False
                time.sleep(OPEN_AGAIN_S)

    def _gave_up(self) -> int:
        patience = f"{self._settings.port_patience_s:g} s"
        self._end(Landing(), f"gave up after {patience}: hold the arm and switch its supply off")
        return GAVE_UP

    def _end(self, landing: Landing, outcome: str) -> int:
        self._lander.link.close()
        for joint in JOINT_NAMES:
            end = "NOT released" if joint in landing.on else "released"
            self._report.servos[joint] = f"{end}{', ' * (joint in landing.problems)}" + landing.problems.get(
                joint, ""
            )
        self._report.outcome = outcome
        self._step(outcome)
        return GAVE_UP if landing.on else DONE

    def _step(self, what: str) -> None:
        t_s = time.monotonic() - self._start_s
        self._report.steps.append((round(t_s, 3), what))
        say(f"{t_s:.2f} s: {what}")
        try:
            self._report.save(self._path)
        except OSError as error:
            say(f"cannot write {self._path}: {error}")


def say(line: str) -> None:
    """Tell the person; whoever started the program may be gone, and the terminal too."""
    with contextlib.suppress(OSError):
        os.write(2, f"watchdog: {line}\n".encode())


def main(settings: WatchdogSettings, pid: int) -> int:
    """Watch until the program `pid`, which started this one, ends; returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its program, and only after it
    calibration = load_calibration(Path(settings.calibration_dir), settings.robot_id, settings.port)
    clock = RealClock()
    ids = {name: joint.id for name, joint in zip(JOINT_NAMES, calibration.joints, strict=True)}
    link = ServoLink(settings.port, ids, settings.bus_retries, clock)
    clearance = Clearance(settings.table_z_m)
    lander = Lander(link, calibration, clock, clearance, settings.max_joint_speed_rad_s)
    with contextlib.suppress(OSError):  # a program that is gone by now leaves nothing to watch over
        os.write(1, READY)
    reason = Watch(settings, pid, beats=0, answers=1).reason()
    return Rescue(settings, lander, pid).run(reason) if reason else DONE


if __name__ == "__main__":
    raise SystemExit(main(WatchdogSettings.from_json(sys.argv[1]), int(sys.argv[2])))
