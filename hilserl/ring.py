"""The memory under the replay: slots for frames and steps, written episode by episode.

An episode of T steps takes T + 1 consecutive slots: slot i holds frame i and, but for the last, the step
taken from it. What follows a step is found by counting slots, never beyond the episode's last, so a time-out,
a discard or the ring's wrap can never pair unrelated frames. An episode is evicted whole, so a frame stack
never reaches into another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hilserl.ring_journal import Contents, Entry, Key, Line, ReplayError
from hilserl.ring_layout import Shapes, overlap
from hilserl.types import ACTION_SIZE, Episode

I64 = NDArray[np.int64]


class Storage(Protocol):
    """Where a ring's columns are: arrays (capacity, ...) to read, and what they hold."""

    capacity: int
    contents: Contents
    arrays: dict[str, NDArray[Any]]

    def record(self, line: Line) -> None: ...

    def reserve(self, first: int, frames: int) -> None: ...

    def write(self, serial: int, first: int, rows: Mapping[str, NDArray[Any]]) -> int: ...

    def begin_refresh(self, entry: Entry) -> None: ...

    def refresh(self, entry: Entry, first: int, features: NDArray[Any]) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


class MemoryStorage:
    """Columns in memory, gone with the process."""

    def __init__(self, shapes: Shapes, capacity: int) -> None:
        self.capacity, self.contents = capacity, Contents()
        # np.empty: pages are taken from the machine only when an episode is written to them.
        self.arrays: dict[str, NDArray[Any]] = {
            name: np.empty((capacity, *shape), kind) for name, (shape, kind) in shapes.items()
        }

    def record(self, line: Line) -> None:
        """Let an event happen."""
        self.contents.apply(line, self.capacity)

    def reserve(self, first: int, frames: int) -> None:
        """Memory needs no warning."""

    def write(self, serial: int, first: int, rows: Mapping[str, NDArray[Any]]) -> int:
        """Fill slots `first` and on with an episode's rows."""
        for name, column in rows.items():
            self._put(name, first, column)
        return 0

    def begin_refresh(self, entry: Entry) -> None:
        """Count one more pass over an episode."""
        self.record({"op": "refresh", "serial": entry.serial, "passes": entry.passes + 1})

    def refresh(self, entry: Entry, first: int, features: NDArray[Any]) -> None:
        """Replace the features (n, ...) of slots `first` and on."""
        self._put("features", first, features)

    def _put(self, name: str, first: int, rows: NDArray[Any]) -> None:
        before_wrap = min(len(rows), self.capacity - first)
        self.arrays[name][first : first + before_wrap] = rows[:before_wrap]
        self.arrays[name][: len(rows) - before_wrap] = rows[before_wrap:]

    def sync(self) -> None:
        """There is no disk."""

    def close(self) -> None:
        """There is nothing to close."""


