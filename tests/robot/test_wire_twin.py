"""Unmodified lerobot against the wire-level twin: follower, bus, ZMQ camera; and the twin's own command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from lerobot.cameras.zmq import ZMQCamera, ZMQCameraConfig
from lerobot.motors import Motor, MotorNormMode, motors_bus
from lerobot.motors.feetech import FeetechMotorsBus
from lerobot.motors.feetech.tables import STS_SMS_SERIES_CONTROL_TABLE
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

from robot.calibration import load_calibration, model_limits
from robot.errors import BusError, CameraError
from robot.so101 import SO101
from robot.timing import RealClock
from robot.twin.bus_port import BusPort
from robot.twin.camera_server import CameraServer
from robot.twin.faults import CameraFault, Faults
from robot.twin.registers import REGISTERS
from robot.twin.servo_bus import ServoBus
from robot.twin.wire import WireTwin
from robot.twin.world_body import store_calibration, sweep, twin_calibration
from robot.types import JOINT_NAMES
from tests.fakes.servo_body import LagBody

PATIENCE_MS = 15_000
RETRIES = 20
"""Of our driver, which keeps its 50 ms."""


@pytest.fixture(scope="module", autouse=True)
def quick_thread_switches():
    """lerobot's SDK spins while it waits; servos in the same process must get their turn all the same."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    with WireTwin(tmp_path_factory.mktemp("calibration"), "arm") as twin:
        yield twin


@pytest.fixture
def bus():
    """lerobot's bus on servos without physics."""
    servos = ServoBus(LagBody(), Faults())
    store_calibration(servos, twin_calibration())
    port = BusPort(servos, servos._faults)
    port.plug()
    bus = FeetechMotorsBus(
        port.port,
        {name: Motor(i + 1, "sts3215", MotorNormMode.DEGREES) for i, name in enumerate(JOINT_NAMES)},
    )
    patient(bus).connect()
    bus.servos = servos
    yield bus
    bus.port_handler.closePort()
    port.close()


def patient(bus):
    """`bus`, waiting longer than its 50 ms for an answer: the machine that runs the tests may stall."""
    port = bus.port_handler
    port.setPacketTimeout = lambda _length: port.setPacketTimeoutMillis(PATIENCE_MS)
    return bus


def wait_until(true, timeout_s=20.0):
    end_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.02)


def at(twin, pose):
    return np.allclose([twin.body.position_rad(joint) for joint in range(6)], pose, atol=0.02)


def follower(twin, **options):
    """lerobot's follower, connected without its asking anybody anything."""
    config = SO101FollowerConfig(
        port=twin.port, id=twin.robot_id, calibration_dir=twin.calibration_dir, **options
    )
    robot = SO101Follower(config)
    patient(robot.bus)
    robot.connect(calibrate=False)
    assert robot.is_calibrated
    return robot


# --- lerobot's follower and camera -------------------------------------------------------------------------


def test_lerobots_follower_reads_moves_and_sees(twin):
    host, port = twin.camera_address
    camera = ZMQCameraConfig(
        server_address=host, port=port, camera_name="gripper_cam", width=640, height=480, fps=30
    )
    robot = follower(twin, cameras={"gripper_cam": camera})
    try:
        goal = {
            "shoulder_pan.pos": 20.0,
            "shoulder_lift.pos": -60.0,
            "elbow_flex.pos": 50.0,
            "wrist_flex.pos": 45.0,
            "wrist_roll.pos": -15.0,
            "gripper.pos": 40.0,
        }
        robot.send_action(goal)

        def arrived():
            seen = robot.get_observation()
            return all(abs(seen[name] - value) < 1.0 for name, value in goal.items())

        wait_until(arrived)
        picture = robot.get_observation()["gripper_cam"]
        assert (picture.shape, picture.dtype) == ((480, 640, 3), np.uint8)
        assert picture.std() > 5
        # What lerobot calls degrees and what the physics calls radians are the same angles.
        expected = [np.deg2rad(value) for value in list(goal.values())[:5]]
        wait_until(lambda: np.allclose(twin.call(lambda world: world.q_rad())[:5], expected, atol=0.02))
    finally:
        robot.disconnect()


