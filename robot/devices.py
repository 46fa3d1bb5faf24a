"""Arms and cameras by what they are, not by where they were plugged in: serial numbers and device names.

    robot.port = "serial:5A46082345"                         the USB adapter with this serial number
    cameras.X.index_or_path = "id:usb-046d_C920_1234ABCD"    a name under /dev/v4l/by-id or by-path

Any other address is taken as it is. Addresses are resolved each time a device is opened, so that one which
comes back under another number after its cable was pulled is found again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from robot.errors import DeviceError

SERIAL, ID = "serial:", "id:"
VIDEO_LINKS: Final = Path("/dev/v4l")
FIRST_STREAM: Final = "-video-index0"


@dataclass(frozen=True, slots=True)
class SerialPort:
    """A serial port of this computer. serial_number: of its USB adapter, "" where it tells none."""

    device: str
    serial_number: str
    description: str = ""

    def __str__(self) -> str:
        told = f"{SERIAL}{self.serial_number}" if self.serial_number else "no serial number"
        return f"{self.device} ({told}{f', {self.description}' if self.description else ''})"


@dataclass(frozen=True, slots=True)
class CameraDevice:
    """A camera's picture stream. by_id, by_path: its names there, the first picture stream's shortened."""

    device: str
    by_id: tuple[str, ...]
    by_path: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(ID + name for name in (*self.by_id, *self.by_path))
        return f"{self.device} ({names})"


type Ports = Callable[[], Sequence[SerialPort]]
type Cameras = Callable[[], Sequence[CameraDevice]]


def serial_ports() -> list[SerialPort]:
    """Every serial port there is."""
    from serial.tools import list_ports

    return [
        SerialPort(one.device, one.serial_number or "", one.product or "")
        for one in sorted(list_ports.comports(), key=lambda one: one.device)
        if one.serial_number or one.vid is not None  # the rest are sockets of the main board, mostly empty
    ]


def camera_devices(folder: Path = VIDEO_LINKS) -> list[CameraDevice]:
    """Every camera that has a lasting name, by the links under `folder`."""
    names: dict[str, dict[str, list[str]]] = {}
    for kind in ("by-id", "by-path"):
        for link in sorted((folder / kind).iterdir()) if (folder / kind).is_dir() else []:
            # Further streams of one camera are mostly its metadata: they keep their whole name.
            found = names.setdefault(os.path.realpath(link), {"by-id": [], "by-path": []})
            found[kind].append(link.name.removesuffix(FIRST_STREAM))
    return [
        CameraDevice(device, tuple(found["by-id"]), tuple(found["by-path"]))
        for device, found in sorted(names.items())
    ]


def resolve_port(address: str, ports: Ports | None = None) -> str:
    """The device at `address`: "serial:NUMBER" is looked up, anything else is a device already.

    Raises DeviceError naming every port there is when none, or more than one, has that number.
    """
    if not address.startswith(SERIAL):
        return address
    wanted, there = address.removeprefix(SERIAL), (ports or serial_ports)()
    found = [port for port in there if wanted and port.serial_number == wanted]
    if len(found) == 1:
        return found[0].device
    listed = "; ".join(map(str, there)) or "none"
    if not found:
        raise DeviceError(
            f"no serial port has the serial number {wanted!r}; is the arm plugged in? There is: {listed}"
        )
    raise DeviceError(
        f"{', '.join(port.device for port in found)} all have the serial number {wanted!r}: name the arm's "
        f"port by its path instead (/dev/serial/by-path/...). There is: {listed}"
    )


def resolve_camera(address: str, cameras: Cameras | None = None) -> str:
    """The device of the camera at `address`: "id:NAME" is looked up, anything else is taken as it is.

    Raises DeviceError naming every camera there is when none has that name, or more than one may.
    """
    if not address.startswith(ID):
        return address
    wanted, there = address.removeprefix(ID), (cameras or camera_devices)()
    names, listed = {wanted, wanted.removesuffix(FIRST_STREAM)} - {""}, "; ".join(map(str, there)) or "none"
    found = [one for one in there if names & {*one.by_id, *one.by_path}]
    if not found:
        raise DeviceError(f"no camera is named {wanted!r}; is it plugged in? There is: {listed}")
    # Cameras of one model without a serial number share one name: whichever came last has it.
    nameless = [one for one in there if not one.by_id and any("usb" in name for name in one.by_path)]
    if len(found) > 1 or (nameless and not names & {*found[0].by_path}):
        raise DeviceError(
            f"the name {wanted!r} may be that of {', '.join(one.device for one in (*found, *nameless))}: "
            f"cameras of one model share it. Name the camera by where it is plugged in. There is: {listed}"
        )
    return found[0].device


def bound_file(calibration_dir: str | Path, arm_id: str) -> Path:
    """Where the serial number is kept behind which arm `arm_id` was calibrated."""
    return Path(calibration_dir) / f"{arm_id}.port.json"


def bind_port(calibration_dir: str | Path, arm_id: str, address: str, ports: Ports | None = None) -> str:
    """Remember that arm `arm_id` is the one at `address`; the serial number, "" where it has none."""
    number = _number_at(address, ports)
    path = bound_file(calibration_dir, arm_id)
    if not number:
        path.unlink(missing_ok=True)  # what it says would be of another adapter
        return ""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"serial_number": number}) + "\n")
    os.replace(unfinished, path)
    return number


def check_port(calibration_dir: str | Path, arm_id: str, address: str, ports: Ports | None = None) -> None:
    """Raise DeviceError when another adapter is at `address` than the one arm `arm_id` was calibrated behind.

    Nothing is known of an arm that was never bound, nor of a port that has no serial number.
    """
    path = bound_file(calibration_dir, arm_id)
    if not path.is_file():
        return
    try:
        bound = str(json.loads(path.read_text())["serial_number"])
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceError(
            f"{path} is damaged ({error!r}): hilserl calibrate --bind writes it anew"
        ) from error
    found = _number_at(address, ports)
    if not found or found == bound:
        return
    elsewhere = [port.device for port in (ports or serial_ports)() if port.serial_number == bound]
    where = f"that one is at {', '.join(elsewhere)} now" if elsewhere else "that one is not plugged in"
    raise DeviceError(
        f"{address} is the adapter {found!r}, but arm {arm_id!r} was calibrated behind {bound!r}: {where}. "
        f"Have the arms changed ports? Set the port to {SERIAL}{bound}, which finds it wherever it is. (An "
        "arm with a new adapter: hilserl calibrate --bind)"
    )


def _number_at(address: str, ports: Ports | None) -> str:
    """Serial number of the adapter at `address`, "" where there is none."""
    if address.startswith(SERIAL):
        return address.removeprefix(SERIAL)
    device = os.path.realpath(address)
    numbers = [p.serial_number for p in (ports or serial_ports)() if os.path.realpath(p.device) == device]
    return numbers[0] if numbers else ""
