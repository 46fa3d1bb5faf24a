"""The memory under the replay: slots for frames and steps, written episode by episode.

An episode of T steps takes T + 1 consecutive slots: slot i holds frame i and, but for the last, the step
taken from it. `next` is always the following slot, and `has_next` says whether there is one, so a time-out,
a discard or the ring's wrap can never pair unrelated frames. An episode is evicted whole, so a frame stack
never reaches into another one.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilserl.types import ACTION_SIZE, Episode, Spec

I64 = NDArray[np.int64]
F16 = NDArray[np.float16]


class ReplayError(Exception):
    """An episode or a size the store cannot take; names the numbers."""


class Ring:
    """`capacity` slots. Episodes follow one another; the oldest make room for the newest.

    images (N, K, H, W, 3) (none kept with images=False), features (N, K, copies, C, h, w) for K cameras.
    """

    def __init__(
        self, spec: Spec, feature_shape: tuple[int, ...], capacity: int, copies: int, images: bool
    ) -> None:
        # np.empty: pages are taken from the machine only when an episode is written to them.
        self.capacity = capacity
        cameras = len(spec.cameras)
        self.images = np.empty((capacity if images else 0, cameras, *spec.image_shape), np.uint8)
        self.features = np.empty((capacity, cameras, copies, *feature_shape), np.float16)
        self.state = np.empty((capacity, spec.state_size), np.float32)
        self.action = np.empty((capacity, ACTION_SIZE), np.float32)
        self.reward = np.empty(capacity, np.float32)
        self.bootstrap = np.empty(capacity, np.float32)
        self.age = np.zeros(capacity, np.int64)  # frames since the episode's first
        self.has_next = np.zeros(capacity, np.bool_)  # a step to sample starts here and ends in the next slot
        self.episodes: deque[tuple[int, int]] = deque()  # (first slot, frames), oldest first
        self.head = 0
        self.used = 0
        self.samplable: I64 = np.zeros(0, np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes the ring takes when every slot has been written."""
        return sum(a.nbytes for a in vars(self).values() if isinstance(a, np.ndarray))

    def write(self, episode: Episode, spec: Spec, features: F16, wanted: NDArray[np.bool_]) -> None:
        """Store an episode whose features are (T+1, n_cam, copies, C, h, w); `wanted` (T,) may be sampled."""
        steps = len(episode)
        self._make_room(steps + 1)
        slots = self.slots(self.head, steps + 1)
        if len(self.images):
            for camera, name in enumerate(spec.cameras):
                self.images[slots, camera] = episode.images[name]
        self.features[slots] = features
        self.state[slots] = episode.state
        self.action[slots[:-1]] = episode.action
        self.reward[slots[:-1]] = episode.reward
        self.bootstrap[slots] = 1.0
        self.bootstrap[slots[-2]] = 0.0 if episode.end.terminal else 1.0
        self.age[slots] = np.arange(steps + 1)
        self.has_next[slots] = np.append(wanted, False)  # nothing follows the last frame
        self.episodes.append((self.head, steps + 1))
        self.head = (self.head + steps + 1) % self.capacity
        self.used += steps + 1
        self.samplable = np.flatnonzero(self.has_next)

    def _make_room(self, frames: int) -> None:
        """Evict whole episodes, oldest first, until `frames` consecutive slots are free."""
        if frames > self.capacity:
            raise ReplayError(f"an episode of {frames} frames does not fit a store of {self.capacity}")
        while self.capacity - self.used < frames:
            first, length = self.episodes.popleft()
            slots = self.slots(first, length)
            self.has_next[slots] = False
            self.used -= length

    def stack(self, slots: I64, n_obs: int) -> I64:
        """Slots (B, n_obs) of the last n_obs frames, oldest first; an episode's first stands in before it."""
        back = np.arange(n_obs - 1, -1, -1)
        stacked: I64 = (slots[:, None] - np.minimum(back, self.age[slots][:, None])) % self.capacity
        return stacked

    def slots(self, first: int, frames: int) -> I64:
        """The slots of an episode, in order of time."""
        slots: I64 = (first + np.arange(frames)) % self.capacity
        return slots

    def take(self, slots: I64, n_obs: int, rng: np.random.Generator, out: dict[str, NDArray[Any]]) -> None:
        """Write the transitions that start in `slots` (B,) to `out`, a random copy of each picture."""
        for prefix, frames in (("", slots), ("next_", (slots + 1) % self.capacity)):
            stacked = self.stack(frames, n_obs)
            cameras, copies = self.features.shape[1:3]
            # One copy for a whole stack: its frames were shifted alike.
            copy = rng.integers(copies, size=(len(slots), 1, cameras))
            rows = (stacked[:, :, None] * cameras + np.arange(cameras)) * copies + copy
            flat = self.features.reshape(-1, *self.features.shape[3:])
            out[prefix + "seen"][...] = flat[rows]
            out[prefix + "state"][...] = self.state[stacked]
        out["action"][...] = self.action[slots]
        out["reward"][...] = self.reward[slots]
        out["discount"][...] = self.bootstrap[slots]


def free_memory() -> int:
    """Bytes of memory this machine can still give (all of it where the system does not say)."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
