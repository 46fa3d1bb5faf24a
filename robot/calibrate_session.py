"""What `hilserl calibrate` does with an arm, from opening its bus to the files it leaves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from robot.calibrate import LEADER, OtherArm
from robot.calibrate_arm import ReleasedArm, servo_ids
from robot.calibrate_guide import Answers, Guide, Screen
from robot.calibrate_touch import F64, HOW, REFUSED, Touch, load_touch, save_touch
from robot.calibrate_versions import find_version, store_version, versions
from robot.calibration import Calibration, calibration_id, load_calibration
from robot.devices import CameraDevice, bind_port, camera_devices, resolve_camera
from robot.errors import CalibrationError, DeviceError
from robot.types import JOINT_NAMES, Clock

DONE, TOO_FAR = 0, 1


@dataclass(frozen=True, slots=True)
class Place:
    """An arm, where it is plugged in, and where its calibrations lie. role: "follower" or "leader"."""

    port: str
    arm_id: str
    calibration_dir: Path
    role: str

    def calibration(self) -> Calibration:
        """The present one. Raises CalibrationError that says how to make one."""
        return load_calibration(self.calibration_dir, self.arm_id, self.port, self.role)


@dataclass(frozen=True, slots=True)
class Terminal:
    """The person: what they type, what they see, and a clock between."""

    answers: Answers
    screen: Screen
    clock: Clock


def calibrate(place: Place, other: OtherArm | None, terminal: Terminal) -> int:
    """Lead the person through a calibration and store it: in the servos, then in the file.

    Before the last step nothing is changed. Raises BusError, CalibrationError.
    """
    ids = servo_ids(place.calibration_dir, place.arm_id)
    with ReleasedArm(place.port, ids, place.role, terminal.clock, terminal.screen.say) as arm:
        guide = Guide(arm, place.role, other, terminal.answers, terminal.screen)
        source = f"the new calibration of {place.arm_id!r}"
        calibration = guide.calibrate([ids[name] for name in JOINT_NAMES], source)
        _store(arm, calibration, place, terminal.screen)
    if place.role != LEADER:
        terminal.screen.say(f"next, the touch test: {HOW}")
    return DONE


def restore(place: Place, wanted: str, terminal: Terminal) -> int:
    """Make the kept calibration `wanted` (its id or number) the present one, in servos and file."""
    calibration = find_version(place.calibration_dir, place.arm_id, wanted)
    with _arm(place, calibration, terminal) as arm:
        _store(arm, calibration, place, terminal.screen)
    return DONE


def write(place: Place, terminal: Terminal) -> int:
    """Write the present file to the servos."""
    calibration = place.calibration()
    with _arm(place, calibration, terminal) as arm:
        arm.store(calibration)
    terminal.screen.say(f"the servos hold {calibration.source} ({calibration_id(calibration)})")
    return DONE


def touch(place: Place, points_m: F64, terminal: Terminal) -> int:
    """The touch test of the present calibration at these points (N, 3) [m]; its result is kept.

    Returns TOO_FAR where Cartesian control is refused from now on.
    """
    calibration = place.calibration()
    with _arm(place, calibration, terminal) as arm:
        arm.check(calibration)
        guide = Guide(arm, place.role, None, terminal.answers, terminal.screen)
        found: Touch = guide.touch(calibration, points_m)
    path = save_touch(found, calibration, place.calibration_dir, place.arm_id)
    for line in (*found.lines(), f"{found.verdict}: kept in {path}"):
        terminal.screen.say(line)
    return TOO_FAR if found.verdict == REFUSED else DONE


def bind(place: Place, screen: Screen) -> int:
    """Remember by its adapter's serial number which arm this is. Raises DeviceError."""
    number = bind_port(place.calibration_dir, place.arm_id, place.port)
    if number:
        screen.say(
            f"arm {place.arm_id!r} is the one behind serial:{number}; as the port in the configuration, that "
            "finds it wherever it is plugged in"
        )
    else:
        screen.say(f"{place.port} tells no serial number: which arm is there cannot be told")
    return DONE


def listed(place: Place) -> list[str]:
    """One line for every calibration this arm had, with its touch test."""
    lines = []
    for version in versions(place.calibration_dir, place.arm_id):
        name = "present" if version.number == 0 else f"{version.number:03d}"
        lines.append(f"{name:8} {version.id or 'damaged':16} {version.path} {_tested(place, version.path)}")
    return lines or [f"arm {place.arm_id!r} has no calibration in {place.calibration_dir}"]


def camera_lines(cameras: Iterable[tuple[str, str]]) -> list[str]:
    """For each camera (its name, its address): what to call it so that it is found wherever it is."""
    lines, there = [], camera_devices()
    for name, address in cameras:
        try:
            device = resolve_camera(address)
        except DeviceError as error:
            lines.append(f"camera {name}: {error}")
            continue
        lines.append(f"camera {name} at {address}: {_lasting(device, there)}")
    return lines


def _lasting(device: str, there: list[CameraDevice]) -> str:
    if device.isdecimal():
        device = f"/dev/video{device}"
    found = next((one for one in there if str(Path(device).resolve()) == one.device), None)
    return (
        f"has no lasting name; there is: {'; '.join(map(str, there)) or 'none'}"
        if found is None
        else str(found)
    )


def _tested(place: Place, path: Path) -> str:
    try:
        calibration = load_calibration(path.parent, path.stem)
        kept = load_touch(calibration, place.calibration_dir, place.arm_id)
    except CalibrationError as error:
        return str(error)
    return (
        f"touch test {1000 * kept[0].residual_m:.1f} mm ({kept[0].verdict})" if kept else "not touch-tested"
    )


def _arm(place: Place, calibration: Calibration, terminal: Terminal) -> ReleasedArm:
    ids = {name: joint.id for name, joint in zip(JOINT_NAMES, calibration.joints, strict=True)}
    return ReleasedArm(place.port, ids, place.role, terminal.clock, terminal.screen.say)


def _store(arm: ReleasedArm, calibration: Calibration, place: Place, screen: Screen) -> None:
    """The servos first: should this end between the two, the arm is refused, and the file is the old one."""
    arm.store(calibration)
    kept = store_version(calibration, place.calibration_dir, place.arm_id)
    screen.say(
        f"calibration {calibration_id(calibration)} is in the servos and in the file of {place.arm_id!r}"
    )
    if kept is not None:
        screen.say(f"the one before is kept: {kept}")
    bind(place, screen)
