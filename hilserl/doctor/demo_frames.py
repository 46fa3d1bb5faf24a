"""Checks of what single frames of the demonstrations hold: states, pictures, rewards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hilserl.dataset_actions import HAND, SAME_HAND_M
from hilserl.doctor.context import Context
from hilserl.doctor.demonstrations import demonstrated
from hilserl.doctor.findings import Finding, judged
from hilserl.env import STATE_NAMES, state_vector
from hilserl.episode import load_episode
from hilserl.types import End, Episode
from robot.kinematics import F64, Kinematics
from robot.types import JOINT_NAMES, NUM_JOINTS, U8, ArmState

LIMIT_MARGIN_RAD = 0.1
"""A joint pressed against its stop is measured a little beyond the limit."""
SAME_ANGLE_RAD = 0.01
FLAT_STD = 4.0
"""Grey levels (0..255) of a picture of anything stray more."""
LEAST_MOVE_M = 0.02
"""A wrist camera that was carried so far shows another picture."""


def state(context: Context) -> list[Finding]:
    """The parts of each state belong to one reading of this arm: radians, and the pose of these joints."""
    episodes, task = demonstrated(context).episodes, context.config.task
    kinematics, wrong = Kinematics(), list[str]()
    low, high = kinematics.limits.lower_rad, kinematics.limits.upper_rad
    for one in episodes:
        joints = one.state[:, :NUM_JOINTS]
        beyond = np.maximum(low - joints, joints - high)
        row, joint = np.unravel_index(int(beyond.argmax()), beyond.shape)
        if beyond[row, joint] > LIMIT_MARGIN_RAD:
            wrong.append(
                f"{_name(one)}, frame {row}: {JOINT_NAMES[joint]} is {joints[row, joint]:.4g} rad, the arm "
                f"reaches {low[joint]:.2f} .. {high[joint]:.2f}"
            )
        elif fault := _other_pose(one, kinematics, task.wrist_roll):
            wrong.append(fault)
    value = "; ".join(wrong[:2]) + (f"; and {len(wrong) - 2} more" if len(wrong) > 2 else "")
    limit = f"joints within the arm's, pose within {1000 * SAME_HAND_M:g} mm and {SAME_ANGLE_RAD:g} rad"
    advice = "a unit is wrong (degrees for radians?), or the pose is of another moment or arm: record again"
    return [judged("demo_state", not wrong, value or "each pose is that of its joints", limit, advice)]


def _other_pose(one: Episode, kinematics: Kinematics, wrist_roll: float) -> str:
    """The worst disagreement of an episode's poses with its joints, "" where there is none."""
    built = np.array(
        [
            state_vector(
                ArmState(row[:NUM_JOINTS], row[NUM_JOINTS : 2 * NUM_JOINTS], 0.0), kinematics, wrist_roll
            )
            for row in one.state
        ]
    )
    off = one.state - built
    angles = slice(HAND.stop, len(STATE_NAMES))
    off[:, angles] = (off[:, angles] + np.pi) % (2 * np.pi) - np.pi
    limits = np.full(off.shape[1], np.inf)
    limits[HAND], limits[angles] = SAME_HAND_M, SAME_ANGLE_RAD
    row, column = np.unravel_index(int((np.abs(off) / limits).argmax()), off.shape)
    if abs(off[row, column]) <= limits[column]:
        return ""
    return (
        f"{_name(one)}, frame {row}: {STATE_NAMES[column]} is {one.state[row, column]:.4f}, its joints say "
        f"{built[row, column]:.4f}"
    )


def rewards(context: Context) -> list[Finding]:
    """Success is paid once, at the end; nothing else is."""
    wrong = []
    for one in demonstrated(context).episodes:
        paid = np.flatnonzero(one.reward > 0)
        last = [len(one) - 1] if one.end is End.SUCCESS else []
        if len(paid) > 1:
            wrong.append(f"{_name(one)} pays more than once: at steps {paid.tolist()}")
        elif paid.tolist() != last:
            wrong.append(f"{_name(one)} ends in {one.end.value} and pays at steps {paid.tolist()}")
    value = "; ".join(wrong[:3]) or "each success is paid at its last step"
    advice = "whoever is paid for every good frame learns to wait (field report H6): record again"
    return [judged("demo_rewards", not wrong, value, "once, at the last step of a success", advice)]


def pictures(context: Context) -> list[Finding]:
    """Pictures show something, and change when the hand moves."""
    found = demonstrated(context)
    wrong, least = [], np.inf
    for path in found.paths:
        one = load_episode(path)
        for camera, images in one.images.items():
            spread = images.reshape(len(images), -1).std(axis=1)
            least = min(least, float(spread.min()))
            if spread.min() < FLAT_STD:
                row = int(spread.argmin())
                wrong.append(
                    f"{path.name}, frame {row} of {camera} is flat (grey levels {images[row].min()} to "
                    f"{images[row].max()})"
                )
            elif stuck := _stuck(images, one.state[:, HAND].astype(np.float64), path):
                wrong.append(stuck)
    value = "; ".join(wrong[:2]) + (f"; and {len(wrong) - 2} more" if len(wrong) > 2 else "")
    value = value or f"grey levels stray by {least:.0f} at least"
    limit = f"grey levels (0..255) stray by {FLAT_STD:g}, none stuck"
    advice = "pictures were scaled to 0..1, clamped, or the camera hung: record again"
    return [judged("demo_pictures", not wrong, value, limit, advice)]


def _stuck(images: U8, hand_m: F64, path: Path) -> str:
    """Frames of which all are the same though the hand moved, "" where there are none."""
    first = 0
    for row in range(1, len(images)):
        if not np.array_equal(images[row], images[first]):
            first = row
        elif np.linalg.norm(hand_m[row] - hand_m[first]) > LEAST_MOVE_M:
            return f"{path.name}: frames {first} to {row} are one picture, while the hand moved"
    return ""


def _name(episode: Episode) -> str:
    return f"{episode.actor}/{episode.number}"
