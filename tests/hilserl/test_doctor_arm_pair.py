"""The pre-flight's checks of two calibrated arms, on simulated servos behind real pseudo-terminals."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from hilserl.config_loading import load_config
from hilserl.doctor import arm_pair
from hilserl.doctor.checks import CHECKS
from hilserl.doctor.context import Context, Declined, Missing
from hilserl.doctor.findings import Status
from hilserl.doctor.preflight import run_checks
from robot import devices
from robot.calibrate_touch import SHEET_M, judge_touch, save_touch
from robot.calibration import RAD_PER_COUNT, Calibration, save_calibration
from robot.devices import SerialPort, bind_port
from robot.twin.world_body import store_calibration
from robot.types import JOINT_NAMES
from tests.fakes.servo_rig import Rig

WIRE = "configs/twin_wire_config.json"
NAMES = ("calibration_spans", "calibration_middle", "touch_residual", "arm_binding", "leader_agreement")
CHOSEN = [check for check in CHECKS if check.name in NAMES]


class Pair:
    """A follower and a leader, held in the same pose."""

    def __init__(self, folder):
        self.arms = {}
        for role in ("follower", "leader"):
            (folder / role).mkdir()
            self.arms[role] = Rig(folder / role)
        self.folder, self.answer, self.asked = folder, True, []
        shift = [replace(one, homing_offset=7) for one in self.calibration("leader").joints]
        self.calibrate("leader", shift)

    def calibration(self, role):
        return self.arms[role].calibration

    def calibrate(self, role, joints):
        """File and servos take these joints; the arm stays where it is."""
        rig = self.arms[role]
        rig.calibration = Calibration(tuple(joints), role)
        save_calibration(rig.calibration, rig.folder, "arm")
        store_calibration(rig.bus, rig.calibration)
        for servo, joint in zip(rig.bus.servos, rig.calibration.joints, strict=True):
            servo._zero = 2048 + joint.homing_offset

    def span(self, role, name, low, high):
        joints = self.calibration(role).joints
        self.calibrate(
            role,
            [replace(joint, range_min=low, range_max=high) if one == name else joint
             for one, joint in zip(JOINT_NAMES, joints, strict=True)],
        )  # fmt: skip

    def words(self, leader=True):
        follower, lead = self.arms["follower"], self.arms["leader"]
        words = [f"--robot.port={follower.port.port}", f"--robot.calibration_dir={follower.folder}"]
        words += ["--robot.id=arm", "--robot.bus_retries=10", f"--output_dir={self.folder}"]
        if leader:
            words += ["--teleop.type=leader", f"--teleop.port={lead.port.port}", "--teleop.id=arm"]
            words += [f"--teleop.calibration_dir={lead.folder}"]
        return words

    def context(self, leader=True):
        config = load_config(WIRE, self.words(leader))

        def ask(question):
            self.asked.append(question)
            return self.answer

        return Context(config, self.folder, lambda _: None, ask)

    def findings(self, leader=True):
        """{check: finding} of this module's checks, as the pre-flight makes them."""
        with self.context(leader) as context:
            return {one.check: one for one in run_checks(context, CHOSEN, lambda _: None).findings}

    def close(self):
        for rig in self.arms.values():
            rig.close()


@pytest.fixture
def pair(tmp_path):
    pair = Pair(tmp_path)
    yield pair
    pair.close()


def energised(pair):
    return [servo.memory.get("Torque_Enable") for rig in pair.arms.values() for servo in rig.bus.servos]


def test_every_check_is_made_and_a_sound_pair_is_green_without_torque(pair):
    save_touch(
        judge_touch(SHEET_M, SHEET_M), pair.calibration("follower"), pair.arms["follower"].folder, "arm"
    )
    found = pair.findings()
    assert len(CHOSEN) == len(NAMES) and set(NAMES) <= set(found)
    assert {one.status for name, one in found.items() if name != "arm_binding"} == {Status.OK}
    assert "hilserl calibrate --bind" in found["arm_binding"].value
    assert found["arm_binding"].status is Status.SKIPPED
    assert energised(pair) == [0] * 12


# --- leader and follower in one pose ------------------------------------------------------------------------


@pytest.mark.parametrize("joint", range(5))
@pytest.mark.parametrize(("off_deg", "good"), [(2.5, True), (-2.5, True), (3.6, False), (-12.5, False)])
def test_arms_that_disagree_by_three_degrees_are_red_and_the_joint_named(pair, joint, off_deg, good):
    pair.arms["leader"].body.q_rad[joint] += np.radians(off_deg)
    finding = pair.findings()["leader_agreement"]
    assert finding.status is (Status.OK if good else Status.FAIL)
    told = re.search(
        rf"{JOINT_NAMES[joint]} ([+-][\d.]+)|([+-][\d.]+) \({JOINT_NAMES[joint]}\)", finding.value
    )
    assert float(told[1] or told[2]) == pytest.approx(off_deg, abs=0.2)
    assert energised(pair) == [0] * 12


def test_a_leaders_trigger_is_not_compared(pair):
    pair.arms["leader"].body.q_rad[5] += 0.6
    assert pair.findings()["leader_agreement"].status is Status.OK


def test_without_a_leader_it_says_what_is_needed(pair):
    found = pair.findings(leader=False)
    for name in ("leader_agreement", "leader_spans"):
        assert found[name].status is Status.SKIPPED
        assert 'teleop.type "leader", with teleop.port and .id' in found[name].value
    assert found["calibration_spans"].status is Status.OK
    with pair.context(leader=False) as context, pytest.raises(Missing):
        arm_pair.agreement(context)
    assert pair.asked == [], "nobody is asked to hold an arm that is not there"