def test_our_driver_and_lerobot_read_the_same_pose(twin):
    robot = follower(twin)
    theirs = robot.get_observation()
    robot.disconnect()
    arm = SO101(twin.port, twin.robot_id, twin.calibration_dir, RealClock(), retries=RETRIES)
    arm.connect()
    ours = np.rad2deg(arm.read().q_rad)
    arm.close()
    for index, name in enumerate(JOINT_NAMES[:5]):
        assert theirs[f"{name}.pos"] == pytest.approx(ours[index], abs=4.0), name  # it sagged in between


def test_lerobot_calibrates_the_twin_held_by_a_hand(twin, tmp_path, monkeypatch):
    """Its whole procedure from nothing: middle, sweep, store. Our driver accepts the file and the servos."""
    robot = SO101Follower(SO101FollowerConfig(port=twin.port, id="new", calibration_dir=tmp_path))
    poses = sweep()
    patient(robot.bus).connect()
    robot.bus.disable_torque()
    twin.body.hand_rad = poses[0]
    wait_until(lambda: at(twin, poses[0]))
    monkeypatch.setattr("builtins.input", lambda *_: "")

    arrived = [False]

    def moved_by_hand():
        # lerobot looks at the pose before it asks: leave a pose only when it has been seen there.
        if arrived[0] and at(twin, poses[0]):
            poses.pop(0)
        twin.body.hand_rad = poses[0] if poses else None
        arrived[0] = bool(poses) and at(twin, poses[0])
        return not poses

    monkeypatch.setattr(motors_bus, "enter_pressed", moved_by_hand)
    try:
        robot.calibrate()
        arm = SO101(twin.port, "new", tmp_path, RealClock(), retries=RETRIES)
        robot.bus.port_handler.closePort()
        arm.connect()
        arm.close()
    finally:
        robot.bus.port_handler.closePort()
        twin.body.hand_rad = None
        store_calibration(twin.bus, load_calibration(twin.calibration_dir, twin.robot_id))
    found, wanted = load_calibration(tmp_path, "new").limits, model_limits()
    assert found.lower_rad == pytest.approx(wanted.lower_rad, abs=0.05)
    assert found.upper_rad == pytest.approx(wanted.upper_rad, abs=0.05)


# --- lerobot's bus -----------------------------------------------------------------------------------------


def test_lerobot_finds_all_six_servos(bus):
    assert bus.broadcast_ping(num_retry=RETRIES) == dict.fromkeys(range(1, 7), 777)


@pytest.mark.parametrize("name", STS_SMS_SERIES_CONTROL_TABLE)
def test_lerobot_reads_and_writes_each_register(bus, name):
    bus.write("Lock", "elbow_flex", 0)
    before = bus.read(name, "elbow_flex", normalize=False)
    ours = REGISTERS["Moving_Velocity_Threshold" if name == "Moving_Velocity" else name.strip()]
    if ours.read_only or name in ("ID", "Response_Status_Level"):  # else it no longer answers as asked
        return
    value = before ^ 1
    bus.write(name, "elbow_flex", value, normalize=False)
    if name != "Baud_Rate":  # the servo now speaks another
        assert bus.read(name, "elbow_flex", normalize=False) == value


def test_lerobot_sets_up_one_new_servo(bus):
    """As with a new arm: only one servo is plugged in, with the factory's id and another baud rate."""
    del bus.servos.servos[1:]
    new = bus.servos.servos[0]
    new.memory.set("Baud_Rate", 4)
    bus.setup_motor("gripper", initial_baudrate=115_200, initial_id=1)
    assert new.id == 6
    assert new.memory.get("Baud_Rate") == 0


def test_lerobots_half_turn_homing_centres_every_servo(bus):
    bus.disable_torque()
    bus.set_half_turn_homings()
    positions = bus.sync_read("Present_Position", normalize=False)
    assert set(positions.values()) == {2047}


