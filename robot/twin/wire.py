"""The wire-level twin: a servo bus on a pseudo-terminal and a camera stream, moved by physics in real time.

Unmodified lerobot, or `robot.so101` and `robot.camera`, connect to it as to a real arm.
"""

from __future__ import annotations

import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from robot.calibration import calibration_path, load_calibration, save_calibration
from robot.errors import RobotError
from robot.twin.bus_port import BusPort
from robot.twin.camera_server import CameraServer
from robot.twin.faults import Faults
from robot.twin.lift import LiftConfig
from robot.twin.model import TIMESTEP_S
from robot.twin.servo_bus import ServoBus
from robot.twin.world import World, arrange_lift
from robot.twin.world_body import WorldBody, hand_at, store_calibration, twin_calibration
from robot.types import JOINT_NAMES

PHYSICS_S: Final = 8 * TIMESTEP_S
MAX_LAG_S: Final = 0.1
CAMERA_HZ: Final = 30.0
IDLE_S: Final = 0.2
HAND_S: Final = 0.02
SWITCH_S: Final = 0.0005
"""Longest wait of the bus for the interpreter while physics and camera work: a servo answers within 1 ms."""
START_RAD: Final = (0.0, -1.7, 1.65, 0.8, 0.0, 0.0)
"""Folded, as a person leaves an arm that is switched off."""


class WireTwin:
    """A simulated SO-101 as real programs see one: `port` to open, a camera to subscribe to.

    with WireTwin(calibration_dir, robot_id) as twin: connect to twin.port
    """

    def __init__(
        self,
        calibration_dir: str | Path,
        robot_id: str = "twin",
        *,
        seed: int = 0,
        scene: LiftConfig | None = None,
        link: str | Path | None = None,
        camera_port: int = 0,
        camera_name: str = "gripper_cam",
        faults: Faults | None = None,
        world: World | None = None,
    ) -> None:
        """Come up calibrated: the servos take `<calibration_dir>/<robot_id>.json`, made if it is missing.

        seed, scene: how the cube lies. link: path of the port, else in a new folder. camera_port 0: any
        free one. world: the physics, made when None.
        """
        self.faults = faults or Faults(seed)
        self.robot_id, self.calibration_dir = robot_id, Path(calibration_dir)
        self._world = world or World()
        self._world.set_arm(np.array(START_RAD, np.float32))
        self.scene_facts = arrange_lift(self._world, scene or LiftConfig(), seed)
        self.body = WorldBody(self._world)
        self.bus = ServoBus(self.body, self.faults)
        self._calibrate()
        self._camera = CameraServer(camera_name, self.faults, port=camera_port)
        try:
            self._bus_port = BusPort(self.bus, self.faults, Path(link) if link else None)
        except BaseException:
            self._camera.close()
            raise
        self._camera_name = camera_name
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stop, self._ready = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="twin-world", daemon=True)
        self.lost_s = 0.0

    @property
    def port(self) -> str:
        """Path of the servo bus."""
        return self._bus_port.port

    @property
    def running(self) -> bool:
        """False before the start, after the end, and when the physics failed."""
        return self._thread.is_alive()

    @property
    def camera_address(self) -> tuple[str, int]:
        """Host and port of the camera stream."""
        return self._camera.host, self._camera.port

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._stop.is_set():
            self.__exit__(None, None, None)
            raise RobotError("the twin's physics or its renderer failed to start; see the error above")
        self._bus_port.plug()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._bus_port.close()
        self._camera.close()

    def unplug(self) -> None:
        """Pull the USB cable: the port disappears. The servos keep their supply and their goals."""
        self._bus_port.unplug()

    def replug(self) -> None:
        """Put the USB cable back: the port appears again under the same name."""
        self._bus_port.plug()

    def arrange(self, seed: int, scene: LiftConfig | None = None) -> dict[str, float]:
        """Put the cube where `seed` says, between two physics steps; returns the facts."""
        return self.call(lambda world: arrange_lift(world, scene or LiftConfig(), seed))

    def call[T](self, what: Callable[[World], T]) -> T:
        """Run `what` between two physics steps, on the physics thread, and return its result."""
        done: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._calls.put(lambda: done.put(what(self._world)))
        return done.get(timeout=5.0)

    def config_lines(self) -> list[str]:
        """What to type to use this arm with lerobot and with hilserl."""
        host, camera_port = self.camera_address
        arm = (
            f"--robot.port={self.port} --robot.id={self.robot_id}"
            f" --robot.calibration_dir={self.calibration_dir}"
        )
        camera = f"--cameras.{self._camera_name}"
        lerobot_camera = (
            f"{{{self._camera_name}: {{type: zmq, server_address: {host}, port: {camera_port},"
            f" camera_name: {self._camera_name}, width: 640, height: 480, fps: {CAMERA_HZ:.0f}}}}}"
        )
        return [
            f"hilserl: --robot.type=so101 {arm} {camera}.type=zmq {camera}.server_address={host}"
            f" {camera}.port={camera_port}",
            f"lerobot: --robot.type=so101_follower {arm} --robot.cameras='{lerobot_camera}'",
            f"lerobot, as a leader: --teleop.type=so101_leader {arm.replace('--robot.', '--teleop.')}",
        ]

    def _calibrate(self) -> None:
        if not calibration_path(self.calibration_dir, self.robot_id).exists():
            save_calibration(twin_calibration(), self.calibration_dir, self.robot_id)
        store_calibration(self.bus, load_calibration(self.calibration_dir, self.robot_id))

    def _run(self) -> None:
        try:
            self._simulate()
        finally:
            # Also when the physics failed: an arm without a body must not look alive.
            self._stop.set()
            self._ready.set()
            self._bus_port.unplug()
            self._world.close()

    def _simulate(self) -> None:
        self._camera.offer(self._world.render_gripper())  # the first picture takes long: not in real time
        self._ready.set()
        start_s = time.monotonic()
        simulated_s, next_frame_s = 0.0, 0.0
        while not self._stop.is_set():
            elapsed_s = time.monotonic() - start_s - self.lost_s
            if elapsed_s - simulated_s > MAX_LAG_S:  # too slow a machine: time is lost, and counted
                self.lost_s += elapsed_s - simulated_s - MAX_LAG_S
            if elapsed_s > simulated_s:
                self.body.advance(PHYSICS_S, self.bus.speed_limits_rad_s())
                simulated_s += PHYSICS_S
            else:
                self._stop.wait(simulated_s - elapsed_s)
            while not self._calls.empty():
                self._calls.get()()
            if elapsed_s >= next_frame_s:
                self._camera.offer(self._world.render_gripper())
                next_frame_s = max(next_frame_s + 1 / CAMERA_HZ, elapsed_s)


