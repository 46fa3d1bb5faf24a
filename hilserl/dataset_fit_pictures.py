"""Do two sets of first pictures come from the same place? Brightness, colour, and where the camera looks.

Plain functions of pictures, uint8 RGB (H, W, 3) of one size. What is fixed in a gripper camera's pictures,
whatever lies on the table, is the gripper; by its edges a moved camera is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from robot.types import U8

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Matrix = NDArray[Any]
HEIGHT = 240
"""Edges are looked for in pictures brought to this height."""
EDGE_SHARE = 0.25
"""An edge belongs to what is fixed where the median picture's is this share of its strongest."""
EDGE_ROOM = 0.03
"""Room around it that is compared too, as a share of the picture's height."""
LEVELS = (0.02, 0.008, 0.003)
"""Blur of the edges in each round of registration, from coarse to fine, as a share of the height."""
COLOUR_STRIDE = 4
GRID = np.linspace(0.005, 0.995, 100)


@dataclass(frozen=True, slots=True)
class Moved:
    """How the camera moved between two sets of pictures.

    turn_deg: of the picture, clockwise positive. shift_px: of its centre (right, down). likeness: correlation
    of the edges once that is undone, 1 at best; below LIKENESS the rest means nothing.
    """

    turn_deg: float
    shift_px: tuple[float, float]
    likeness: float


LIKENESS = 0.5


def brightness(pictures: Sequence[U8]) -> F64:
    """(N,) mean value of each picture, 0 to 255."""
    return np.array([float(picture.mean()) for picture in pictures])


def colour_quantiles(picture: U8) -> F64:
    """(2, 100): how red and how blue the pixels are, as shares of their sum, in order. Light cancels out."""
    thin = picture[::COLOUR_STRIDE, ::COLOUR_STRIDE].reshape(-1, 3).astype(np.float64) + 1.0
    share = thin[:, [0, 2]] / thin.sum(axis=1, keepdims=True)
    return np.asarray(np.quantile(share, GRID, axis=0).T, np.float64)


def colour_distance(one: F64, other: F64) -> float:
    """Earth mover's distance of two colour histograms: how far a pixel's share of red or blue moves."""
    return float(np.abs(one - other).mean(axis=1).max())


def fixed_edges(pictures: Sequence[U8]) -> F32:
    """Strength of the edges that most of the pictures have in common, (h, w) where h is at most HEIGHT."""
    return np.asarray(np.median([_edges(picture) for picture in pictures], axis=0), np.float32)


def camera_moved(reference: F32, now: F32, height_px: int) -> Moved:
    """The turn and shift that bring the edges of `reference` onto those of `now` (both `fixed_edges`).

    height_px: of the pictures, in whose pixels the shift is told.
    """
    height, width = reference.shape
    strong = (reference > EDGE_SHARE * np.quantile(reference, 0.999)).astype(np.uint8)
    room = max(1, round(EDGE_ROOM * height))
    mask = cv2.dilate(strong, np.ones((2 * room + 1, 2 * room + 1), np.uint8))
    warp: Matrix = np.eye(2, 3, dtype=np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-5)
    likeness = 0.0
    for blur in LEVELS:
        new, old = (cv2.GaussianBlur(edges, (0, 0), blur * height) for edges in (now, reference))
        try:
            likeness, warp = cv2.findTransformECC(new, old, warp, cv2.MOTION_EUCLIDEAN, criteria, mask, 1)
        except cv2.error:  # it went astray: nothing alike was found
            return Moved(0.0, (0.0, 0.0), 0.0)
    # the warp leads from a place now to the place in the reference
    turn = float(np.arctan2(warp[1, 0], warp[0, 0]))
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    to_reference = warp[:, :2].astype(np.float64)
    moved = to_reference.T @ (centre - warp[:, 2]) - centre
    moved *= height_px / height
    return Moved(float(-np.degrees(turn)), (float(moved[0]), float(moved[1])), float(likeness))


def _edges(picture: U8) -> F32:
    grey: Matrix = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    if grey.shape[0] != HEIGHT:
        width = round(grey.shape[1] * HEIGHT / grey.shape[0])
        way = cv2.INTER_AREA if grey.shape[0] > HEIGHT else cv2.INTER_CUBIC
        grey = cv2.resize(grey, (width, HEIGHT), interpolation=way)
    grey = cv2.GaussianBlur(grey, (0, 0), 1.0)
    across, down = (cv2.Sobel(grey, cv2.CV_32F, dx, 1 - dx) / max(1.0, grey.mean()) for dx in (1, 0))
    return np.asarray(np.hypot(across, down), np.float32)
