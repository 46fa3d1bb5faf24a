"""Config -> the device a person drives the arm with. Only this file names their classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hilserl.config import Config, ConfigError
from hilserl.env import GRIPPER_CLOSED_RAD, GRIPPER_MARGIN_RAD
from robot.types import ArmState, Operator, Teleop

if TYPE_CHECKING:
    from robot.teleop.leader_arm import LeaderArm


class NoTeleop:
    """Nobody is at the controls."""

    def read(self, state: ArmState) -> Operator:
        """Nothing, ever."""
        return Operator()

    def reset(self, seed: int) -> None:
        """Nothing to forget."""

    def stop_asked(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Nothing to release."""


def build_device(config: Config, message: Callable[[str], None]) -> Teleop:
    """The device of teleop.type. Raises TeleopError where it is missing, and what else keeps it out."""
    match config.teleop.type:
        case "gamepad":
            from robot.teleop.gamepad import Gamepad

            return Gamepad(config.teleop.device, config.teleop.deadzone)
        case "keyboard":
            from robot.teleop.keyboard import Keyboard

            return Keyboard()
        case "leader":
            return _leader(config, message)
        case "none":
            return NoTeleop()
        case other:
            raise ConfigError(
                f'teleop.type is {other!r}; it must be "gamepad", "keyboard", "leader" or "none" '
                '("scripted" only with the lock-step twin)'
            )


def leader_torque(teleop: Teleop) -> dict[str, bool]:
    """{"leader": whether it was found energised}; empty where there is no leader arm."""
    from robot.teleop.leader import Leader

    return {"leader": teleop.torque} if isinstance(teleop, Leader) else {}


def build_leader_arm(config: Config, message: Callable[[str], None]) -> LeaderArm:
    """The leader arm, not connected yet. Raises CalibrationError, and DeviceError for another arm."""
    from robot.calibration import load_calibration
    from robot.devices import check_port
    from robot.teleop.leader_arm import LeaderArm
    from robot.timing import RealClock

    robot, teleop = config.robot, config.teleop
    check_port(teleop.calibration_dir, teleop.id, teleop.port)
    followers = {}
    if robot.type == "so101":
        calibration = load_calibration(Path(robot.calibration_dir), robot.id, robot.port)
        followers[f"follower {robot.id!r}"] = calibration
    return LeaderArm(
        teleop.port,
        teleop.id,
        teleop.calibration_dir,
        RealClock(),
        robot.bus_retries,
        others=followers,
        say=message,
    )


def _leader(config: Config, message: Callable[[str], None]) -> Teleop:
    from robot.teleop.leader import Leader
    from robot.timing import RealClock

    task, teleop = config.task, config.teleop
    return Leader(
        build_leader_arm(config, message),
        build_device(replace(config, teleop=replace(teleop, type=teleop.buttons)), message),
        RealClock(),
        action_scale_m=task.action_scale,
        leash_m=task.leash,
        gripper_span_rad=(GRIPPER_CLOSED_RAD, task.reset_gripper + GRIPPER_MARGIN_RAD),
        gripper_band_rad=task.gripper_scale,
        say=message,
    )