class Ring:
    """Episodes in slots of a storage. evicts: the oldest make room for the newest; if not, there is an end.

    samplable: the slots, ascending, at which a step starts that may be sampled. used: slots that hold
    episodes.
    """

    def __init__(self, storage: Storage, evicts: bool) -> None:
        self.storage, self.capacity, self._evicts = storage, storage.capacity, evicts
        self.age: NDArray[np.int32] = np.zeros(self.capacity, np.int32)  # frames since the episode's first
        self.left: NDArray[np.int32] = np.zeros(self.capacity, np.int32)  # steps until its last
        self.terminal = np.zeros(self.capacity, np.bool_)  # nothing is worth anything after that last
        self.has_step = np.zeros(self.capacity, np.bool_)  # a step to sample starts here
        self.samplable: I64 = np.zeros(0, np.int64)
        self.used = 0
        for entry in self.entries:
            self._mark(entry)
        self._list()

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """One array (capacity, ...) per column; to be read only."""
        return self.storage.arrays

    @property
    def entries(self) -> list[Entry]:
        """The episodes, oldest first."""
        return list(self.storage.contents.entries.values())

    def holds(self, key: Key) -> bool:
        """Whether an episode is here, once was, was refused or is excluded: it need not be added again."""
        contents = self.storage.contents
        return key in contents.taken or key in contents.excluded or key in contents.refused

    def write(self, episode: Episode, large: Mapping[str, NDArray[Any]], wanted: NDArray[np.bool_]) -> None:
        """Store an episode. large: the columns of its pictures (T+1, ...). wanted: bool (T,), may be sampled.

        Raises ReplayError when it does not fit, or when the disk does not take it; it is then not stored.
        """
        frames = len(episode) + 1
        first = self._place(frames)
        if first is None:
            raise ReplayError(f"an episode of {frames} frames does not fit a store of {self.capacity}")
        self.storage.reserve(first, frames)
        self._evict(first, frames)
        nothing = np.zeros((1, ACTION_SIZE), np.float32)  # no step starts at the last frame
        rows = {
            "state": episode.state,
            "action": np.concatenate([episode.action, nothing]),
            "reward": np.append(episode.reward, np.float32(0)),
            **large,
        }
        entry = Entry(
            serial=self.storage.contents.serial,
            first=first,
            frames=frames,
            key=Key.of(episode),
            end=episode.end,
            wanted=wanted,
            helped=bool(episode.intervention.any()),
        )
        entry.crc = self.storage.write(entry.serial, first, rows)
        self.storage.record(entry.line())
        self._mark(entry)
        self._list()

    def stores(self, entry: Entry) -> bool:
        """Whether an episode is still here."""
        return entry.serial in self.storage.contents.entries

    def oldest_encoding(self) -> list[Entry]:
        """The episodes that may be sampled, those first whose pictures were encoded the longest ago."""
        contents = self.storage.contents
        entries = [contents.entries[serial] for serial in contents.encoded]
        return [entry for entry in entries if entry.key not in contents.excluded]

    def refresh(self, entry: Entry, part: slice, shifted: NDArray[np.float16]) -> None:
        """Replace the shifted copies (n, n_cam, copies - 1, ...) of the frames of `part` of an episode."""
        slots = self.slots(entry.first, entry.frames)[part]
        features = self.arrays["features"][slots]
        features[:, :, 1:] = shifted
        self.storage.refresh(entry, int(slots[0]), features)

    def fits(self, frames: int) -> bool:
        """Whether an episode of so many frames can be written."""
        return self._place(frames) is not None

    def _place(self, frames: int) -> int | None:
        """The first slot for an episode, None when it does not fit."""
        if self._evicts:
            return self.storage.contents.head if frames <= self.capacity else None
        start = 0
        for entry in sorted(self.entries, key=lambda entry: entry.first):
            if entry.first - start >= frames:  # the hole of an episode that was dropped on opening
                return start
            start = entry.first + entry.frames
        return start if self.capacity - start >= frames else None

    def _evict(self, first: int, frames: int) -> None:
        """Forget the oldest episodes as far as they reach into these slots."""
        gone: list[Entry] = []
        for entry in self.entries:
            if not overlap((entry.first, entry.frames), (first, frames), self.capacity):
                break
            gone.append(entry)
        if not gone:
            return
        self.storage.record({"op": "evict", "serials": [entry.serial for entry in gone]})
        for entry in gone:
            self.has_step[self.slots(entry.first, entry.frames)] = False
            self.used -= entry.frames
        self._list()

    def _mark(self, entry: Entry) -> None:
        slots = self.slots(entry.first, entry.frames)
        self.age[slots] = np.arange(entry.frames)
        self.left[slots] = np.arange(entry.frames - 1, -1, -1)
        self.terminal[slots] = entry.end.terminal
        self.has_step[slots[:-1]] = entry.wanted & (entry.key not in self.storage.contents.excluded)
        self.has_step[slots[-1]] = False
        self.used += entry.frames

    def _list(self) -> None:
        self.samplable = np.flatnonzero(self.has_step)

    def exclude(self, keys: Iterable[Key]) -> None:
        """Never sample these episodes again, nor take them in."""
        new = [key for key in keys if key not in self.storage.contents.excluded]
        if not new:
            return
        self.storage.record({"op": "exclude", "keys": [key.plain() for key in new]})
        for entry in self.entries:
            if entry.key in self.storage.contents.excluded:
                self.has_step[self.slots(entry.first, entry.frames)] = False
        self._list()

    def refuse(self, key: Key, steps: int) -> int:
        """Remember that an episode's `steps` found no room; how many steps that is by now."""
        self.storage.record({"op": "refuse", "key": key.plain(), "steps": steps})
        return self.refused_steps

    @property
    def refused_steps(self) -> int:
        """Steps of all refused episodes."""
        return sum(self.storage.contents.refused.values())

    def stack(self, slots: I64, n_obs: int) -> I64:
        """Slots (B, n_obs) of the last n_obs frames, oldest first; an episode's first stands in before it."""
        back = np.arange(n_obs - 1, -1, -1)
        stacked: I64 = (slots[:, None] - np.minimum(back, self.age[slots][:, None])) % self.capacity
        return stacked

    def slots(self, first: int, frames: int) -> I64:
        """The slots of an episode, in order of time."""
        slots: I64 = (first + np.arange(frames)) % self.capacity
        return slots

    def returns(self, slots: I64, n_step: int, discount: float) -> tuple[I64, NDArray[Any], NDArray[Any]]:
        """What the steps that start in `slots` (B,) lead to, at most n_step steps later.

        The slots (B,) then reached, the discounted sum of the rewards until then, and the factor of the value
        of what is reached: 0 after a success or failure. Both float32 (B,).
        """
        steps = np.minimum(n_step, self.left[slots])
        ahead = np.arange(n_step)
        rewards = self.arrays["reward"][(slots[:, None] + ahead) % self.capacity]
        within = ahead < steps[:, None]
        total = (np.where(within, rewards, 0.0) * discount**ahead).sum(1)
        over = self.terminal[slots] & (steps == self.left[slots])
        factor = np.where(over, 0.0, discount**steps)
        reached: I64 = (slots + steps) % self.capacity
        return reached, total.astype(np.float32), factor.astype(np.float32)
