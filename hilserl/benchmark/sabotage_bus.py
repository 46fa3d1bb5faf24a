"""Servo arms for sabotage: simulated servos on pseudo-terminals, looked at by the pre-flight. No torque."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hilserl.benchmark.sabotage import Trial
from hilserl.benchmark.sabotage_setup import ARM, LEADER, Setup
from hilserl.benchmark.sabotage_trials import checked, replaced
from hilserl.config import Config
from hilserl.config_loading import load_config
from hilserl.doctor.findings import Finding
from robot.calibrate_touch import judge_touch, save_touch
from robot.calibration import load_calibration, save_calibration
from robot.devices import bound_file
from robot.twin.bus_port import BusPort
from robot.twin.faults import Faults
from robot.twin.servo_bus import ServoBus
from robot.twin.world_body import store_calibration, twin_calibration
from robot.types import WRIST_ROLL

POINTS = np.array([[0.2, -0.1, 0.0], [0.3, -0.1, 0.0], [0.3, 0.1, 0.0], [0.2, 0.1, 0.0]])


class Still:
    """A ServoBody that stands where a person left it: in its middle, the wrist turned by so much."""

    def __init__(self, turned_rad: float = 0.0) -> None:
        self._turned = turned_rad

    def set_goal_rad(self, joint: int, rad: float | None) -> None:
        """Nothing is driven: a looking pre-flight switches no torque on."""
        if rad is not None:
            raise RuntimeError(f"joint {joint} was driven to {rad} rad by a check that must only look")

    def position_rad(self, joint: int) -> float:
        """Where it stands."""
        return self._turned if joint == WRIST_ROLL else 0.0

    def velocity_rad_s(self, joint: int) -> float:
        """It stands still."""
        return 0.0

    def torque_nm(self, joint: int) -> float:
        """Nothing pulls."""
        return 0.0


def calibrate(setup: Setup) -> None:
    """Two calibrated arms, the follower bound to its adapter and tried by touch."""
    for name in (ARM, LEADER):
        save_calibration(twin_calibration(), setup.calibration, name)
    bound_file(setup.calibration, ARM).write_text(json.dumps({"serial_number": ARM}))
    touch(np.array([0.0, 0.0, 0.001]))(setup)


def touch(off_m: NDArray[np.float64]) -> Callable[[Setup], None]:
    """The touch test found the tip so far off (3,) [m], here and there."""

    def plant(setup: Setup) -> None:
        tips = POINTS + np.outer([1, -1, 1, -1], off_m)
        found = judge_touch(POINTS, tips)
        save_touch(found, load_calibration(setup.calibration, ARM), setup.calibration, ARM)

    return plant


@contextmanager
def powered(body: Still, change: Callable[[ServoBus, Faults], None]) -> Iterator[str]:
    """Six servos, calibrated as every new twin is, then changed; gives their port."""
    faults = Faults()
    bus = ServoBus(body, faults)
    store_calibration(bus, twin_calibration())
    change(bus, faults)
    port = BusPort(bus, faults)
    port.plug()
    try:
        yield port.port
    finally:
        port.close()


@contextmanager
def plugged(setup: Setup) -> Iterator[Config]:
    """The servo arm of a set-up behind its adapter; gives its configuration."""
    from robot import devices

    with powered(Still(), setup.servos) as port:
        listed = [devices.SerialPort(os.path.realpath(port), setup.adapter)]
        with replaced(devices, "serial_ports", lambda: listed):
            yield setup.wire_config(port)


def _both_arms(setup: Setup) -> list[Finding]:
    """Leader and follower, held in one pose."""
    with plugged(setup) as config, powered(Still(setup.leader_rad), lambda *_: None) as port:
        teleop = replace(
            config.teleop, type="leader", port=port, id=LEADER, calibration_dir=str(setup.calibration),
            buttons="none",
        )  # fmt: skip
        both = replace(config, teleop=teleop)
        return checked(both, setup, ("calibration_spans", "leader_agreement"), agreed=True)


BOTH = Trial("doctor at the wire (leader and follower)", _both_arms)


@cache
def servos(*names: str) -> Trial:
    """These checks of the pre-flight on the servo bus."""

    def run(setup: Setup) -> list[Finding]:
        with plugged(setup) as config:
            return checked(config, setup, names)

    return Trial(f"doctor at the wire ({', '.join(names)})", run)


def _ports(setup: Setup) -> list[Finding]:
    return checked(load_config(setup.wire_file), setup, ("ports",))


PORTS = Trial("doctor at the wire (ports)", _ports)
