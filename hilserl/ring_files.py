"""A ring's memory on disk: one raw file per column, a layout that says what they mean, and a journal.

The columns are read through read-only maps, so that no stray write can harm them, and written with pwrite,
so that a full disk is an error with a name. They are the ring: opening reads the journal and the small
columns, never all the features. What survives:

- A killed process loses nothing but the episode being written: the machine still has every byte.
- A power cut may lose or tear what was written since the last `sync`, and what was about to be overwritten:
  these episodes are compared with their checksums on opening, and dropped, by name, where they differ.
- Features that rot on the disk later are not noticed, unless the journal or a file's size is damaged too:
  then everything is compared.
"""

from __future__ import annotations

import logging
import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilserl.ring_journal import Contents, Entry, Line, ReplayError, encode_line, read_lines, write_lines
from hilserl.ring_layout import (
    JOURNAL,
    Meaning,
    Shapes,
    delete_ring,
    is_new,
    make_layout,
    overlap,
    write_layout,
)
from hilserl.rundir import whole_file

log = logging.getLogger(__name__)

LARGE = ("features", "images")
"""Columns with a checksum per slot; the rest have one per episode."""
_OWN: dict[str, tuple[tuple[int, ...], str]] = {"serial": ((), "<i8"), "crc": ((), "<u4")}
_RESERVE = 4096
"""Slots named at a time as about to be overwritten: one wait for the disk each."""


