"""Encoding stored frames anew, shifted otherwise, a little at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hilserl.frame_features import FrameFeatures
from hilserl.ring import Ring
from hilserl.ring_journal import Entry, Key, ReplayError
from robot.types import U8

PicturesOf = Callable[[Key], Mapping[str, U8] | None]
"""The pictures {camera: (T+1, H, W, 3)} of a stored episode; None when they are not at hand."""


@dataclass(slots=True)
class _Pass:
    """An episode whose shifted copies are being encoded anew, `done` frames so far."""

    ring: Ring
    entry: Entry
    images: Mapping[str, U8]
    done: int = 0


class Refresher:
    """Goes through the episodes of `rings` in turn, in each those first whose encoding is oldest."""

    def __init__(self, rings: Sequence[Ring], features: FrameFeatures) -> None:
        self._rings, self._features = deque(rings), features
        self._pass: _Pass | None = None
        self._turn = 0
        self._skip_until: dict[tuple[Ring, int], int] = {}

    def refresh(self, pictures_of: PicturesOf, pictures: int) -> int:
        """Encode about `pictures` shifted pictures anew (at least a frame's); the number of frames.

        0 when there is nothing to do, or the pictures of the episode whose turn it is are not at hand: then
        it waits for the next round.
        """
        if self._pass is None or not self._pass.ring.stores(self._pass.entry):
            self._pass = self._next_pass(pictures_of)
        if (now := self._pass) is None:
            return 0
        frames = max(1, pictures // (len(self._features.cameras) * (self._features.copies - 1)))
        part = slice(now.done, min(now.entry.frames, now.done + frames))
        now.ring.refresh(
            now.entry, part, self._features.shifted(now.images, now.entry.key, now.entry.passes, part)
        )
        now.done = part.stop
        if now.done == now.entry.frames:
            self._pass = None
        return part.stop - part.start

    def _next_pass(self, pictures_of: PicturesOf) -> _Pass | None:
        """The next episode in turn with its pictures, None where there is none or they are not at hand."""
        self._turn += 1
        self._rings.rotate()
        waiting = [(ring, entry) for ring in self._rings for entry in ring.oldest_encoding()]
        for ring, entry in waiting:
            if self._skip_until.get((ring, entry.serial), 0) <= self._turn:
                break
        else:
            return None
        images = pictures_of(entry.key)
        if images is None:  # all others come before it is asked for again
            self._skip_until[ring, entry.serial] = self._turn + len(self._rings) * len(waiting)
            return None
        wrong = [name for name in self._features.cameras if len(images.get(name, ())) != entry.frames]
        if wrong:
            raise ReplayError(f"the pictures given for {entry.key} have not {entry.frames} frames of {wrong}")
        ring.storage.begin_refresh(entry)
        return _Pass(ring, entry, images)