# --- the camera --------------------------------------------------------------------------------------------


@pytest.fixture
def stream():
    """A camera server fed with a picture whose colour counts up, and lerobot's camera on it."""
    faults = Faults()
    server = CameraServer("cam", faults)
    stop = threading.Event()

    def feed():
        shade = 0
        while not stop.wait(0.02):
            shade = (shade + 10) % 200
            server.offer(np.full((48, 64, 3), (200, shade, 30), np.uint8))

    feeder = threading.Thread(target=feed)
    feeder.start()
    camera = ZMQCamera(
        ZMQCameraConfig(server_address=server.host, port=server.port, camera_name="cam", width=64, height=48)
    )
    camera.connect()
    yield camera, faults
    camera.disconnect()
    stop.set()
    feeder.join()
    server.close()


def test_colours_arrive_as_rgb(stream):
    camera, _ = stream
    red, _, blue = camera.read()[24, 32]
    assert (int(red), int(blue)) == (pytest.approx(200, abs=12), pytest.approx(30, abs=12))


def test_camera_faults_reach_the_client(stream):
    camera, faults = stream
    faults.camera = CameraFault.BLACK
    wait_until(lambda: camera.read().max() < 5)
    faults.camera = CameraFault.FROZEN
    wait_until(lambda: camera.read().max() > 100)
    first = camera.read()
    assert all((camera.read() == first).all() for _ in range(5))
    faults.camera = CameraFault.MISSING
    time.sleep(0.3)
    with pytest.raises(TimeoutError):
        camera.read_latest(max_age_ms=100)
    faults.camera = CameraFault.NONE
    wait_until(lambda: not (camera.read() == first).all())


def test_a_camera_port_in_use_is_named():
    server = CameraServer("cam", Faults())
    with pytest.raises(CameraError, match=f"127.0.0.1:{server.port} .*in use"):
        CameraServer("cam", Faults(), port=server.port)
    server.close()
    server.close()


# --- the twin ----------------------------------------------------------------------------------------------


def test_released_the_arm_hangs_and_held_it_stays(twin):
    arm = SO101(twin.port, twin.robot_id, twin.calibration_dir, RealClock(), retries=RETRIES)
    arm.connect()
    held = np.array([0.0, -0.3, 0.3, 0.5, 0.0, 0.2], np.float32)
    arm.command(held)
    wait_until(lambda: np.allclose(arm.read().q_rad, held, atol=0.03))
    arm.park()
    wait_until(lambda: not twin.body._driven.any())
    arm.close()


def test_the_cube_can_be_arranged_between_steps(twin):
    facts = twin.arrange(7)
    xyz = twin.call(lambda world: world.cube_xyz_m())
    assert xyz[:2] == pytest.approx([facts["cube_x_m"], facts["cube_y_m"]], abs=0.01)


def test_a_second_twin_at_the_same_link_is_refused(tmp_path):
    first = BusPort(ServoBus(LagBody(), Faults()), Faults(), tmp_path / "bus")
    with pytest.raises(BusError, match="another twin serves it"):
        BusPort(ServoBus(LagBody(), Faults()), Faults(), tmp_path / "bus")
    first.close()
    BusPort(ServoBus(LagBody(), Faults()), Faults(), tmp_path / "bus").close()


SERVE = """
from robot.twin.lift import LiftConfig
from robot.twin.wire import serve
raise SystemExit(serve(LiftConfig(), link="bus", camera_name="cam", camera_port=0, seed=0,
                       report=lambda line: print(line, flush=True)))
"""


def test_the_command_prints_what_to_type_and_ends_cleanly(tmp_path):
    env = {"MUJOCO_GL": "egl", "PYTHONPATH": os.getcwd()} | os.environ
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl+C" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    text = "".join(lines)
    assert "--robot.port=bus" in text
    assert "--robot.type=so101_follower" in text
    assert "twin ended" in rest
    assert (tmp_path / "calibration" / "twin.json").is_file()
    assert not (tmp_path / "bus").is_symlink()
