"""The actor's spool: every record is on this disk before it is sent, until the learner has it on its own.

One file per episode: NUMBER.open while it is played, NUMBER.ready once it has ended, gone when acknowledged.
A file is a row of frames: length (uint32), CRC-32 of the payload (uint32), payload; little endian.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from hilserl.episode import fsync_folder

_FRAME = struct.Struct("<II")
_FILE = re.compile(r"(\d+)\.(open|ready)")
MAX_FRAME_BYTES = 8 * 2**20


class SpoolError(Exception):
    """The spool folder is in use, or one of its files is damaged. The message names it."""


class Spool:
    """Episodes of one actor that the learner has not acknowledged. One process at a time; thread-safe.

    identity: stays with the folder. last_number: highest number ever begun here, 0 at first.
    on_problem: told in words what was dropped (cut short) or set aside (damaged, refused).
    """

    def __init__(self, folder: Path, on_problem: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock_file = (folder / "lock").open("a")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.close()
            raise SpoolError(f"{folder} is in use by another running actor") from error
        self.identity = self._read("identity") or self._write("identity", uuid.uuid4().hex)
        self._say = on_problem
        self._changed = threading.Condition()  # its lock is re-entrant
        self._ready: set[int] = set()
        self._aside: dict[int, str] = {}
        self._open: BinaryIO | None = None
        self._open_number = 0
        self._open_size = 0
        numbers = self._recover()
        self.last_number = max([int(self._read("last_number") or 0), *numbers])

    def begin(self, number: int) -> None:
        """Open the file of a new episode. Raises SpoolError unless `number` is above every earlier one."""
        with self._changed:
            if self._open is not None:
                raise SpoolError(f"episode {self._open_number} is still open in {self.folder}")
            if number <= self.last_number:
                raise SpoolError(f"episode number must be above {self.last_number}, got {number}")
            self._write("last_number", str(number))
            self.last_number = number
            self._open = self._path(number, "open").open("xb", buffering=0)
            self._open_number, self._open_size = number, 0

    def append(self, payload: bytes) -> None:
        """Add one record to the open episode. Raises SpoolError when none is open or it is too large."""
        if len(payload) > MAX_FRAME_BYTES:
            raise SpoolError(f"a record may have {MAX_FRAME_BYTES} bytes, this one has {len(payload)}")
        frame = _FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        with self._changed:
            if self._open is None:
                raise SpoolError("no episode is open")
            written = _write_whole(self._open, frame, self._open_size)
            self._open_size += written
            self._changed.notify_all()

    def commit(self) -> None:
        """The open episode is complete: from here on it survives a crash."""
        with self._changed:
            if self._open is None:
                raise SpoolError("no episode is open")
            os.fsync(self._open.fileno())
            self._open.close()
            self._open = None
            self._path(self._open_number, "open").rename(self._path(self._open_number, "ready"))
            fsync_folder(self.folder)
            self._ready.add(self._open_number)
            if self._open_number in self._aside:
                self.set_aside(self._open_number, self._aside.pop(self._open_number))
            self._changed.notify_all()

    def acknowledge(self, number: int) -> None:
        """Forget every complete episode up to and including `number`."""
        with self._changed:
            for done in [n for n in self._ready if n <= number]:
                self._path(done, "ready").unlink()
                self._ready.discard(done)
            self._changed.notify_all()

    def set_aside(self, number: int, suffix: str) -> None:
        """Keep episode `number` as NUMBER.suffix once it is complete, never to be sent again."""
        with self._changed:
            if number in self._ready:
                kept = self._path(number, "ready").rename(self._path(number, suffix))
                self._ready.discard(number)
                self._say(f"episode {number} is kept as {kept} and not sent")
                self._changed.notify_all()
            elif self._open is not None and self._open_number == number:
                self._aside[number] = suffix

    def pending(self) -> list[int]:
        """Numbers of the complete episodes that are not acknowledged, in order."""
        with self._changed:
            return sorted(self._ready)

    def wait_empty(self, timeout_s: float, but: int = 0) -> bool:
        """Wait until all complete episodes `but` so many are acknowledged. False when time passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._ready) <= but, timeout_s)

    def wake(self) -> None:
        """Let every `follow` look at its `over` again."""
        with self._changed:
            self._changed.notify_all()

    def follow(self, over: threading.Event) -> Iterator[bytes]:
        """Yield every record: of the complete episodes in order, then of the open one as it grows.

        Ends when `over` is set (and `wake` called). A damaged episode breaks off and is set aside.
        """
        sent = 0
        while not over.is_set():
            with self._changed:
                number = self._next_after(sent)
                if number is None:
                    self._changed.wait(1.0)
                    continue
                suffix = "ready" if number in self._ready else "open"
                file = self._path(number, suffix).open("rb")
            try:
                with file:
                    yield from self._frames(file, number, over)
            except SpoolError as error:
                self._say(str(error))
                self.set_aside(number, "corrupt")
            sent = number

    def close(self) -> None:
        """Let go of the folder. An open episode is lost, as in a crash. More than once is allowed."""
        with self._changed:
            if self._open is not None:
                self._open.close()
                self._open = None
            self._lock_file.close()
            self._changed.notify_all()

    def _next_after(self, number: int) -> int | None:
        numbers = {n for n in self._ready if n > number}
        if self._open is not None and self._open_number > number:
            numbers.add(self._open_number)
        return min(numbers, default=None)

    def _frames(self, file: BinaryIO, number: int, over: threading.Event) -> Iterator[bytes]:
        """Yield the frames of one episode, waiting for more while it is open."""
        offset = 0
        while not over.is_set():
            with self._changed:
                still_open = self._open is not None and self._open_number == number
                if still_open and offset == self._open_size:
                    self._changed.wait(1.0)
                    continue
            payload = _read_frame(file)
            if payload is None:
                return
            offset += _FRAME.size + len(payload)
            yield payload

    def _recover(self) -> list[int]:
        """Take stock at start: drop unfinished episodes, set damaged ones aside. Return all numbers seen."""
        numbers = []
        for path in sorted(self.folder.iterdir()):
            match = _FILE.fullmatch(path.name)
            if match is None:
                continue
            number = int(match[1])
            numbers.append(number)
            if match[2] == "open":
                path.unlink()
                self._say(f"episode {number} was cut short when the actor ended; dropped")
                continue
            self._ready.add(number)
            try:
                with path.open("rb") as file:
                    while _read_frame(file) is not None:
                        pass
            except SpoolError as error:
                self._say(str(error))
                self.set_aside(number, "corrupt")
        return numbers

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number:08d}.{suffix}"

    def _read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def _write(self, name: str, text: str) -> str:
        temporary = self.folder / f".{name}.tmp"
        temporary.write_text(text)
        temporary.replace(self.folder / name)
        return text


