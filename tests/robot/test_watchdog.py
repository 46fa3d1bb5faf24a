"""Laws of the watchdog: real processes drive a simulated arm over a real bus, and are ended in bad ways."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from robot.parking import REST_RAD
from robot.types import JOINT_NAMES
from robot.watchdog_protocol import (
    Beat,
    Emergency,
    WatchdogSettings,
    emergency_path,
    read_emergency,
    show_emergency,
)
from tests.fakes.physical_arm import PhysicalArm

SPEED_RAD_S = 4.0
PATIENCE_S = 60.0
SETTLE_S = 0.1
STEADY_RAD_S = 2.5
"""Faster than any joint is parked, slower than one that leaps."""


class Program:
    """tests.fakes.arm_program with an arm of its own, and everything said by it and by its watchdog."""

    def __init__(self, arm, plan, **changes):
        self.arm = arm
        settings = WatchdogSettings(
            arm.port, "arm", str(arm.folder), SPEED_RAD_S, bus_retries=10, hold_s=0.3, port_patience_s=20.0
        )
        self.settings = dataclasses.replace(settings, **changes)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.arm_program", self.settings.to_json(), plan],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines = []
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._heard:
                self.lines.append((time.monotonic(), line.rstrip("\n")))
                self._heard.notify_all()

    @property
    def text(self):
        return "\n".join(line for _, line in self.lines)

    def wait_for(self, pattern):
        """Time [s] at which a line first matched."""

        def found():
            return next((t_s for t_s, line in self.lines if re.search(pattern, line)), None)

        with self._heard:
            assert self._heard.wait_for(lambda: found() is not None, PATIENCE_S), f"{pattern}:\n{self.text}"
            return found()

    @property
    def watchdog(self):
        """Its watchdog's process."""
        return int(re.search(r"watchdog (\d+)", self.text)[1])

    def signal(self, number):
        """Send it to the program alone."""
        os.kill(self.process.pid, number)

    def await_watchdog(self):
        """Until the watchdog process is gone: it has the pipe of the program's output open until then."""
        self._reader.join(PATIENCE_S)
        assert not self._reader.is_alive(), f"the watchdog stays:\n{self.text}"
        self.process.wait(PATIENCE_S)

    @property
    def emergency(self):
        return read_emergency(emergency_path(self.arm.folder, "arm"))

    def close(self):
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
        self._reader.join(PATIENCE_S)
        self.process.wait()
        self.process.stdout.close()


# --- what is done to programs: all of it at once, for each takes its time ----------------------------------


def killed(plan, stage, delay_s=0.0, number=signal.SIGKILL):
    """At `stage` and a little later the program gets a signal."""

    def act(program):
        program.wait_for(stage)
        time.sleep(delay_s)
        program.signal(number)

    return plan, act, {}


def interrupted(program):
    """As a terminal does to its foreground group, and worse: the watchdog is asked to end, too."""
    program.wait_for("up")
    for pid in (program.process.pid, program.watchdog):
        os.kill(pid, signal.SIGINT)
    os.kill(program.watchdog, signal.SIGTERM)


def stopped_for_a_while(program):
    program.wait_for("up")
    program.signal(signal.SIGSTOP)
    program.wait_for("no sign of life")
    program.signal(signal.SIGCONT)
    program.wait_for("is back")
    assert program.process.poll() is None
    program.signal(signal.SIGKILL)


def without_watchdog(program):
    program.wait_for("connected")
    os.kill(program.watchdog, signal.SIGKILL)


def unplugged(program, back=True):
    program.wait_for("connected")
    program.arm.cable.unplug()
    program.signal(signal.SIGKILL)
    if back:
        program.wait_for("waiting: .*")
        assert program.arm.energised.any()
        program.arm.cable.plug()


KILLS = {
    "in motion": killed("sweep", "up", 0.7),
    "on its way up": killed("sweep", "connected", 0.4),
    "while parking": killed("park", "parking", 1.0),
    "just connected": killed("idle", "connected"),
    "frozen in motion": killed("sweep", "up", 0.5, signal.SIGSTOP),
    "hanging": ("hang", lambda program: None, {"park_after_s": 1.0}),
    "back for a while": ("sweep", stopped_for_a_while, {"kill_after_s": 20.0}),
    "cable out": ("idle", unplugged, {}),
}
GOOD_ENDS = {
    "before torque": killed("before", "watchdog"),
    "after parking": killed("park", "parked"),
    "at the end": ("once", lambda program: None, {}),
    "interrupted": ("sweep", interrupted, {}),
}
OTHERS = {
    "watchdog killed": ("idle", without_watchdog, {}),
    "no cable": ("idle", lambda program: unplugged(program, back=False), {"port_patience_s": 1.0}),
}
AT_ONCE = 4


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """{scenario: the program, after its end and its watchdog's}."""
    programs, arms = {}, []

    def play(name, plan, act, changes):
        arm = PhysicalArm(tmp_path_factory.mktemp("arm")).__enter__()
        arms.append(arm)
        programs[name] = Program(arm, plan, **changes)
        act(programs[name])
        programs[name].await_watchdog()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [pool.submit(play, name, *what) for name, what in (KILLS | GOOD_ENDS | OTHERS).items()]
    try:
        for run in runs:
            run.result()
        yield programs
    finally:
        for program in programs.values():
            program.close()
        for arm in arms:
            arm.__exit__()


