"""Checks of calibrations: spans, middle, touch test, and how leader and follower agree.

No torque comes on; of the leader only torque that should not be there is switched off.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hilserl.controls import build_leader_arm
from hilserl.doctor.context import Context, Declined, Missing
from hilserl.doctor.findings import Finding, Status, graded, judged
from hilserl.doctor.servos import calibration_of
from robot.calibrate import (
    FOLLOWER,
    LEADER,
    MIDDLE_OFF_DEG,
    SPAN_OFF,
    OtherArm,
    other_faults,
    shown,
    span_faults,
    spans_of,
)
from robot.calibrate_arm import ReleasedArm
from robot.calibrate_touch import HOW, REFUSE_M, WARN_M, load_touch
from robot.calibration import COUNTS_PER_TURN, RAD_PER_COUNT, Calibration, load_calibration
from robot.devices import bound_file, check_port
from robot.errors import CalibrationError, DeviceError
from robot.teleop.leader_arm import AGREE_DEG, pose_differences_deg
from robot.timing import RealClock
from robot.types import JOINT_NAMES, WRIST_ROLL

AGAIN = "move each joint to both its stops, the wrist a full turn: hilserl calibrate"


def _leader(context: Context) -> OtherArm:
    """The leader's calibration. Raises Missing where the configuration has no leader arm."""
    teleop = context.config.teleop
    if teleop.type != "leader":
        raise Missing(f'needs a leader arm: teleop.type "leader", with teleop.port and .id ("{teleop.type}")')
    folder = Path(teleop.calibration_dir)
    return OtherArm(teleop.id, LEADER, load_calibration(folder, teleop.id, teleop.port, LEADER))


def spans(context: Context) -> list[Finding]:
    """Every joint was calibrated over the span it has, by the arm model and by the leader arm."""
    calibration, other = calibration_of(context), None
    try:
        other = _leader(context)
        wrong_there = [f"{name} {fault}" for name, fault in other_faults(other).items()]
        value = "; ".join(wrong_there) or _table(other.calibration)
        leader = judged("leader_spans", not wrong_there, value, _limit(), f"{AGAIN} --leader")
    except Missing as reason:
        leader = Finding("leader_spans", Status.SKIPPED, str(reason))
    except CalibrationError as error:
        leader = Finding("leader_spans", Status.FAIL, str(error))
    faults = span_faults(spans_of(calibration), FOLLOWER, other)
    wrong = [f"{name} {fault}" for name, fault in faults.items()]
    value = "; ".join(wrong) or _table(calibration)
    return [judged("calibration_spans", not wrong, value, _limit(), AGAIN), leader]


def middle(context: Context) -> list[Finding]:
    """Servos show half a turn in the pose that was held as the middle: is that the middle of their range?"""
    joints, half = calibration_of(context).joints, COUNTS_PER_TURN // 2 - 1
    off_deg = {
        name: float(np.degrees(((joint.range_min + joint.range_max) / 2 - half) * RAD_PER_COUNT))
        for name, joint in zip(JOINT_NAMES[:WRIST_ROLL], joints, strict=False)
    }
    wrong = [f"{name} {off:+.0f} degrees" for name, off in off_deg.items() if abs(off) > MIDDLE_OFF_DEG]
    worst = max(off_deg, key=lambda name: abs(off_deg[name]))
    value = "; ".join(wrong) or f"at most {off_deg[worst]:+.1f} degrees ({worst})"
    status = Status.WARN if wrong else Status.OK
    advice = "it was not held in its middle, or not moved to both stops: calibrate again (hilserl calibrate)"
    return [Finding("calibration_middle", status, value, f"{MIDDLE_OFF_DEG:.0f} degrees", advice)]


def touch(context: Context) -> list[Finding]:
    """How far off the hand was when it touched marked points, with this very calibration."""
    calibration, robot = calibration_of(context), context.config.robot
    kept = load_touch(calibration, robot.calibration_dir, robot.id)
    warn, fail = 1000 * WARN_M, 1000 * REFUSE_M
    if kept is None:
        value, limit = "never made with this calibration", f"warn {warn:g}, fail {fail:g} mm"
        return [Finding("touch_residual", Status.WARN, value, limit, f"it takes a sheet of paper: {HOW}")]
    found, when = kept
    advice = f"{found.lines()[-1]}; repeat it: {HOW}"
    finding = graded("touch_residual", 1000 * found.residual_m, warn, fail, "mm", advice)
    return [finding, Finding("touch_test", Status.OK, f"made {when} at {len(found.points_m)} points")]


def binding(context: Context) -> list[Finding]:
    """The adapter at each arm's port is the one it was calibrated behind: cables may have been swapped."""
    calibration_of(context)
    robot, teleop = context.config.robot, context.config.teleop
    arms = [(robot.calibration_dir, robot.id, robot.port)]
    if teleop.type == "leader":
        arms.append((teleop.calibration_dir, teleop.id, teleop.port))
    wrong, known = [], []
    for folder, arm_id, port in arms:
        try:
            check_port(folder, arm_id, port)
        except DeviceError as error:
            wrong.append(str(error))
        if bound_file(folder, arm_id).is_file():
            known.append(arm_id)
    if not known:
        raise Missing("no arm is known by its adapter's serial number: hilserl calibrate --bind")
    value = "; ".join(wrong) or f"{', '.join(known)} as calibrated"
    return [judged("arm_binding", not wrong, value, "the same adapter", "set the port to its serial number")]


def agreement(context: Context) -> list[Finding]:
    """Leader and follower, held in the same pose, read the same."""
    calibration, robot = calibration_of(context), context.config.robot
    _leader(context)
    if not context.agreed("leader and follower, both without torque, are held in the same pose: are they?"):
        raise Declined("nobody said that both arms are held in the same pose")
    clock = RealClock()
    ids = {name: joint.id for name, joint in zip(JOINT_NAMES, calibration.joints, strict=True)}
    leader = build_leader_arm(context.config, context.say)
    with ReleasedArm(robot.port, ids, FOLLOWER, clock, context.say) as follower:
        leader.connect()
        try:
            there, here = leader.read(), calibration.rad(shown(follower.raw(), calibration))
        finally:
            leader.close()
    off = pose_differences_deg(there, here)
    wrong = [f"{name} {degrees:+.1f}" for name, degrees in off.items() if abs(degrees) > AGREE_DEG]
    worst = max(off, key=lambda name: abs(off[name]))
    value = f"leader less follower: {', '.join(wrong) or f'at most {off[worst]:+.1f} ({worst})'} degrees"
    advice = "were they in the same pose, lying folded for example? If so, calibrate the one that is wrong"
    return [judged("leader_agreement", not wrong, value, f"{AGREE_DEG:g} degrees", advice)]


def _limit() -> str:
    return f"within {100 * SPAN_OFF:.0f} % of the arm model's and the other arm's"


def _table(calibration: Calibration) -> str:
    return ", ".join(f"{name} {span}" for name, span in spans_of(calibration).items())
