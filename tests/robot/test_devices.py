"""Arms and cameras found by what they are: whatever ports they have today, the right one or a named error."""

from __future__ import annotations

import json
import os
from itertools import permutations

import pytest

from robot import devices
from robot.camera_sources import OpenCVSource
from robot.devices import (
    CameraDevice,
    SerialPort,
    bind_port,
    bound_file,
    camera_devices,
    check_port,
    resolve_camera,
    resolve_port,
)
from robot.errors import BusError, CameraError, DeviceError
from robot.servo_link import ServoLink
from robot.timing import RealClock
from tests.fakes.servo_rig import Rig

NUMBERS = ("5A46", "5A47", "")


def plugged(order):
    """The ports after plugging adapters with these serial numbers in this order."""
    return lambda: [SerialPort(f"/dev/ttyACM{place}", number) for place, number in enumerate(order)]


# --- ports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", permutations(NUMBERS))
def test_an_arm_is_found_in_whatever_order_the_cables_went_in(order):
    for number in NUMBERS[:2]:
        assert resolve_port(f"serial:{number}", plugged(order)) == f"/dev/ttyACM{order.index(number)}"


@pytest.mark.parametrize("wanted", ["5A48", "", "5a46", "5A4"])
def test_a_missing_arm_is_an_error_that_lists_what_is_there(wanted):
    with pytest.raises(DeviceError) as told:
        resolve_port(f"serial:{wanted}", plugged(NUMBERS))
    for word in (
        repr(wanted),
        "/dev/ttyACM0 (serial:5A46)",
        "/dev/ttyACM1",
        "/dev/ttyACM2 (no serial number)",
    ):
        assert word in str(told.value)


def test_two_adapters_with_one_number_are_not_chosen_between():
    with pytest.raises(DeviceError, match="ttyACM0, /dev/ttyACM2 all have the serial number '7'"):
        resolve_port("serial:7", plugged(("7", "8", "7")))


def test_any_other_address_is_left_as_it_is():
    for address in ("/dev/ttyACM0", "outputs/twin/servo-bus", "COM3"):
        assert resolve_port(address, plugged(())) == address


def test_no_ports_at_all_is_said():
    with pytest.raises(DeviceError, match="There is: none"):
        resolve_port("serial:5A46", plugged(()))


def test_the_computers_own_ports_can_be_listed():
    assert all(port.device for port in devices.serial_ports())


# --- the driver follows a number ---------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def test_a_replugged_arm_is_found_under_its_new_name(rig, tmp_path, monkeypatch):
    """The cable comes back as another device: the link opens that one by itself."""
    now = ["/nowhere/ttyACM0"]
    monkeypatch.setattr(devices, "serial_ports", lambda: [SerialPort(now[0], "5A46")])
    link = ServoLink("serial:5A46", {"shoulder_pan": 1}, 20, rig.clock)
    with pytest.raises(BusError, match="nowhere"):
        link.open()
    now[0] = str(tmp_path / "ttyACM1")
    os.symlink(rig.port.port, now[0])
    link.open()
    assert link.read_memory("shoulder_pan")["Model_Number"] == 777
    link.close()


def test_the_driver_tells_which_arms_are_there(monkeypatch):
    monkeypatch.setattr(devices, "serial_ports", plugged(("5A47",)))
    with pytest.raises(BusError, match="no serial port has the serial number '5A46'.*serial:5A47"):
        ServoLink("serial:5A46", {"shoulder_pan": 1}, 1, RealClock()).open()


# --- arms that changed ports -------------------------------------------------------------------------------


def test_swapped_arms_are_noticed_and_each_is_told_where_it_is(tmp_path):
    before, after = plugged(("5A46", "5A47")), plugged(("5A47", "5A46"))
    assert bind_port(tmp_path, "follower", "/dev/ttyACM0", before) == "5A46"
    assert bind_port(tmp_path, "leader", "/dev/ttyACM1", before) == "5A47"
    for arm, port, other in (("follower", 0, 1), ("leader", 1, 0)):
        check_port(tmp_path, arm, f"/dev/ttyACM{port}", before)
        with pytest.raises(DeviceError, match=rf"arm '{arm}' was calibrated.*is at /dev/ttyACM{other} now"):
            check_port(tmp_path, arm, f"/dev/ttyACM{port}", after)
        number = json.loads(bound_file(tmp_path, arm).read_text())["serial_number"]
        check_port(tmp_path, arm, f"serial:{number}", after)


