"""Other versions of training pictures: moved by some pixels, lit otherwise, in other colours."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from robot.types import U8

_VALUES = np.arange(256, dtype=np.float64)


def relit(images: U8, brightness: float, colour: float, generator: np.random.Generator) -> U8:
    """Each picture under a light of its own, uint8 (B, H, W, 3).

    All its values are multiplied by one factor within 1 +- brightness, those of each colour by another one
    within 1 +- colour, rounded, and limited to 255, as a camera's are.
    """
    whole = generator.uniform(1 - brightness, 1 + brightness, (len(images), 1))
    each = generator.uniform(1 - colour, 1 + colour, (len(images), 3))
    lit = np.empty_like(images)
    for picture, gains, out in zip(images, whole * each, lit, strict=True):
        cv2.LUT(picture, _table(gains), dst=out)
    return lit


def _table(gains: NDArray[np.float64]) -> U8:
    """What becomes of each value 0 to 255 of each colour, as cv2.LUT takes it: uint8 (1, 256, 3)."""
    table: U8 = np.clip(np.rint(_VALUES[:, None] * gains), 0, 255).astype(np.uint8)[None]
    return table
