"""The watchdog as the program it watches over sees it: started before torque, told of every sign of life."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import robot
from robot.errors import WatchdogLost
from robot.watchdog_protocol import BEAT_S, HEARD, READY, Beat, WatchdogSettings

READY_S: Final = 60.0
"""Longest start of the watchdog, on a machine that is busy."""
DEAF_S: Final = 5.0
"""A watchdog that has not answered for so long is not watching."""
GOODBYE_S: Final = 5.0


class WatchdogLink:
    """A watchdog process, and the thread that tells it that this program lives.

    with WatchdogLink(settings, say) as watchdog:
        watchdog.wait_ready()
        arm = SO101(..., supervisor=watchdog)
        watchdog.idle_s = lambda: ...

    Leaving the block says goodbye; where servos may still be energised the watchdog then releases them.
    """

    def __init__(self, settings: WatchdogSettings, say: Callable[[str], None] = lambda line: None) -> None:
        self.idle_s: Callable[[], float] = lambda: 0.0
        """Seconds since the main loop last used the arm."""
        self._settings, self._say = settings, say
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._torque, self._pauses = False, 0
        self._lost = ""
        self._ready, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="watchdog-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        root = str(Path(robot.__file__).resolve().parents[1])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "robot.watchdog", self._settings.to_json(), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # a signal to this program's group is not for it
        )
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        if self._torque and process.poll() is None:
            self._say("servos may still be energised: the watchdog process goes on to release the arm")
        else:
            try:
                process.wait(GOODBYE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()

    def wait_ready(self) -> None:
        """Wait until the watchdog watches. Raises WatchdogLost when it does not come up."""
        if not self._ready.wait(READY_S):
            self._lost = self._lost or f"it did not come up within {READY_S:g} s"
        self.check()

    def torque(self, on: bool) -> None:
        """Before any servo may be energised: True. When all are known to be released: False.

        Raises WatchdogLost, for True only.
        """
        if on:
            self.check()
        self._torque = on
        self._send()
        if on:
            self.check()

    def check(self) -> None:
        """Raise WatchdogLost unless the watchdog watches."""
        if self._lost:
            raise WatchdogLost(
                f"the watchdog process of arm {self._settings.robot_id!r} is gone ({self._lost});"
                " without it nothing would park the arm in an emergency. Start again"
            )

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Inside, the main loop may leave the arm holding for as long as it wants: a person is asked."""
        with self._lock:
            self._pauses += 1
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1

    def _send(self) -> None:
        process = self._process
        assert process is not None and process.stdin is not None
        with self._lock:
            beat = Beat(self._torque, 0.0 if self._pauses else self.idle_s())
            try:
                os.write(process.stdin.fileno(), beat.line())
            except BlockingIOError:
                pass  # it does not read: DEAF_S finds that out
            except OSError as error:
                self._lost = self._lost or self._ended(process) or str(error)

    def _beat(self) -> None:
        process = self._process
        assert process is not None and process.stdout is not None
        heard_s = last_s = time.monotonic()
        unread = b""
        while not self._end.wait(BEAT_S):
            self._send()
            now_s = time.monotonic()
            heard_s += max(0.0, now_s - last_s - 2 * BEAT_S)  # this program itself stood still
            last_s = now_s
            if select.select([process.stdout], [], [], 0)[0]:
                data = os.read(process.stdout.fileno(), 4096)
                unread += data
                if not data:
                    self._lost = self._lost or self._ended(process) or "it closed its side"
            if not self._ready.is_set() and unread.startswith(READY):
                unread = unread[len(READY) :]
                self._ready.set()
            if HEARD in unread or not self._ready.is_set():
                heard_s = now_s
                unread = unread if not self._ready.is_set() else b""
            if now_s - heard_s > DEAF_S:
                self._lost = self._lost or f"it has not answered for {DEAF_S:g} s"
            if self._lost:
                self._ready.set()  # nobody waits for it any more
                return

    @staticmethod
    def _ended(process: subprocess.Popen[bytes]) -> str:
        try:
            code = process.wait(0.2)
        except subprocess.TimeoutExpired:
            return ""
        return f"it ended with code {code}"
