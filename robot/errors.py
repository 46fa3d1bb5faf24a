"""Named errors of the body. Each message names the thing, its value and what would be right."""

from __future__ import annotations


class RobotError(Exception):
    """Base of every error the body raises."""


class BusError(RobotError):
    """The servo bus did not answer, or answered wrongly, after bounded retries."""


class ServoFault(RobotError):
    """A servo reports a latched fault (overload, heat, voltage, ...), in words."""


class TorqueLost(RobotError):
    """Servos were found limp in mid-use (a supply that dipped or was off); they hold again where they are."""


class ServoUnwell(RobotError):
    """A servo is hot, overloaded or short of voltage, or the arm just came back: it holds for now."""


class WatchdogLost(RobotError):
    """The watchdog process that parks the arm in an emergency is gone: the arm is not driven without it."""


class CalibrationError(RobotError):
    """The calibration is missing, incomplete, or disagrees with the servos."""


class DeviceError(RobotError):
    """An arm or a camera is not there under the name it was given, or more than one is."""


class CartesianRefused(RobotError):
    """The touch test showed that the hand is not where the arm model says: it is not driven in metres."""


class CommandRefused(RobotError):
    """A joint command was refused before it reached a servo."""


class KinematicsError(RobotError):
    """A pose cannot be reached or computed."""


class ResetStopped(RobotError):
    """A person stopped the arm on its way to the reset pose; it holds where it is."""


class NoClearWay(RobotError):
    """The arm cannot get where it shall without coming too near to the table or to itself."""


class CameraError(RobotError):
    """A camera is missing, stale, flat or of the wrong size."""


class TeleopError(RobotError):
    """A teleoperation device is missing or was unplugged."""