def test_an_arm_that_is_away_is_not_taken_for_the_other(tmp_path):
    bind_port(tmp_path, "follower", "/dev/ttyACM0", plugged(("5A46",)))
    with pytest.raises(DeviceError, match="that one is not plugged in"):
        check_port(tmp_path, "follower", "/dev/ttyACM0", plugged(("5A47",)))


def test_a_link_to_a_port_is_that_port(tmp_path):
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    ports = lambda: [SerialPort(str(tmp_path / "real"), "5A46")]  # noqa: E731
    assert bind_port(tmp_path, "arm", str(tmp_path / "link"), ports) == "5A46"


def test_nothing_is_claimed_of_what_is_not_known(tmp_path):
    check_port(tmp_path, "never bound", "/dev/ttyACM0", plugged(("5A46",)))
    bind_port(tmp_path, "arm", "/dev/ttyACM0", plugged(("5A46",)))
    check_port(tmp_path, "arm", "/dev/ttyACM0", plugged(("",)))  # an adapter that tells no number
    assert bind_port(tmp_path, "arm", "/dev/ttyACM0", plugged(("",))) == ""
    check_port(tmp_path, "arm", "/dev/ttyACM0", plugged(("5A47",)))  # no longer bound


@pytest.mark.parametrize("content", ["{", "{}", "[]", "3"])
def test_a_damaged_binding_is_named(tmp_path, content):
    bound_file(tmp_path, "arm").write_text(content)
    with pytest.raises(DeviceError, match=r"arm\.port\.json is damaged"):
        check_port(tmp_path, "arm", "/dev/ttyACM0", plugged(("5A46",)))


# --- cameras -----------------------------------------------------------------------------------------------


@pytest.fixture
def links(tmp_path):
    """A folder like /dev/v4l: two cameras, each with a second stream of metadata."""
    for kind in ("by-id", "by-path"):
        (tmp_path / kind).mkdir()
    for number, (name, path) in enumerate(
        (("usb-A_1", "pci-0:usb-0:1:1.0"), ("usb-B_2", "pci-0:usb-0:2:1.0"))
    ):
        for stream in (0, 1):
            (tmp_path / f"video{2 * number + stream}").touch()
            for kind, base in (("by-id", name), ("by-path", path)):
                link = tmp_path / kind / f"{base}-video-index{stream}"
                link.symlink_to(f"../video{2 * number + stream}")
    return tmp_path


def test_a_camera_is_found_by_each_of_its_names(links):
    def there():
        return camera_devices(links)

    for number, names in ((0, ("usb-A_1", "pci-0:usb-0:1:1.0")), (2, ("usb-B_2", "pci-0:usb-0:2:1.0"))):
        for name in names:
            assert resolve_camera(f"id:{name}", there) == str(links / f"video{number}")
            assert resolve_camera(f"id:{name}-video-index0", there) == str(links / f"video{number}")
            assert resolve_camera(f"id:{name}-video-index1", there) == str(links / f"video{number + 1}")


def test_a_missing_camera_is_an_error_that_lists_what_is_there(links):
    for wanted in ("usb-C", "usb-A", ""):
        with pytest.raises(DeviceError) as told:
            resolve_camera(f"id:{wanted}", lambda: camera_devices(links))
        assert "video0 (id:usb-A_1, id:pci-0:usb-0:1:1.0)" in str(told.value) and "video2" in str(told.value)


def test_cameras_of_one_model_are_told_apart_by_their_place_only(links):
    """Without serial numbers the last one plugged in takes the name: it may be the wrong camera."""
    (links / "by-id/usb-B_2-video-index0").unlink()

    def there():
        return camera_devices(links)

    with pytest.raises(DeviceError, match=r"may be that of .*video0, .*video2.*where it is plugged in"):
        resolve_camera("id:usb-A_1", there)
    assert resolve_camera("id:pci-0:usb-0:1:1.0", there) == str(links / "video0")


def test_a_camera_without_usb_shares_no_name(links):
    board = CameraDevice("/dev/video9", (), ("platform-csi",))
    assert resolve_camera("id:usb-A_1", lambda: [*camera_devices(links), board]) == str(links / "video0")


def test_no_folder_of_names_is_no_camera(tmp_path):
    assert camera_devices(tmp_path / "absent") == []


def test_the_camera_source_says_which_cameras_there_are(links, monkeypatch):
    there = camera_devices(links)
    monkeypatch.setattr(devices, "camera_devices", lambda: there)
    with pytest.raises(CameraError, match=r"no camera is named 'usb-C'.*id:usb-A_1"):
        OpenCVSource("id:usb-C", (640, 480)).open()