def test_nobody_who_holds_the_arms_is_no_agreement(pair):
    pair.answer = False
    assert pair.findings()["leader_agreement"].status is Status.SKIPPED
    assert "without torque" in pair.asked[0]
    with pair.context() as context, pytest.raises(Declined):
        arm_pair.agreement(context)


def test_a_follower_that_holds_is_not_let_go_for_it(pair):
    pair.arms["follower"].connected()._link.close()
    finding = pair.findings()["leader_agreement"]
    assert finding.status is Status.FAIL and "hold torque" in finding.value
    assert energised(pair)[:6] == [1] * 6


def test_swapped_ports_are_told_by_the_servos(pair):
    config = load_config(WIRE, pair.words())
    swapped = replace(
        config,
        robot=replace(config.robot, port=config.teleop.port),
        teleop=replace(config.teleop, port=config.robot.port),
    )
    with Context(swapped, pair.folder, lambda _: None, lambda _: True) as context:
        (finding,) = run_checks(context, [CHOSEN[-1]], lambda _: None).findings
    assert finding.status is Status.FAIL and "the ports are swapped" in finding.value


# --- calibrations -------------------------------------------------------------------------------------------


def test_the_field_reports_leader_is_blamed(pair):
    """Field report 62: wrist roll over 2129 counts at the leader, over 4095 at the follower."""
    pair.span("leader", "wrist_roll", 983, 3112)
    found = pair.findings()
    assert found["leader_spans"].status is Status.FAIL
    assert "wrist_roll spans 2129 counts, a full turn is 4095" in found["leader_spans"].value
    assert found["calibration_spans"].status is Status.OK


def test_a_short_span_of_the_follower_is_blamed_on_it(pair):
    pair.span("follower", "elbow_flex", 1400, 2696)
    found = pair.findings()
    assert found["calibration_spans"].status is Status.FAIL
    assert "elbow_flex spans 1296 counts" in found["calibration_spans"].value
    assert found["leader_spans"].status is Status.OK


def test_arms_within_the_models_tolerance_may_still_differ_too_much(pair):
    middle = 2048
    for role, share in (("follower", 0.94), ("leader", 1.06)):
        joint = pair.calibration(role).joints[2]
        half = round(share * (joint.range_max - joint.range_min) / 2)
        pair.span(role, "elbow_flex", middle - half, middle + half)
    found = pair.findings()
    assert found["leader_spans"].status is Status.OK
    assert "the leader 'arm'" in found["calibration_spans"].value
    assert found["calibration_spans"].status is Status.FAIL


@pytest.mark.parametrize(
    ("off_deg", "status"), [(0, Status.OK), (14, Status.OK), (16, Status.WARN), (-20, Status.WARN)]
)
@pytest.mark.parametrize("name", ["shoulder_pan", "elbow_flex"])
def test_a_middle_that_was_none_warns(pair, name, off_deg, status):
    off = round(np.radians(off_deg) / RAD_PER_COUNT)
    joint = pair.calibration("follower").joints[JOINT_NAMES.index(name)]
    pair.span("follower", name, joint.range_min + off, joint.range_max + off)
    finding = pair.findings()["calibration_middle"]
    assert finding.status is status and name in finding.value or off_deg == 0


@pytest.mark.parametrize(
    ("off_m", "status"), [(0.004, Status.OK), (0.011, Status.WARN), (0.021, Status.FAIL), (None, Status.WARN)]
)
def test_the_touch_test_is_judged_by_its_residual(pair, off_m, status):
    folder, calibration = pair.arms["follower"].folder, pair.calibration("follower")
    if off_m is not None:
        save_touch(judge_touch(SHEET_M, SHEET_M + (0, 0, off_m)), calibration, folder, "arm")
    finding = pair.findings()["touch_residual"]
    assert finding.status is status
    assert (f"{1000 * off_m:g} mm" if off_m else "never made") in finding.value


def test_a_touch_test_of_another_calibration_says_nothing(pair):
    folder = pair.arms["follower"].folder
    save_touch(judge_touch(SHEET_M, SHEET_M), pair.calibration("leader"), folder, "arm")
    assert pair.findings()["touch_residual"].status is Status.WARN


# --- adapters ----------------------------------------------------------------------------------------------


def test_an_arm_named_by_its_serial_number_is_found_wherever_it_is(pair, monkeypatch):
    there = [SerialPort(pair.arms["follower"].port.port, "5A46")]
    monkeypatch.setattr(devices, "serial_ports", lambda: there)
    config = load_config(WIRE, [*pair.words(), "--robot.port=serial:5A46"])
    check = next(check for check in CHECKS if check.name == "ports")
    with Context(config, pair.folder, lambda _: None, lambda _: True) as context:
        (finding,) = run_checks(context, [check], lambda _: None).findings
        assert finding.status is Status.OK
        there.clear()
        (finding,) = run_checks(context, [check], lambda _: None).findings
    assert finding.status is Status.FAIL and "'5A46'; is the arm plugged in? There is: none" in finding.value


def test_arms_whose_cables_were_exchanged_are_red(pair, monkeypatch):
    ports = [pair.arms[role].port.port for role in ("follower", "leader")]
    numbers = ["5A46", "5A47"]
    monkeypatch.setattr(devices, "serial_ports", lambda: list(map(SerialPort, ports, numbers)))
    for role, port in zip(("follower", "leader"), ports, strict=True):
        bind_port(pair.arms[role].folder, "arm", port)
    found = pair.findings()
    assert found["arm_binding"].status is Status.OK and found["leader_agreement"].status is Status.OK
    numbers.reverse()
    found = pair.findings()
    assert found["arm_binding"].status is Status.FAIL
    assert "serial:5A46" in found["arm_binding"].value and "serial:5A47" in found["arm_binding"].value
