"""Features of an episode's frames: of each picture as it is, and of randomly shifted copies of it.

They are a pure function of the pictures, the seed and the episode's identity: whoever encodes them, whenever
and how often, gets the same bits.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilserl.ring_journal import Key, ReplayError
from hilserl.vision import F16, PASS_SIZE, shift
from robot.types import U8

Encode = Callable[[U8], F16]


@dataclass(frozen=True, slots=True)
class FrameFeatures:
    """Encodes `copies` versions of each frame: one as it is, the rest shifted by up to `pad` pixels each.

    encode: pictures uint8 (B, H, W, 3) to features float16 (B, C, h, w) of feature_shape (C, h, w). alike:
    the frames of an episode are shifted alike, which frame stacks need. Safe to use from several threads if
    `encode` is.
    """

    cameras: tuple[str, ...]
    encode: Encode
    feature_shape: tuple[int, int, int]
    copies: int
    pad: int
    alike: bool
    seed: int

    def of(self, images: Mapping[str, U8], key: Key) -> F16:
        """Features (T+1, n_cam, copies, C, h, w); copy 0 is of the picture as it is, as acted on."""
        frames = len(images[self.cameras[0]])
        out = np.empty((frames, len(self.cameras), self.copies, *self.feature_shape), np.float16)
        for camera, name in enumerate(self.cameras):
            # One by one, like the acting policy: batched convolutions round otherwise.
            out[:, camera, 0] = self._encoded(images[name], 1)
        out[:, :, 1:] = self.shifted(images, key, 0, slice(0, frames))
        return out

    def shifted(self, images: Mapping[str, U8], key: Key, passes: int, part: slice) -> F16:
        """Features (n, n_cam, copies - 1, C, h, w) of the shifted copies of the frames of `part`.

        images: those of the whole episode. passes: how often the episode was encoded before; each time it is
        shifted otherwise.
        """
        frames = len(images[self.cameras[0]])
        who = zlib.crc32(f"{key.role.value}/{key.actor}".encode())
        rng = np.random.default_rng([self.seed, who, key.number, passes])
        moves = 1 if self.alike else frames
        moves_yx = rng.integers(-self.pad, self.pad + 1, (len(self.cameras), self.copies - 1, moves, 2))
        shifts = np.broadcast_to(moves_yx, (len(self.cameras), self.copies - 1, frames, 2))[:, :, part]
        out = np.empty((shifts.shape[2], *shifts.shape[:2], *self.feature_shape), np.float16)
        for camera, name in enumerate(self.cameras):
            for copy in range(self.copies - 1):
                moved = shift(images[name][part], shifts[camera, copy])
                out[:, camera, copy] = self._encoded(moved, PASS_SIZE)
        return out

    def _encoded(self, images: U8, chunk: int) -> F16:
        """Features (N, C, h, w), encoded `chunk` pictures at a time; refuses a wrong shape and infinities."""
        parts = [self.encode(images[i : i + chunk]) for i in range(0, len(images), chunk)]
        features = np.concatenate(parts)
        if features.shape != (len(images), *self.feature_shape) or features.dtype != np.float16:
            raise ReplayError(
                f"the encoder gave {features.dtype} {features.shape[1:]} for a picture of "
                f"{images.shape[1:]}, the replay was made for float16 {self.feature_shape}"
            )
        if not np.isfinite(features).all():
            raise ReplayError("the encoder gave features that are not finite: is the trunk's file intact?")
        return features


def gather_shifted(pictures: U8, which: NDArray[np.int64], shifts: NDArray[np.int64], out: U8) -> None:
    """Write pictures[which] (B, H, W, 3) to `out`, each read shifts (B, 2) pixels further down and right.

    Borders are repeated, as in `hilserl.vision.shift`. Copies whole rows, in one pass per sideways shift.
    """
    height, width = pictures.shape[1:3]
    rows = pictures.reshape(-1, width, 3)
    down = np.clip(np.arange(height) + shifts[:, :1], 0, height - 1) + which[:, None] * height
    for right in np.unique(shifts[:, 1]):
        chosen = np.flatnonzero(shifts[:, 1] == right)
        straight = rows[down[chosen]]
        if right == 0:
            out[chosen] = straight
            continue
        moved = np.empty_like(straight)
        step = min(abs(int(right)), width)
        if right > 0:
            moved[:, :, : width - step] = straight[:, :, step:]
            moved[:, :, width - step :] = straight[:, :, -1:]
        else:
            moved[:, :, step:] = straight[:, :, : width - step]
            moved[:, :, :step] = straight[:, :, :1]
        out[chosen] = moved
