"""A program that drives an arm under a watchdog, for tests that end it in bad ways.

python -m tests.fakes.arm_program SETTINGS PLAN    prints a line at each stage it reaches.

PLAN: "sweep" moves to and fro for ever; "park" moves once, parks and goes on living; "idle" connects and
stands still; "once" moves, parks, says goodbye and ends; "hang" moves once and then computes for ever.
"""

from __future__ import annotations

import signal
import sys
import threading
import time

import numpy as np

from robot.guard import Guard
from robot.so101 import SO101
from robot.timing import RealClock
from robot.watchdog_link import WatchdogLink
from robot.watchdog_protocol import WatchdogSettings

READY_RAD = np.array([0.3, -0.9, 0.8, 0.9, 0.4, 0.5], np.float32)
SPEED_RAD_S, RATE_HZ = 1.5, 50


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def go(guard, goal):
    start = guard.read().q_rad
    count = max(1, round(float(np.abs(goal - start).max()) / SPEED_RAD_S * RATE_HZ))
    for index in range(1, count + 1):
        guard.command((start + (goal - start) * np.float32(index / count)).astype(np.float32))
        time.sleep(1 / RATE_HZ)  # on a slow machine it is slower, never faster


def sweep(guard):
    while True:
        go(guard, READY_RAD + np.array([0.6, 0, 0, 0, 0.5, 0], np.float32))
        go(guard, READY_RAD - np.array([0.6, 0, 0, 0, 0.5, 0], np.float32))


def hang_up():
    """A lock that nobody opens."""
    say("hanging")
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def main(settings, plan):
    with WatchdogLink(settings, say) as watchdog:
        servos = SO101(
            settings.port,
            settings.robot_id,
            settings.calibration_dir,
            RealClock(),
            retries=10,
            max_joint_speed_rad_s=settings.max_joint_speed_rad_s,
            supervisor=watchdog,
        )
        watchdog.wait_ready()
        say(f"watchdog {watchdog._process.pid}")
        if plan == "before":
            time.sleep(600)
        servos.connect()
        guard = Guard(
            servos, RealClock(), max_joint_speed_rad_s=settings.max_joint_speed_rad_s, watchdog_s=0.5
        )
        watchdog.idle_s = lambda: guard.idle_s
        say("connected")
        try:
            while plan == "idle":
                guard.read()
                time.sleep(0.1)
            go(guard, READY_RAD)
            say("up")
            if plan == "sweep":
                sweep(guard)
            if plan == "hang":
                hang_up()
        finally:
            say("parking")
            guard.park()
            say("parked")
        if plan == "park":
            time.sleep(600)
        guard.close()
    say("over")


if __name__ == "__main__":
    # a shell that starts tests in the background has them ignore interrupts, and this would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(WatchdogSettings.from_json(sys.argv[1]), sys.argv[2])