def serve(
    scene: LiftConfig,
    *,
    link: str | Path,
    camera_name: str,
    camera_port: int,
    seed: int,
    report: Callable[[str], None],
    seconds: float | None = None,
    calibration_dir: str | Path = "calibration",
    robot_id: str = "twin",
    faults: Faults | None = None,
    hand: bool = False,
) -> int:
    """The command `hilserl twin`: run a WireTwin until interrupted, or for `seconds`; returns the status.

    report: prints one line. hand: a simulated person moves the released arm (see `hand_at`).
    """
    sys.setswitchinterval(SWITCH_S)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with WireTwin(
        calibration_dir,
        robot_id,
        seed=seed,
        scene=scene,
        link=link,
        camera_port=camera_port,
        camera_name=camera_name,
        faults=faults,
    ) as twin:
        report(f"SO-101 twin with servos {', '.join(JOINT_NAMES)} at {twin.port}")
        for line in twin.config_lines():
            report(line)
        report("Ctrl+C ends it.")
        start_s = time.monotonic()
        while twin.running and not stop.wait(HAND_S if hand else IDLE_S):
            elapsed_s = time.monotonic() - start_s
            if hand:
                twin.body.hand_rad = hand_at(elapsed_s)
            if seconds is not None and elapsed_s >= seconds:
                break
        failed = not twin.running
    report(
        "the twin's physics failed; see the error above"
        if failed
        else f"twin ended; its physics fell behind real time by {twin.lost_s:.2f} s in all"
    )
    return int(failed)
