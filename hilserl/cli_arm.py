"""`hilserl release`: free the arm whatever happened. `hilserl calibrate`: calibrate it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hilserl.cli_loading import load, refuse_loose_words, say

if TYPE_CHECKING:
    from hilserl.cli_parsers import Commands
    from hilserl.config import Config
    from robot.calibrate import OtherArm
    from robot.calibrate_session import Place


def add_release(commands: Commands) -> None:
    """Add the command."""
    from hilserl.cli_parsers import add_command

    text = "free a servo arm whatever happened: hold it, fold it, release it servo by servo"
    parser = add_command(commands, "release", _release, text)
    parser.add_argument(
        "--here", action="store_true", help="do not move it: release it where it stands, with a warning first"
    )


def _release(args: argparse.Namespace, overrides: list[str]) -> int:
    config = load(args, overrides)
    _need_servos(config, "released")
    from robot.clearance import Clearance
    from robot.release import release

    robot = config.robot
    return release(
        robot.port,
        robot.id,
        robot.calibration_dir,
        max_joint_speed_rad_s=robot.max_joint_speed,
        move=not args.here,
        clearance=Clearance(robot.table_z),
        say=say,
    )


def add_calibrate(commands: Commands) -> None:
    """Add the command."""
    from hilserl.cli_parsers import add_command

    text = "calibrate a servo arm with a person's help, test it by touch, keep and restore its calibrations"
    parser = add_command(commands, "calibrate", _calibrate, text)
    parser.add_argument("--leader", action="store_true", help="the leader arm (teleop.*), not the follower")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--touch", action="store_true", help="the touch test of the present calibration")
    what.add_argument("--list", action="store_true", help="every calibration the arm had")
    what.add_argument("--restore", metavar="VERSION", help="put a kept calibration back, by its id or number")
    what.add_argument("--write", action="store_true", help="write the present file to the servos")
    what.add_argument("--bind", action="store_true", help="only remember the arm's adapter; name the cameras")
    parser.add_argument(
        "--points", metavar="X,Y;X,Y;...", help="where the marks of the touch test lie [m] (default: a sheet)"
    )


def _calibrate(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.config import ConfigError

    refuse_loose_words(overrides)
    if args.points and not args.touch:
        raise ConfigError("--points are the marks of the touch test: give --touch as well")
    if args.touch and args.leader:
        raise ConfigError("--touch is for the follower: a leader has no hand to put on marks")
    config = load(args, overrides)
    place = _leader(config) if args.leader else _follower(config)
    from robot import calibrate_session as session

    if args.list:
        for line in session.listed(place):
            say(line)
        return session.DONE
    from robot.calibrate_guide import Answers, Screen
    from robot.timing import RealClock

    clock = RealClock()
    screen = Screen(_print, sys.stdout.isatty(), clock)
    terminal = session.Terminal(Answers(sys.stdin), screen, clock)
    say(f"{place.role} {place.arm_id!r} at {place.port}, calibrations in {place.calibration_dir}")
    if args.touch:
        from robot.calibrate_touch import SHEET_M, parse_points

        points_m = parse_points(args.points) if args.points else SHEET_M
        return session.touch(place, points_m, terminal)
    if args.restore:
        return session.restore(place, args.restore, terminal)
    if args.write:
        return session.write(place, terminal)
    if args.bind:
        session.bind(place, screen)
    else:
        session.calibrate(place, _other(config, args.leader), terminal)
    own = [(name, camera.index_or_path) for name, camera in config.cameras.items() if camera.type == "opencv"]
    for line in session.camera_lines(own):
        say(line)
    return session.DONE


def _print(text: str) -> None:
    print(text, end="", flush=True)


def _need_servos(config: Config, verb: str) -> None:
    from hilserl.config import ConfigError

    if config.robot.type != "so101":
        raise ConfigError(f'robot.type is "{config.robot.type}": only an arm on a servo bus can be {verb}')


def _follower(config: Config) -> Place:
    from robot.calibrate import FOLLOWER
    from robot.calibrate_session import Place

    _need_servos(config, "calibrated")
    robot = config.robot
    return Place(robot.port, robot.id, Path(robot.calibration_dir), FOLLOWER)


def _leader(config: Config) -> Place:
    from hilserl.config import ConfigError
    from robot.calibrate import LEADER
    from robot.calibrate_session import Place

    teleop = config.teleop
    if teleop.type != "leader":
        raise ConfigError(
            f'--leader needs teleop.type "leader" with teleop.port and teleop.id; it is "{teleop.type}"'
        )
    return Place(teleop.port, teleop.id, Path(teleop.calibration_dir), LEADER)


def _other(config: Config, leader: bool) -> OtherArm | None:
    """The arm to compare with: a leader's follower, a follower's leader; None where there is none."""
    from robot.calibrate import OtherArm
    from robot.errors import CalibrationError

    if config.teleop.type != "leader" or (leader and config.robot.type != "so101"):
        return None
    place = _follower(config) if leader else _leader(config)
    try:
        return OtherArm(place.arm_id, place.role, place.calibration())
    except CalibrationError as error:
        say(f"not compared with the {place.role}: {error}")
        return None
