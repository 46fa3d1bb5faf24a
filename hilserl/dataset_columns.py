"""What a person says about a recorded dataset that its files do not."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DatasetColumns:
    """Choices for importing a LeRobotDataset. Nothing here is guessed from values.

    joint_unit and success concern joint-space datasets (`lerobot-record`) only, whose files hold neither.
    """

    joint_unit: str = ""
    """"degrees", "normalized" (percent of the calibrated range) or "rad"."""
    success: str = ""
    """"last": every episode ends in success at its last step; "none": no episode has a verdict."""
    cameras: dict[str, str] = field(default_factory=dict)
    """{camera of the task: camera of the dataset} where the names differ."""
    exclude: tuple[int, ...] = ()
    """Episodes of the dataset (0-based) that are left out."""
    max_clipped: float = 0.05
    """Share of steps that may be faster than task.action_scale, or outside the workspace box."""
    max_turn_rad: float = 0.35
    """Largest turn of the hand away from how the environment holds it [rad]."""
    max_lag_s: float = 0.1
    """Longest time the arm may follow its goals behind: a shift of the columns looks like a longer one."""
    min_gripper_rad: float = 0.2
    """Least motion of the gripper over the dataset [rad]; 0 for a task that leaves it alone."""
