"""What the preview looks through: the cameras of the configuration, and never an arm that could move.

On a servo bus only cameras are opened. The lock-step twin plays in real time in a thread of its own.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from hilserl.body import build_body, open_camera
from hilserl.config import Config
from hilserl.env import Env
from hilserl.reward import ButtonReward
from hilserl.rollout import HoldStill, rollout
from hilserl.types import Obs, Step
from robot.errors import CameraError, RobotError
from robot.timing import Latest
from robot.types import Camera, Frame

SEED = 70_000_000
"""Where the seeds of what the twin plays start: recordings and training have others."""
LOOK_S = 0.2
"""How often a camera that gave no picture is tried again."""
REOPEN_S = 10.0
"""A camera in trouble for so long is closed and opened anew: its own attempts may have ended."""
TWIN_PAUSE_S = 2.0
"""The twin's last picture may be so old: it gives none while its table is arranged anew."""


@contextmanager
def preview_cameras(config: Config) -> Iterator[Mapping[str, Camera]]:
    """The cameras of this configuration, by name, in the order of their names.

    None that fails ends the block: it raises CameraError when asked for a picture, until it has one again.
    The twin's scripted operator rehearses where teleop.type is "scripted"; otherwise its arm holds still.
    """
    with ExitStack() as stack:
        if config.robot.type == "twin":
            twin = PlayedTwin(config)
            stack.callback(twin.close)
            yield {name: _TwinCamera(twin, name) for name in sorted(config.task.camera_ids)}
            return
        cameras = {}
        size = (config.task.camera_width, config.task.camera_height)
        for name, camera in sorted(config.cameras.items()):
            cameras[name] = SteadyCamera(partial(open_camera, name, camera, size), name)
            stack.callback(cameras[name].close)
        yield cameras


class SteadyCamera:
    """A Camera that is opened again and again, in a thread of its own, for as long as it gives nothing."""

    def __init__(
        self, opened: Callable[[], Camera], name: str, *, look_s: float = LOOK_S, reopen_s: float = REOPEN_S
    ) -> None:
        """opened: opens the camera, or raises CameraError."""
        self._opened, self._look_s, self._reopen_s = opened, look_s, reopen_s
        self._camera: Camera | None = None
        self._trouble = f"camera {name!r} is being opened"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"steady-{name}", daemon=True)
        self._thread.start()

    def latest(self) -> Frame:
        """The newest picture. Raises CameraError while there is none."""
        camera = self._camera
        if camera is None:
            raise CameraError(self._trouble)
        return camera.latest()

    def close(self) -> None:
        """End the thread and release the camera. More than once is allowed."""
        self._stop.set()
        self._thread.join(timeout=10.0)  # longer than a camera may take to give its first picture

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._camera = self._opened()
            except CameraError as error:
                self._trouble = str(error)
                self._stop.wait(self._look_s)
                continue
            try:
                self._watch(self._camera)
            finally:
                camera, self._camera = self._camera, None
                camera.close()

    def _watch(self, camera: Camera) -> None:
        """Return when the camera has been in trouble for too long, or at the end."""
        good_s = time.monotonic()
        while not self._stop.wait(self._look_s):
            try:
                camera.latest()
                good_s = time.monotonic()
            except CameraError as error:
                self._trouble = str(error)
                if time.monotonic() - good_s > self._reopen_s:
                    return


class PlayedTwin:
    """The lock-step twin in real time, in a thread of its own: its world and its renderer know one thread."""

    def __init__(self, config: Config) -> None:
        if config.teleop.type != "scripted":
            config = replace(config, teleop=replace(config.teleop, type="none"))
        self._config = config
        self._newest: Latest[tuple[float, int, Mapping[str, Frame]]] = Latest()
        self._ended = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="played-twin", daemon=True)
        self._thread.start()

    def latest(self, name: str) -> Frame:
        """The newest picture of a camera. Raises CameraError where there is none, or an old one."""
        newest = self._newest.get()
        if newest is None:
            raise CameraError(self._ended or "the twin has not given a picture yet")
        stamp_s, index, frames = newest[1]
        age_s = time.monotonic() - stamp_s
        if self._ended or age_s > TWIN_PAUSE_S:
            raise CameraError(self._ended or f"the twin's newest picture is {age_s:.1f} s old")
        return Frame(frames[name].rgb, stamp_s, index)

    def close(self) -> None:
        """End the thread and release the renderer."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        config = self._config
        ended = "the twin ended by a mistake in this program; its traceback is in the terminal"
        try:
            judge = ButtonReward(config.task.success)
            with build_body(config, _silent, demonstrate=True, near_misses=True, judge=judge) as body:
                listener = _RealTime(body.env, 1.0 / config.task.fps, self._newest, self._stop)
                for seed in itertools.count(SEED):
                    rollout(
                        env=body.env,
                        policy=HoldStill(),
                        teleop=body.teleop,
                        reward=body.reward,
                        seed=seed,
                        max_steps=round(config.task.control_time_s * config.task.fps),
                        listeners=(listener,),
                        should_stop=self._stop.is_set,
                    )
                    if self._stop.is_set():
                        ended = "the twin was closed"
                        return
        except RobotError as error:
            ended = f"the twin ended: {error}"
        finally:
            self._ended = ended


class _RealTime:
    """A Listener that hands on what the cameras saw, one control period after the other."""

    def __init__(
        self,
        env: Env,
        period_s: float,
        newest: Latest[tuple[float, int, Mapping[str, Frame]]],
        stop: threading.Event,
    ) -> None:
        self._env, self._period_s, self._newest, self._stop = env, period_s, newest, stop
        self._due_s, self._count = 0.0, 0

    def begin(self, obs: Obs) -> None:
        self._show()

    def step(self, step: Step) -> None:
        self._show()

    def _show(self) -> None:
        self._stop.wait(max(0.0, self._due_s - time.monotonic()))
        now_s = time.monotonic()
        self._due_s = max(self._due_s, now_s - self._period_s) + self._period_s
        self._newest.put((now_s, self._count, dict(self._env.frames)))
        self._count += 1


class _TwinCamera:
    """A Camera of the played twin."""

    def __init__(self, twin: PlayedTwin, name: str) -> None:
        self._twin, self._name = twin, name

    def latest(self) -> Frame:
        return self._twin.latest(self._name)

    def close(self) -> None:
        """Nothing to release; the twin is closed as a whole."""


def _silent(_: str) -> None:
    """Nobody hears of the twin's episodes."""
