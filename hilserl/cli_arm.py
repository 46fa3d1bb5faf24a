"""`hilserl release`: free the arm whatever happened."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hilserl.cli_loading import load, say

if TYPE_CHECKING:
    from hilserl.cli_parsers import Commands


def add_release(commands: Commands) -> None:
    """Add the command."""
    from hilserl.cli_parsers import add_command

    text = "free a servo arm whatever happened: hold it, fold it, release it servo by servo"
    parser = add_command(commands, "release", _release, text)
    parser.add_argument(
        "--here", action="store_true", help="do not move it: release it where it stands, with a warning first"
    )


def _release(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.config import ConfigError

    config = load(args, overrides)
    if config.robot.type != "so101":
        raise ConfigError(f'robot.type is "{config.robot.type}": only an arm on a servo bus can be released')
    from robot.release import release

    robot = config.robot
    return release(
        robot.port,
        robot.id,
        robot.calibration_dir,
        max_joint_speed_rad_s=robot.max_joint_speed,
        move=not args.here,
        say=say,
    )
