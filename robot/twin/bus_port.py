"""A pseudo-terminal with a servo bus behind it: what a USB servo adapter is to the program that opens it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import tempfile
import termios
import threading
import tty
from pathlib import Path
from typing import Final

from robot.errors import BusError
from robot.twin.faults import Faults
from robot.twin.servo_bus import ServoBus

TICK_S: Final = 0.02
READ_SIZE: Final = 4096
UNKNOWN_BAUD: Final = -1
BAUD_CODES: Final[dict[int, int]] = {
    termios.B1000000: 0,
    termios.B500000: 1,
    termios.B115200: 4,
    termios.B57600: 5,
    termios.B38400: 6,
    termios.B19200: 7,
}
"""Line speed -> the servo's Baud_Rate. Codes 2 and 3 (250k, 128k) have no name on a pseudo-terminal."""


class BusPort:
    """Serves a ServoBus at `port`, a link that stays the same when the cable is pulled and put back.

    port.plug(); ...; port.unplug(); port.plug(); ...; port.close()
    """

    def __init__(self, bus: ServoBus, faults: Faults, link: Path | None = None) -> None:
        """link: where to make the link to the pseudo-terminal; without it, in a new temporary folder.

        Raises BusError when another twin serves the same link.
        """
        self._bus, self._faults = bus, faults
        self._folder = tempfile.TemporaryDirectory(prefix="so101-twin-") if link is None else None
        self._link = link or Path(self._folder.name if self._folder else "") / "servo-bus"
        self._link.parent.mkdir(parents=True, exist_ok=True)
        self._lock_file = os.open(self._link.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock_file)
            raise BusError(
                f"{self._link} is busy: another twin serves it; end it, or name another"
            ) from error
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._plugging = threading.Lock()
        self._master = self._slave = -1

    @property
    def port(self) -> str:
        """Path to open as a serial port."""
        return str(self._link)

    def plug(self) -> None:
        """Make the port appear and answer. Raises FileExistsError if another file has its name."""
        with self._plugging:
            if self._thread is not None:
                return
            self._master, self._slave = os.openpty()
            tty.setraw(self._slave)
            os.set_blocking(self._master, False)
            if self._link.is_symlink():
                self._link.unlink()
            self._link.symlink_to(os.ttyname(self._slave))
            self._stop.clear()
            self._thread = threading.Thread(target=self._serve, name="twin-bus", daemon=True)
            self._thread.start()

    def unplug(self) -> None:
        """Make the port disappear, as when the cable is pulled; whoever has it open gets errors."""
        with self._plugging:
            if self._thread is None:
                return
            self._stop.set()
            self._thread.join()
            self._thread = None
            with contextlib.suppress(FileNotFoundError):
                self._link.unlink()
            os.close(self._slave)
            os.close(self._master)

    def close(self) -> None:
        """Unplug for good. More than once is allowed."""
        if self._lock_file < 0:
            return
        self.unplug()
        self._link.with_suffix(".lock").unlink()
        os.close(self._lock_file)
        self._lock_file = -1
        if self._folder is not None:
            self._folder.cleanup()

    def _serve(self) -> None:
        while not self._stop.is_set():
            ready, _, _ = select.select([self._master], [], [], TICK_S)
            if not ready:
                self._bus.tick()
                continue
            data = os.read(self._master, READ_SIZE)
            self._bus.line_baud = BAUD_CODES.get(termios.tcgetattr(self._slave)[5], UNKNOWN_BAUD)
            answer = self._bus.receive(data)
            if answer and (delay_s := self._faults.delay_s()):
                self._stop.wait(delay_s)
            # Nobody reads: the bytes are lost, as on a wire.
            with contextlib.suppress(BlockingIOError):
                os.write(self._master, answer)
