"""Checks of the task record and the configuration: what can be wrong before anything is switched on."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from hilserl.config_checks import MIN_ACTION_SCALE_M, MIN_BOX_SIDE_M
from hilserl.doctor.context import Context
from hilserl.doctor.findings import Finding, Status, judged
from hilserl.env import RESET_CLEARANCE_M, RESET_TOLERANCE_M, reset_posture
from hilserl.task_record import task_hash
from robot.kinematics import F64, JOINT_MARGIN_RAD, Kinematics, working_limits
from robot.types import GRIPPER, JOINT_NAMES, NUM_JOINTS, WRIST_ROLL

SMALL_BOX_M = 0.08
"""A side of the box below this leaves a task hardly any room."""


def record(context: Context) -> list[Finding]:
    """The task record, by name and hash: what must be the same everywhere."""
    task = context.config.task
    value = f"{task.name} ({task_hash(task)}), {task.fps:g} steps/s, episodes of {task.control_time_s:g} s"
    return [Finding("record", Status.OK, value)]


def starts(context: Context) -> F64:
    """Corners and centre (N, 3) [m] of where the hand may start."""
    task = context.config.task
    spread = np.array([task.random_ee_range_xy, task.random_ee_range_xy, task.random_ee_range_z])
    spread = spread if task.random_ee_reset else np.zeros(3)
    corners = [np.array(task.reset_xyz) + spread * signs for signs in product((-1, 0, 1), repeat=3)]
    return np.unique(np.array(corners), axis=0)


def reset_pose(context: Context) -> list[Finding]:
    """Every start can be reached with room to every joint limit."""
    task, limits = context.config.task, Kinematics().limits
    kinematics = Kinematics(working_limits(limits))
    margin, miss, where = np.inf, 0.0, ""
    for start in starts(context):
        q = reset_posture(task, kinematics, start)
        miss = max(miss, float(np.linalg.norm(kinematics.fk(q).xyz_m - start)))
        room = np.minimum(q - limits.lower_rad, limits.upper_rad - q)
        room[[WRIST_ROLL, GRIPPER]] = np.inf  # these two are chosen, not solved for
        worst = int(np.argmin(room))
        if room[worst] < margin:
            margin, where = float(room[worst]), JOINT_NAMES[worst]
    return [
        judged(
            "reset_reach",
            miss <= RESET_TOLERANCE_M,
            f"misses a start by {miss * 1000:.1f} mm at most, {np.degrees(margin):.1f} degrees from the end "
            f"of {where}",
            f"{RESET_TOLERANCE_M * 1000:.0f} mm, with {np.degrees(JOINT_MARGIN_RAD):.0f} degrees of room",
            "move task.reset_xyz or shrink task.random_ee_range_xy to where the arm can reach",
        )
    ]


def box(context: Context) -> list[Finding]:
    """The box holds every start, is no sliver, and the arm reaches its corners."""
    task = context.config.task
    low, high = np.array(task.workspace_min), np.array(task.workspace_max)
    sides, points = high - low, starts(context)
    outside = float(np.maximum(low - points, points - high).max())
    small = "xyz"[int(np.argmin(sides))]
    status = Status.OK if sides.min() >= SMALL_BOX_M else Status.WARN
    status = Status.FAIL if sides.min() < MIN_BOX_SIDE_M else status
    return [
        judged(
            "reset_in_box",
            outside <= 1e-9,
            "every start lies inside" if outside <= 1e-9 else f"a start lies {outside * 1000:.0f} mm outside",
            "inside",
            "widen task.workspace_min/max, or shrink task.random_ee_range_xy/z",
        ),
        Finding(
            "box_size",
            status,
            f"{' x '.join(f'{side * 100:.0f}' for side in sides)} cm (x, y, z)",
            f"each at least {SMALL_BOX_M * 100:.0f} cm",
            f"widen the box along {small}",
        ),
        _corners(low, high),
    ]


def _corners(low: F64, high: F64) -> Finding:
    kinematics, missed = Kinematics(working_limits(Kinematics().limits)), []
    for corner in product(*zip(low, high, strict=True)):
        target = np.array(corner)
        q = kinematics.ik(target, np.zeros(NUM_JOINTS, np.float32))
        off = float(np.linalg.norm(kinematics.fk(kinematics.ik(target, q)).xyz_m - target))
        if off > RESET_TOLERANCE_M:
            missed.append(f"{np.round(target, 2)} by {off * 1000:.0f} mm")
    value = f"not reached: {'; '.join(missed)}" if missed else "all eight are reached"
    status = Status.WARN if missed else Status.OK
    return Finding("box_corners", status, value, "reached", "steps there are shortened; shrink the box")


def scale(context: Context) -> list[Finding]:
    """A unit action is well above what the servos' dead band swallows."""
    task = context.config.task
    value = f"{task.action_scale * 1000:.0f} mm per unit action"
    limit = f"at least {MIN_ACTION_SCALE_M * 1000:.1f} mm (three times the servos' dead band)"
    return [
        judged("action_scale", task.action_scale >= MIN_ACTION_SCALE_M, value, limit, "raise action_scale")
    ]


def clearance(context: Context) -> list[Finding]:
    """The lowest place of the box leaves the fingers above the table."""
    floor = context.config.task.workspace_min[2] - context.config.robot.table_z
    status = Status.OK if floor >= 0 else Status.FAIL
    value = f"{floor * 1000:.0f} mm above the table; travel goes {RESET_CLEARANCE_M * 100:.0f} cm above it"
    return [Finding("box_floor", status, value, "not below the table", "raise task.workspace_min's z")]


def paths(context: Context) -> list[Finding]:
    """Paths that other computers may not have; results may go anywhere.

    A file that names someone's home folder is refused when it is loaded.
    """
    texts = [(name, value) for name, value in _texts(context.config, "") if name != "output_dir"]
    found = [f"{name} = {value}" for name, value in texts if _absolute(value)]
    status = Status.WARN if found else Status.OK
    advice = "relative to the project's folder it works elsewhere, too"
    return [Finding("absolute_paths", status, "; ".join(found) or "none", "none", advice)]


def _absolute(value: str) -> bool:
    return PurePath(value).is_absolute() and not value.startswith("/dev/")


def _texts(section: Any, name: str) -> list[tuple[str, str]]:  # noqa: ANN401
    """Every text of a configuration, with its dotted name."""
    if dataclasses.is_dataclass(section):
        pairs = [(field.name, getattr(section, field.name)) for field in dataclasses.fields(section)]
    elif isinstance(section, dict):
        pairs = [(str(key), value) for key, value in section.items()]
    elif isinstance(section, tuple):
        pairs = [(str(index), value) for index, value in enumerate(section)]
    else:
        return [(name, str(section))] if isinstance(section, str | Path) else []
    return [found for key, value in pairs for found in _texts(value, f"{name}.{key}" if name else key)]
