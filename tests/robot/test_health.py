"""Laws of the arm's health: when it is told, when the arm holds for it, and what looking at it costs."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.errors import BusError, CommandRefused, ServoUnwell, TorqueLost
from robot.guard import Guard
from robot.health import CHECK_S, HealthLimits, HealthWatch, ServoHealth
from robot.servo_state import HEALTH_SIZE, STATE_SIZE
from robot.timing import RealClock
from robot.twin.registers import REGISTERS
from robot.types import GRIPPER
from tests.fakes.servo_rig import POSE, Rig

LIMITS = HealthLimits()
GOOD = {"temperature_c": 30.0, "voltage_v": 7.4, "load": 0.1, "current_a": 0.2}
WARN = {"temperature_c": 60.0, "voltage_v": 4.6, "load": -0.8, "current_a": 1.8}
PAUSE = {"temperature_c": 68.0, "voltage_v": 4.0, "load": -0.95, "current_a": 2.5}
STEP_S = 0.4


def reading(joint="elbow_flex", **changes):
    return ServoHealth(joint, **(GOOD | changes), faults="")


def told(watch, values, start_s=0.0):
    """Every line of a series of readings, STEP_S apart."""
    return [
        line
        for index, value in enumerate(values)
        for line in watch.update([reading(**value)], start_s + index * STEP_S)
    ]


# --- the rules ----------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "temperature_c": st.floats(0, LIMITS.warn_temperature_c),
                "voltage_v": st.floats(LIMITS.warn_voltage_v, 13),
                "load": st.floats(-LIMITS.warn_load, LIMITS.warn_load),
                "current_a": st.floats(0, LIMITS.warn_current_a),
            }
        ),
        max_size=20,
    )
)
def test_within_the_limits_nothing_is_said(values):
    watch = HealthWatch(LIMITS)
    assert told(watch, values) == []
    assert watch.pause == ""


@settings(max_examples=100)
@given(st.lists(st.floats(20, 80), min_size=1, max_size=40))
def test_the_arm_holds_from_the_pause_limit_until_well_within_the_warning(temperatures):
    """Against the rule written out for one servo and one quantity."""
    watch, paused = HealthWatch(LIMITS), False
    for index, value in enumerate(temperatures):
        watch.update([reading(temperature_c=value)], float(index))
        paused = value > LIMITS.pause_temperature_c or (paused and value >= LIMITS.warn_temperature_c - 2)
        assert bool(watch.pause) == paused


@pytest.mark.parametrize("name", GOOD)
def test_a_warning_is_said_once_and_its_end_too(name):
    watch = HealthWatch(LIMITS)
    lines = told(watch, [GOOD, *[{name: WARN[name]}] * 20, *[GOOD] * 5])
    assert len(lines) == 2
    assert lines[0].startswith("warning: elbow_flex: ") and lines[1].endswith("well again")
    assert f"{abs(WARN[name]):.1f}" in lines[0].replace(" C", ".0")
    assert watch.pause == ""


@pytest.mark.parametrize("name", GOOD)
def test_what_lasts_pauses_and_is_said_once(name):
    watch = HealthWatch(LIMITS)
    lines = told(watch, [GOOD, *[{name: PAUSE[name]}] * 20])
    assert sum(line.startswith("PAUSE: elbow_flex: ") for line in lines) == 1
    assert watch.pause in lines[-1]
    lines = told(watch, [{name: WARN[name]}] * 5, 100.0)
    assert watch.pause, "between the limits it is not over"
    lines = told(watch, [GOOD], 200.0)
    assert watch.pause == "" and len(lines) == 1


@pytest.mark.parametrize("name", ["voltage_v", "load", "current_a"])
def test_a_peak_is_no_fault(name):
    watch = HealthWatch(LIMITS)
    assert told(watch, [GOOD, *[{name: PAUSE[name]}] * 3, GOOD] * 10) == []


def test_each_servo_is_judged_by_itself():
    watch = HealthWatch(LIMITS)
    watch.update([reading("elbow_flex", temperature_c=70.0), reading("gripper", temperature_c=72.0)], 0.0)
    assert "elbow_flex" in watch.pause and "gripper" in watch.pause
    watch.update([reading("elbow_flex"), reading("gripper", temperature_c=72.0)], 1.0)
    assert "elbow_flex" not in watch.pause and "gripper" in watch.pause


# --- at the wire --------------------------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def guarded(rig, **options):
    """(guard, servos, what was said) on the rig."""
    said = []
    servos = rig.connected(say=said.append, **options)
    guard = Guard(servos, rig.clock, max_joint_speed_rad_s=4.0, watchdog_s=0.5, unwell=lambda: servos.unwell)
    return guard, servos, said


def later(rig, guard, seconds=8 * CHECK_S):
    """Time passes, with the arm read at 10 Hz."""
    for _ in range(round(seconds / 0.1)):
        rig.clock.t_s += 0.1
        guard.read()


HEAT, VOLTS, LOAD = ("heat_c", 60.0, 70.0), ("voltage_v", 4.6, 4.0), ("load", 0.75, -0.95)


@pytest.mark.parametrize(("what", "warn", "pause"), [HEAT, VOLTS, LOAD], ids=["heat", "voltage", "load"])
def test_a_servo_that_is_unwell_is_told_then_holds_the_arm_and_lets_it_go_when_well(rig, what, warn, pause):
    limits = HealthLimits(warn_current_a=9.0, pause_current_a=9.0)  # it goes with the load
    guard, _, said = guarded(rig, health=limits)
    pose = np.array(POSE, np.float32)
    guard.command(pose)
    getattr(rig.faults, what)[4] = warn
    later(rig, guard)
    assert len(said) == 1 and said[0].startswith("warning: wrist_flex: ")
    guard.command(pose)
    getattr(rig.faults, what)[4] = pause
    later(rig, guard)
    assert said[1].startswith("PAUSE: wrist_flex: ")
    away = pose + np.float32(0.01)
    with pytest.raises(ServoUnwell, match=r"the arm holds and does not move: wrist_flex: .* at (most|least)"):
        guard.command(away)
    assert guard.holding
    assert rig.body.goal == pytest.approx(POSE, abs=0.005)
    getattr(rig.faults, what).clear()
    later(rig, guard)
    assert said[2].endswith("well again") and len(said) == 3
    guard.command(away)
    assert not guard.holding


def test_looking_at_the_health_costs_no_exchange_of_its_own_and_comes_more_than_once_a_second(rig):
    servos = rig.connected()
    sizes, answer = [], rig.bus.receive

    def overhear(data):
        sizes.append(data[6])  # of the sync read: header, 0xfe, length, instruction, address, size
        return answer(data)

    rig.bus.receive = overhear
    before = servos.stats.exchanges
    for _ in range(100):
        rig.clock.t_s += 0.1
        servos.read()
    assert servos.stats.exchanges - before == 100
    assert set(sizes) == {STATE_SIZE, HEALTH_SIZE}
    looks = [index for index, size in enumerate(sizes) if size == HEALTH_SIZE]
    assert max(np.diff(looks)) * 0.1 < 1.0
    assert len(looks) < 0.4 * len(sizes)


def test_an_arm_nobody_reads_is_looked_at_by_its_guard(rig):
    rig.clock = RealClock()
    guard, _, said = guarded(rig)
    try:
        guard.command(np.array(POSE, np.float32))
        rig.faults.heat_c[2] = 60.0
        end_s = time.monotonic() + 20
        while not said and time.monotonic() < end_s:
            time.sleep(0.05)
        assert said and said[0].startswith("warning: shoulder_lift: temperature 60 C")
    finally:
        guard.close()


def test_health_is_what_the_registers_hold(rig):
    rig.faults.heat_c[3], rig.faults.voltage_v[3], rig.faults.load[3] = 41.0, 11.9, -0.25
    servo = rig.connected().health()[2]
    assert (servo.joint, servo.temperature_c, servo.voltage_v, servo.load) == (
        "elbow_flex",
        41.0,
        11.9,
        -0.25,
    )
    assert servo.current_a == pytest.approx(0.25 * 415 * 0.0065, abs=0.01)
    end = REGISTERS["Present_Current"].address + REGISTERS["Present_Current"].size
    assert end - REGISTERS["Torque_Enable"].address == HEALTH_SIZE


# --- servos that lost their torque --------------------------------------------------------------------------


def dip(rig, joint):
    """The supply of one servo is gone for a moment: it is limp, and answers as if nothing had happened."""
    rig.bus.servos[joint].power_cycle()


def test_a_servo_whose_supply_dipped_is_found_and_not_driven(rig):
    guard, servos, _ = guarded(rig)
    target = np.array(POSE, np.float32)
    guard.command(target)
    guard.read()
    dip(rig, 1)
    rig.body.q_rad[1] = -1.6  # it sagged
    with pytest.raises(TorqueLost, match=r"shoulder_lift lost torque.*holds again where it is"):
        guard.read()
    held = [*POSE[:1], -1.6, *POSE[2:]]
    assert rig.body.goal == pytest.approx(held, abs=0.005)
    with pytest.raises(ServoUnwell, match="lost its torque and holds again; it may move in"):
        guard.command(target)
    assert rig.body.goal == pytest.approx(held, abs=0.005)
    rig.clock.t_s += 10.0
    with pytest.raises(CommandRefused, match="'shoulder_lift' was asked to go from"):
        guard.command(target)  # where it was, not where it is: a leap
    here = np.array(held, np.float32)
    guard.command(here)
    assert servos.unwell == ""


@pytest.mark.parametrize("supply_too", [False, True])
def test_a_goal_never_reaches_servos_nobody_looked_at_since_the_cable_was_out(rig, supply_too):
    servos = rig.connected()
    away = np.array(POSE, np.float32) + np.float32(0.2)
    away[GRIPPER] = POSE[GRIPPER]
    servos.read()
    rig.port.unplug()
    if supply_too:
        rig.bus.power_cycle()
    rig.port.plug()
    goals, answer = [], rig.bus.receive

    def overhear(data):
        result = answer(data)
        goals.append((list(rig.body.goal), [servo.memory.get("Torque_Enable") for servo in rig.bus.servos]))
        return result

    rig.bus.receive = overhear
    if supply_too:
        for error in (BusError, TorqueLost):  # the write meets the dead port, the next looks at the servos
            with pytest.raises(error):
                servos.command(away)
        for goal, torque in goals:
            for joint in range(6):
                assert not torque[joint] or goal[joint] == pytest.approx(POSE[joint], abs=0.01)
        assert rig.body.goal == pytest.approx(POSE, abs=0.01), "it holds where it is"
    else:
        with pytest.raises(BusError, match="USB cable"):
            servos.command(away)
        servos.command(away)
        servos.read()
        assert rig.body.goal == pytest.approx(away, abs=0.005)
