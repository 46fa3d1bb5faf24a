"""Every check, in the order they are made: what needs no torque comes first."""

from __future__ import annotations

from hilserl.doctor import demonstrations, learning, motion, servos, software, task
from hilserl.doctor.context import Check

CHECKS: tuple[Check, ...] = (
    Check("python", "software", software.python),
    Check("imports", "software", software.imports),
    Check("device", "software", software.device),
    Check("disk", "software", software.disk),
    Check("memory", "software", software.memory),
    Check("clock", "software", software.clock),
    Check("encoder", "software", software.encoder),
    Check("record", "task", task.record),
    Check("reset_reach", "task", task.reset_pose),
    Check("box", "task", task.box),
    Check("action_scale", "task", task.scale),
    Check("box_floor", "task", task.clearance),
    Check("absolute_paths", "task", task.paths),
    Check("ports", "arm", software.ports),
    Check("servo_identity", "arm", servos.identity),
    Check("servo_supply", "arm", servos.supply),
    Check("servo_faults", "arm", servos.faults),
    Check("servo_calibration", "arm", servos.eeprom),
    Check("calibration_spans", "arm", servos.spans),
    Check("joint_motion", "motion", motion.joints),
    Check("unit_actions", "motion", motion.unit_actions),
    Check("gripper_round_trip", "motion", motion.gripper),
    Check("zero_action_drift", "motion", motion.holding),
    Check("reset_repeatability", "motion", motion.resets),
    Check("control_rate", "motion", motion.rate),
    Check("demo_task", "demonstrations", demonstrations.record),
    Check("demo_actions", "demonstrations", demonstrations.actions),
    Check("demo_places", "demonstrations", demonstrations.places),
    Check("normalised_inputs", "demonstrations", demonstrations.inputs),
    Check("policy_inputs", "learning", learning.sensitivity),
    Check("loopback", "learning", learning.loopback),
    Check("resume_equality", "learning", learning.resume),
)
GROUPS = tuple(dict.fromkeys(check.group for check in CHECKS))
"""Names of the groups, in order."""