class FileStorage:
    """The columns of `capacity` slots in `folder`, and what they hold.

    arrays: one read-only array (capacity, ...) per column. `sync` may be called from any thread, all else
    from one. Raises LayoutChanged when the folder holds a ring of another layout, ReplayError when the disk
    does not take the files. One process at a time: the run folder's lock sees to that.
    """

    def __init__(self, folder: Path, shapes: Shapes, capacity: int, meaning: Meaning) -> None:
        self.folder, self.capacity = folder, capacity
        self.contents = Contents()
        self.arrays: dict[str, NDArray[Any]] = {}
        self._files: dict[str, int] = {}
        self._shapes = {**_OWN, **shapes}
        self._small = [name for name in shapes if name not in LARGE]
        self._large = [name for name in shapes if name in LARGE]
        self._lock = threading.Lock()  # journal and contents
        self._syncing = threading.Lock()  # one sync at a time, and none while closing
        self._marked = 0
        layout = make_layout(self._shapes, capacity, meaning)
        try:
            self._open(is_new(folder, layout), layout)
        except (OSError, ReplayError) as error:
            self._close_files()
            if isinstance(error, ReplayError):
                raise
            raise ReplayError(f"the replay in {folder} cannot be opened: {error}") from error

    def _open(self, fresh: bool, layout: Line) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if fresh:
            delete_ring(self.folder)
        whole = self._open_columns(fresh)
        if not fresh:
            self._recover(whole)
        with whole_file(self.folder / JOURNAL) as temporary:
            lines = self.contents.compact()
            write_lines(temporary, lines)
        contents = Contents()
        for line in lines:
            contents.apply(line, self.capacity)
        self.contents = contents
        self._files[JOURNAL] = os.open(self.folder / JOURNAL, os.O_RDWR | os.O_APPEND)
        if fresh:
            write_layout(self.folder, layout)

    def _open_columns(self, fresh: bool) -> bool:
        """Open and map every column; False when one did not have its size."""
        whole = True
        for name, (shape, kind) in self._shapes.items():
            path = self.folder / f"{name}.column"
            self._files[name] = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            size = self.capacity * int(np.prod(shape)) * np.dtype(kind).itemsize
            found = os.fstat(self._files[name]).st_size
            if found != size:
                if not fresh:
                    log.warning("replay: %s has %d bytes, not %d; all is compared", path, found, size)
                    whole = False
                os.ftruncate(self._files[name], size)
            mapped = np.memmap(path, np.dtype(kind), "r", shape=(self.capacity, *shape))
            self.arrays[name] = np.asarray(mapped)
        return whole

    def _recover(self, whole: bool) -> None:
        """Replay the journal; drop, by name, every episode whose bytes are not what it says."""
        path = self.folder / JOURNAL
        lines, damaged = read_lines(path) if path.exists() else ([], 0)
        for line in lines:
            self.contents.apply(line, self.capacity)
        if damaged or not path.exists():
            what = f"is damaged {damaged} bytes before its end" if damaged else "is missing"
            log.warning("replay: %s %s: what it said there is lost, all before it is compared", path, what)
            whole = False
        dropped = {
            entry.serial: reason
            for entry in self.contents.entries.values()
            if (reason := self._fault(entry, not whole or self._doubtful(entry))) is not None
        }
        for serial in sorted(dropped, reverse=True):
            entry = self.contents.entries[serial]
            log.warning(
                "replay: dropped %s (%d frames) from %s: %s",
                entry.key, entry.frames, self.folder, dropped[serial],
            )  # fmt: skip
            self.contents.drop(serial, self.capacity)
        # Slots may still carry serials that the journal has lost: they must not be taken for new ones.
        self.contents.serial = max(self.contents.serial, int(self.arrays["serial"].max(initial=0)) + 1)
        if self.contents.unsynced or not whole:
            self._fsync_columns()

    def _doubtful(self, entry: Entry) -> bool:
        """Whether a power cut may have torn it: written or refreshed since the last sync, or overwritten."""
        return entry.serial in self.contents.unsynced or overlap(
            (entry.first, entry.frames), self.contents.zone, self.capacity
        )

    def _fault(self, entry: Entry, closely: bool) -> str | None:
        """What is wrong with an episode's bytes; closely: look at the large columns too."""
        spans = list(self._spans(entry.first, entry.frames))
        if any((self.arrays["serial"][span] != entry.serial).any() for span in spans):
            return "some of it was overwritten"
        crc = 0
        for name in self._small:
            for span in spans:
                crc = zlib.crc32(self.arrays[name][span], crc)
        if crc != entry.crc:
            return "its states, actions or rewards differ from their checksum"
        if closely:
            for span in spans:
                rows = {name: self.arrays[name][span] for name in self._large}
                if (_slot_crcs(rows) != self.arrays["crc"][span]).any():
                    return f"its {' and '.join(self._large)} differ from their checksum"
        return None

    def record(self, line: Line) -> None:
        """Let an event happen: in the journal first, then in `contents`. Raises ReplayError."""
        with self._lock:
            self._append(line)

    def _append(self, line: Line, durably: bool = False) -> None:
        file = self._files[JOURNAL]
        try:
            size = os.fstat(file).st_size
            try:
                _write_all(file, memoryview(encode_line(line)), None)
            except OSError:
                os.ftruncate(file, size)  # half a line would hide all that follow
                raise
            if durably:
                os.fsync(file)
        except OSError as error:
            raise ReplayError(f"the replay's {self.folder / JOURNAL} cannot be written: {error}") from error
        self.contents.apply(line, self.capacity)

    def write(self, serial: int, first: int, rows: Mapping[str, NDArray[Any]]) -> int:
        """Fill slots `first` and on with an episode's rows, one array (frames, ...) per column.

        Returns the checksum of the small columns. Whoever was there must have been evicted. Raises
        ReplayError when the disk is full; the slots then belong to nobody.
        """
        crc = 0
        for name in self._small:
            crc = zlib.crc32(np.ascontiguousarray(rows[name]), crc)
        frames = len(next(iter(rows.values())))
        # The serial first: from then on an older episode that was there is known to be overwritten.
        self._put("serial", first, np.full(frames, serial, np.int64))
        for name in (*self._small, *self._large):
            self._put(name, first, rows[name])
        self._put("crc", first, _slot_crcs({name: rows[name] for name in self._large}))
        return crc

    def reserve(self, first: int, frames: int) -> None:
        """Say durably, ahead of it, that these slots will be overwritten."""
        zone, slots = self.contents.zone
        if (first - zone) % self.capacity + frames > slots:
            line = {"op": "reserve", "first": first, "frames": min(self.capacity, max(frames, _RESERVE))}
            with self._lock:
                self._append(line, durably=True)

    def begin_refresh(self, entry: Entry) -> None:
        """Say durably, ahead of it, that an episode's features will change."""
        with self._lock:
            self._append({"op": "refresh", "serial": entry.serial, "passes": entry.passes + 1}, durably=True)

    def refresh(self, entry: Entry, first: int, features: NDArray[Any]) -> None:
        """Replace the features (n, ...) of an episode's slots from `first` on."""
        with self._lock:
            if self.contents.unsynced.get(entry.serial, -1) < self._marked:  # synced since it was said
                again = {"op": "refresh", "serial": entry.serial, "passes": entry.passes}
                self._append(again, durably=True)
            self._put("features", first, features)
            self._put("crc", first, _slot_crcs({"features": features}))

    def _put(self, name: str, first: int, rows: NDArray[Any]) -> None:
        shape, kind = self._shapes[name]
        data = np.ascontiguousarray(rows, np.dtype(kind))
        if data.shape[1:] != shape:
            raise ValueError(f"a slot of {name} is {shape}, got {data.shape[1:]}")
        size = data[:1].nbytes
        done = 0
        try:
            for span in self._spans(first, len(data)):
                part = data[done : done + span.stop - span.start]
                _write_all(self._files[name], memoryview(part.reshape(-1).view(np.uint8)), span.start * size)
                done += len(part)
        except OSError as error:
            raise ReplayError(f"the replay's {name} in {self.folder} cannot be written: {error}") from error

    def _spans(self, first: int, frames: int) -> Iterator[slice]:
        """The slots of an episode as one range, or two where they wrap."""
        end = min(first + frames, self.capacity)
        yield slice(first, end)
        if first + frames > self.capacity:
            yield slice(0, first + frames - self.capacity)

    def sync(self) -> None:
        """Bring everything written so far to the disk. From any thread; nobody else waits for it."""
        with self._syncing:
            if self._files[JOURNAL] < 0:
                return
            with self._lock:
                self._marked = self.contents.lines
            self._fsync_columns()
            with self._lock:
                self._append({"op": "sync", "line": self._marked}, durably=True)

    def _fsync_columns(self) -> None:
        try:
            for name in self._shapes:
                os.fsync(self._files[name])
        except OSError as error:
            raise ReplayError(f"the replay in {self.folder} did not reach the disk: {error}") from error

    def close(self) -> None:
        """Sync and close. More than once is allowed; the arrays stay readable."""
        self.sync()
        self._close_files()

    def _close_files(self) -> None:
        with self._syncing:
            for name, file in self._files.items():
                if file >= 0:
                    os.close(file)
                self._files[name] = -1  # a later write fails, and never goes into somebody else's file


def _slot_crcs(rows: Mapping[str, NDArray[Any]]) -> NDArray[np.uint32]:
    """One checksum per slot of the columns (frames, ...) together."""
    columns = [np.ascontiguousarray(column) for column in rows.values()]
    crcs = np.zeros(len(columns[0]), np.uint32)
    for slot in range(len(crcs)):
        crc = 0
        for column in columns:
            crc = zlib.crc32(column[slot], crc)
        crcs[slot] = crc
    return crcs


def _write_all(file: int, data: memoryview, offset: int | None) -> None:
    """Write all of `data` at `offset`, at the end for None."""
    while data:
        done = os.write(file, data) if offset is None else os.pwrite(file, data, offset)
        data = data[done:]
        offset = None if offset is None else offset + done
