"""A calibrated arm on a pseudo-terminal, its joints following with a lag: the driver's every byte is real."""

from __future__ import annotations

from types import SimpleNamespace

from robot.calibration import save_calibration
from robot.so101 import SO101
from robot.twin.bus_port import BusPort
from robot.twin.faults import Faults
from robot.twin.registers import decode_sign
from robot.twin.servo_bus import ServoBus
from robot.twin.world_body import store_calibration, twin_calibration
from robot.types import JOINT_NAMES
from tests.fakes.arm import HandClock
from tests.fakes.servo_body import LagBody

POSE = (0.3, -0.8, 0.9, 0.7, -0.4, 0.5)


class Rig:
    """A calibrated arm on a pseudo-terminal, and the driver's view of it."""

    def __init__(self, folder, q_rad=POSE):
        self.folder = folder
        self.faults = Faults()
        self.body = LagBody(q_rad)
        self.bus = ServoBus(self.body, self.faults)
        self.calibration = twin_calibration()
        store_calibration(self.bus, self.calibration)
        save_calibration(self.calibration, folder, "arm")
        self.port = BusPort(self.bus, self.faults)
        self.port.plug()
        self.clock = HandClock()
        self.arms = []

    def arm(self, **options):
        # Many retries: on a busy machine the simulated servos may be late, and that is no subject here.
        options = {"retries": 20} | options
        arm = SO101(self.port.port, "arm", self.folder, self.clock, **options)
        self.arms.append(arm)
        return arm

    def connected(self, **options):
        arm = self.arm(**options)
        arm.connect()
        return arm

    def register(self, joint, name):
        return self.bus.servos[JOINT_NAMES.index(joint)].memory.get(name)

    def goals(self):
        return [decode_sign(servo.memory.get("Goal_Position"), 15) for servo in self.bus.servos]

    def close(self):
        for arm in self.arms:
            arm.close()
        self.port.close()


def impatient(arm):
    """`arm`, soon giving up on a servo that is meant to be silent."""
    arm._link._retries = 2
    return arm


def settled(arm):
    """The reading once the joints have arrived."""
    for _ in range(10):
        state = arm.read()
    return state


def watch_goals(rig):
    """Every Goal_Position each servo was given, and the order torque went off, as they happen."""
    seen = SimpleNamespace(goals=[[] for _ in range(6)], released=[])
    for joint in range(6):

        def record(index, rad, joint=joint):
            if rad is None and rig.body.goal[index] is not None:
                seen.released.append(index)
            elif rad is not None:
                seen.goals[index].append(rad)
            rig.body.goal[index] = rad

        rig.body.set_goal_rad = record
    return seen
