"""A calibrated arm on a pseudo-terminal, moved by the twin's physics in real time; no camera, no cube to see.

Who looks at it afterwards knows how fast its joints were, and which were energised, at every moment.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from robot.calibration import save_calibration
from robot.twin.bus_port import BusPort
from robot.twin.faults import Faults
from robot.twin.model import TIMESTEP_S
from robot.twin.servo_bus import ServoBus
from robot.twin.wire import START_RAD
from robot.twin.world import World
from robot.twin.world_body import WorldBody, store_calibration, twin_calibration

STEP_S = 8 * TIMESTEP_S
MAX_LAG_S = 0.1
WINDOW_S = 0.3


class PhysicalArm:
    """with PhysicalArm(folder) as arm: a program opens arm.port with the calibration folder/arm.json."""

    def __init__(self, folder):
        self.folder = folder
        self.faults = Faults()
        self._world = World()
        self._world.set_arm(np.array(START_RAD, np.float32))
        self.body = WorldBody(self._world)
        self.bus = ServoBus(self.body, self.faults)
        store_calibration(self.bus, twin_calibration())
        save_calibration(twin_calibration(), folder, "arm")
        self.cable = BusPort(self.bus, self.faults, folder / "bus")
        self.seen = []
        """(time [s], joint angles (6,), energised (6,)), one per physics step."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def port(self):
        return self.cable.port

    @property
    def energised(self):
        """(6,) of bool, now."""
        return np.array([servo.memory.get("Torque_Enable") == 1 for servo in self.bus.servos])

    @property
    def q_rad(self):
        return np.array([self.body.position_rad(joint) for joint in range(6)])

    def fastest(self, after_s=0.0):
        """Largest mean speed [rad/s] over WINDOW_S of a joint that was energised.

        By the clock on the wall: on a slow machine the physics loses time, and its own speeds are too large.
        """
        seen = [moment for moment in self.seen if moment[0] >= after_s]
        fastest, first = 0.0, 0
        for t_s, q_rad, on in seen:
            while t_s - seen[min(first + 1, len(seen) - 1)][0] >= WINDOW_S:
                first += 1
            begin_s, before_rad, was_on = seen[first]
            if t_s - begin_s >= WINDOW_S and (both := on & was_on).any():
                fastest = max(fastest, float(np.abs(q_rad - before_rad)[both].max()) / (t_s - begin_s))
        return fastest

    def __enter__(self):
        self._thread.start()
        self.cable.plug()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()
        self.cable.close()
        self._world.close()

    def _run(self):
        start_s, simulated_s = time.monotonic(), 0.0
        while not self._end.is_set():
            behind_s = time.monotonic() - start_s - simulated_s
            if behind_s > MAX_LAG_S:
                start_s += behind_s - MAX_LAG_S  # too slow a machine: time is lost, speeds stay true
            if behind_s <= 0:
                self._end.wait(STEP_S)
                continue
            self.body.advance(STEP_S)
            simulated_s += STEP_S
            self.seen.append((time.monotonic(), self.body._now[0], self.body._driven.copy()))
