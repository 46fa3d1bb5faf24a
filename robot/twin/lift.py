"""The lift task of the twin: what is drawn at random for an episode, and what counts as success.

Numpy only, so that a config may name a LiftConfig without loading a physics engine.
"""

from __future__ import annotations

from dataclasses import dataclass

GRASP_M = 0.008
"""Height of the hand at the grasp [m]."""
FINGER_CLEARANCE_M = 0.009
"""Room left between the fixed finger and the cube, so that the finger does not land on it."""


@dataclass(frozen=True, slots=True)
class LiftConfig:
    """Ranges the scene is drawn from, independently and uniformly. Lengths in metres, angles in radians.

    The cube's centre lies within +-cube_range_xy of cube_center_xy; its yaw within +-cube_yaw.
    looks: how far colours, light and exposure stray, from 0 (not at all) to 1 (another room every episode).
    latency_s: delay of every command.

    Two settings say how this room and this camera differ from another day's, the same in every episode:
    light: factor on how bright the gripper camera sees the scene. camera_turn: the gripper camera is turned
    so far about its optical axis, counter-clockwise seen from behind it, so that its picture turns clockwise.
    """

    cube_center_xy: tuple[float, float] = (0.25, 0.0)
    cube_range_xy: float = 0.05
    cube_yaw: float = 0.785398
    cube_size_min: float = 0.024
    cube_size_max: float = 0.036
    looks: float = 0.3
    latency_s: float = 0.03
    lift_height: float = 0.03
    light: float = 1.0
    camera_turn: float = 0.0
