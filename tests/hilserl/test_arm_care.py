"""Laws of how the mind treats a real arm: it waits while the arm is away, parks it, and says how it is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hilserl.arm_metrics import ArmMetrics
from hilserl.body import ManualScene, _park
from hilserl.env import AGAIN_S, BUS_PATIENCE_S, Env
from hilserl.metrics import check_metrics
from hilserl.rollout import HoldStill, rollout
from hilserl.types import End
from robot.errors import BusError, ServoFault, TorqueLost, WatchdogLost
from robot.health import LinkStats, ServoHealth
from robot.kinematics import Kinematics
from tests.fakes.arm import FakeArm, HandClock
from tests.fakes.body import LIFT, BlankCamera, Says


class AwayArm(FakeArm):
    """`trouble`: what each next reading raises; None for a good one."""

    def __init__(self):
        super().__init__()
        self.trouble = []
        self.reads = 0

    def read(self):
        self.reads += 1
        if self.trouble and (error := self.trouble.pop(0)):
            raise error
        return super().read()


@pytest.fixture
def waiting():
    """An Env on an AwayArm; `unwell` holds why it must not move."""
    arm, clock, why = AwayArm(), HandClock(), SimpleNamespace(unwell="")
    scene = SimpleNamespace(arrange=lambda seed: {})
    env = Env(
        task=LIFT,
        arm=arm,
        cameras={"gripper_cam": BlankCamera()},
        clock=clock,
        kinematics=Kinematics(),
        scene=scene,
        max_joint_speed=4.0,
        unwell=lambda: why.unwell,
    )
    return SimpleNamespace(env=env, arm=arm, clock=clock, why=why)


def test_an_arm_that_is_well_is_not_waited_for(waiting):
    before = waiting.clock.now_s()
    assert waiting.env.await_arm(lambda: True)
    assert waiting.clock.now_s() == before


@pytest.mark.parametrize("error", [BusError("cable"), TorqueLost("limp")])
def test_an_arm_that_is_away_is_waited_for(waiting, error):
    waiting.arm.trouble = [error] * 7
    before = waiting.clock.now_s()
    assert waiting.env.await_arm(lambda: False)
    assert waiting.clock.now_s() - before == pytest.approx(7 * AGAIN_S)


def test_a_cable_that_stays_out_is_an_error_after_a_while(waiting):
    waiting.arm.trouble = [BusError("cable")] * 9999
    before = waiting.clock.now_s()
    with pytest.raises(BusError):
        waiting.env.await_arm(lambda: False)
    assert BUS_PATIENCE_S <= waiting.clock.now_s() - before < BUS_PATIENCE_S + 5


@pytest.mark.parametrize("error", [ServoFault("latched"), WatchdogLost("gone")])
def test_what_does_not_pass_is_not_waited_for(waiting, error):
    waiting.arm.trouble = [error]
    with pytest.raises(type(error)):
        waiting.env.await_arm(lambda: False)


def test_an_unwell_arm_is_waited_for_until_it_is_well_or_a_stop(waiting):
    waiting.why.unwell = "hot"
    asked = []

    def stop():
        asked.append(1)
        if len(asked) == 300:
            waiting.why.unwell = ""
        return False

    assert waiting.env.await_arm(stop) and len(asked) == 300
    waiting.why.unwell = "hot"
    assert not waiting.env.await_arm(lambda: True)


def test_an_episode_asked_to_stop_while_the_arm_is_away_has_not_begun(waiting):
    waiting.why.unwell = "hot"
    begun = []
    listener = SimpleNamespace(begin=begun.append, step=begun.append)
    played = rollout(
        env=waiting.env,
        policy=HoldStill(),
        teleop=Says(),
        reward=None,
        seed=0,
        max_steps=3,
        listeners=(listener,),
        should_stop=lambda: True,
    )
    assert (played.end, played.stopped, played.steps, begun) == (End.DISCARDED, True, 0, [])
    assert waiting.arm.commands == []


# --- on the way out -----------------------------------------------------------------------------------------


def test_what_goes_wrong_in_parking_is_said_and_hides_nothing():
    said = []

    class Stuck(FakeArm):
        def park(self):
            raise ServoFault("parked and released, but wrist_flex: overloaded (servo 4)")

    _park(Stuck(), said.append)
    assert said == ["ServoFault: parked and released, but wrist_flex: overloaded (servo 4)"]


def test_placing_the_object_is_a_pause_the_watchdog_knows_of():
    clock, order = HandClock(), []

    class Pause:
        def __enter__(self):
            order.append(("in", clock.now_s()))

        def __exit__(self, *_):
            order.append(("out", clock.now_s()))

    ManualScene(clock, 7.0, lambda line: None, Pause).arrange(0)
    (_, begin_s), (_, end_s) = order
    assert end_s - begin_s == pytest.approx(7.0)


# --- numbers ------------------------------------------------------------------------------------------------


def test_the_rows_numbers_are_of_the_time_since_the_last_row():
    healthy = ServoHealth("gripper", 31.0, 7.3, -0.2, 0.1, "")
    servos = SimpleNamespace(stats=LinkStats(10, 5, 1), last_health=())
    row = ArmMetrics(servos)
    servos.stats.exchanges, servos.stats.retries, servos.stats.failures = 110, 15, 3
    assert row() == {"actor/bus_retry_share": 0.1, "actor/bus_failures": 2}
    servos.last_health = (healthy, replace(healthy, temperature_c=44.0, voltage_v=6.9, load=0.1))
    last = row()
    assert last == {
        "actor/bus_retry_share": 0.0,
        "actor/bus_failures": 0,
        "actor/hottest_servo_c": 44.0,
        "actor/lowest_voltage_v": 6.9,
        "actor/largest_load": 0.2,
    }
    check_metrics(last)
    assert ArmMetrics(None)() == {}
    assert np.isfinite(list(last.values())).all()