def _write_whole(file: BinaryIO, frame: bytes, size: int) -> int:
    """Append `frame` to a file of `size` bytes, or leave it as it was and raise SpoolError."""
    try:
        written = file.write(frame)
    except OSError as error:
        written, reason = 0, str(error)
    else:
        reason = f"wrote {written} of {len(frame)} bytes"
    if written != len(frame):
        file.truncate(size)
        file.seek(size)
        raise SpoolError(f"{file.name}: {reason}; is the disk full?")
    return written


def _read_frame(file: BinaryIO) -> bytes | None:
    """Return the next payload, None at the end of the file. Raises SpoolError when torn or corrupt."""
    head = file.read(_FRAME.size)
    if not head:
        return None
    where = f"{getattr(file, 'name', 'spool file')}: record before byte {file.tell()}"
    if len(head) < _FRAME.size:
        raise SpoolError(f"{where} is torn")
    size, crc = _FRAME.unpack(head)
    if size > MAX_FRAME_BYTES:
        raise SpoolError(f"{where} is corrupt (it claims {size} bytes)")
    payload = file.read(size)
    if len(payload) < size:
        raise SpoolError(f"{where} is torn")
    if zlib.crc32(payload) != crc:
        raise SpoolError(f"{where} is corrupt (checksum)")
    return payload