def assert_parked(program):
    """The law: folded, without torque, never faster than the limit, and said so, on paper too."""
    arm = program.arm
    assert not arm.energised.any()
    assert np.abs(arm.q_rad[:5] - REST_RAD).max() < 0.25, "released it settles a little"
    assert arm.fastest() < SPEED_RAD_S
    assert arm.fastest(program.wait_for("it holds") + SETTLE_S) < STEADY_RAD_S
    assert "parked and released" in program.text
    told = program.emergency
    assert told.outcome == "parked and released"
    assert told.servos == dict.fromkeys(JOINT_NAMES, "released")
    assert str(program.process.pid) in told.reason


@pytest.mark.parametrize("name", KILLS)
def test_an_arm_whose_program_is_gone_is_held_parked_and_released(ended, name):
    program = ended[name]
    assert_parked(program)
    assert program.process.returncode == -signal.SIGKILL
    assert ("frozen" in program.emergency.reason) == (name == "frozen in motion")
    assert ("left it holding" in program.emergency.reason) == (name == "hanging")
    steps = [what for _, what in program.emergency.steps]
    assert [what for what in steps if what in ("it holds", "parking")] == ["it holds", "parking"]


@pytest.mark.parametrize("name", GOOD_ENDS)
def test_a_program_that_ends_with_a_released_arm_leaves_the_watchdog_quiet_and_gone(ended, name):
    program = ended[name]
    assert "watchdog:" not in program.text
    assert program.emergency is None
    assert not program.arm.energised.any()
    assert program.text.count("parking") <= 1


def test_an_interrupt_parks(ended):
    assert np.abs(ended["interrupted"].arm.q_rad[:5] - REST_RAD).max() < 0.25


def test_a_program_whose_watchdog_dies_stops_in_words_and_parks(ended):
    program = ended["watchdog killed"]
    assert "WatchdogLost: the watchdog process of arm 'arm' is gone (it ended with code -9)" in program.text
    assert program.process.returncode == 1
    assert not program.arm.energised.any()


def test_without_a_cable_it_gives_up_in_words(ended):
    program = ended["no cable"]
    assert "gave up after 1 s: hold the arm and switch its supply off" in program.emergency.outcome
    assert set(program.emergency.servos.values()) == {"NOT released"}


def test_two_programs_never_fight_for_an_arm(tmp_path):
    with PhysicalArm(tmp_path) as arm:
        first = Program(arm, "sweep")
        first.wait_for("up")
        second = Program(arm, "sweep")
        try:
            second.await_watchdog()
            assert "busy: another program drives this arm" in second.text
            assert "watchdog:" not in second.text
            assert first.process.poll() is None and arm.energised.all()
            assert arm.fastest() < SPEED_RAD_S
        finally:
            first.close()
            second.close()


# --- without processes --------------------------------------------------------------------------------------


def test_settings_and_signs_of_life_survive_the_pipe():
    settings = WatchdogSettings("/dev/a port", "arm", "calib ration", 4.0, park_after_s=33.0)
    assert WatchdogSettings.from_json(settings.to_json()) == settings
    assert Beat.of(Beat(True, 1.25).line()) == Beat(True, 1.25)


def test_an_emergency_is_shown_once_and_kept(tmp_path):
    assert show_emergency(tmp_path, "arm") == ""
    path = emergency_path(tmp_path, "arm")
    Emergency("arm", "port", 7, "killed", steps=[(0.1, "it holds")], outcome="parked").save(path)
    assert "(killed): parked" in show_emergency(tmp_path, "arm")
    assert show_emergency(tmp_path, "arm") == ""
    assert read_emergency(path).steps == [(0.1, "it holds")]


def test_a_damaged_record_of_an_emergency_hinders_nobody(tmp_path):
    path = emergency_path(tmp_path, "arm")
    path.parent.mkdir()
    for text in ("", "{", "[]", '{"robot_id": 1}'):
        path.write_text(text)
        assert show_emergency(tmp_path, "arm") == ""
