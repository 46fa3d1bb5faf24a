"""Where the parts of the arm are at any joint angles, how high, and how near each other. Many poses at once.

Numpy only. Heights are exact. For distances the moving parts are covered by balls: a distance is never
over-estimated, and under-estimated by at most 5 mm.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any, Final

import numpy as np

from robot.arm_shape import (
    BASE,
    F64,
    HAND,
    JAW,
    LINKS,
    LOWER_ARM,
    SHOULDER,
    UPPER_ARM,
    WRIST,
    Box,
    Capsule,
    arm_description,
    fingers,
)
from robot.types import GRIPPER, NUM_JOINTS

BALL_M: Final = 0.016
"""Longest edge of the cells a part is cut into; a ball covers each."""
LOWEST_JAW_RAD: Final = 0.035
"""Where the moving finger's tip is furthest from the wrist. It counts there, too, where it is opened: closing
the gripper on what lies on the table then asks for no room that the arm has not left already."""
OBSTACLES: Final = (BASE, SHOULDER, UPPER_ARM)
MOVING: Final = (LOWER_ARM, WRIST, HAND, JAW)
"""What may come near an obstacle that is not its neighbour."""
NEIGHBOURS: Final = ((LOWER_ARM, UPPER_ARM),)
FOLDING: Final = (LOWER_ARM, WRIST)
"""What lies close to the shoulder and the upper arm where the arm is folded."""
NAMES: Final = {
    BASE: "base",
    SHOULDER: "shoulder",
    UPPER_ARM: "upper arm",
    LOWER_ARM: "lower arm",
    WRIST: "wrist",
    HAND: "hand",
    JAW: "moving finger",
}


@cache
def arm_shape() -> ArmShape:
    """The SO-101's; made once."""
    return ArmShape(arm_description())


class ArmShape:
    """Points and balls in the frames of the arm's bodies.

    low_names, low_is_finger: part of each lowest point (P,). pairs, folding: of each gap (G,) the two
    parts, and whether they come close where the arm is folded.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        self._bodies = [part["name"] for part in description["bodies"]]
        joints = {joint["body"]: joint for joint in description["joints"]}
        jointed = [part for part in description["bodies"] if part["name"] in joints]
        assert [part["name"] for part in jointed] == self._bodies[1:], "one chain, jointed but for its base"
        quats = np.array([part["quat_wxyz"] for part in jointed])
        # A body's turn against its parent is K + C cos q + S sin q: its frame, turned about its own z axis.
        frame = np.stack([_matrix(quat) for quat in quats])
        self._cos, self._sin, self._keep = np.zeros((3, NUM_JOINTS, 3, 3))
        self._cos[..., :2] = frame[..., :2]
        self._sin[..., 0], self._sin[..., 1] = frame[..., 1], -frame[..., 0]
        self._keep[..., 2] = frame[..., 2]
        self._steps = np.array([part["pos_m"] for part in jointed])
        parts = [*LINKS, *(finger for finger in fingers(description).values())]
        self._add_low_points(parts, set(fingers(description).values()))
        self._add_gaps(parts)

    def _add_low_points(self, parts: list[Box | Capsule], tips: set[Box]) -> None:
        rows = []
        for part in parts:
            if part.body in (BASE, SHOULDER):
                continue  # they stand on the table
            for point, radius in _outline(part):
                frames = [self._bodies.index(part.body)]
                frames += [len(self._bodies)] * (part.body == JAW)
                for frame in frames:
                    rows.append((frame, point, radius, part in tips, NAMES[part.body]))
        self._low_frame = np.array([row[0] for row in rows])
        self._low_point = np.array([row[1] for row in rows])
        self._low_radius = np.array([row[2] for row in rows])
        self.low_is_finger = np.array([row[3] for row in rows])
        self.low_names = ["fingers" if row[3] else row[4] for row in rows]

    def _add_gaps(self, parts: list[Box | Capsule]) -> None:
        balls = [
            (part.body, centre, radius)
            for part in parts
            if part.body in MOVING
            for centre, radius in _balls(part)
        ]
        obstacles = [(part.body, *_rounded_box(part)) for part in parts if part.body in OBSTACLES]
        self._ball_frame = np.array([self._bodies.index(body) for body, _, _ in balls])
        self._ball = np.array([centre for _, centre, _ in balls])
        self._block_frame = np.array([self._bodies.index(body) for body, *_ in obstacles])
        self._block_pos = np.array([pos for _, pos, *_ in obstacles])
        self._block_turn = np.stack([turn for _, _, turn, _, _ in obstacles])
        self._block_half = np.array([half for *_, half, _ in obstacles])[:, None]
        self._radii = np.array([[ball[2] + block[4] for ball in balls] for block in obstacles])
        pairs = [(ball[0], block[0]) for block in obstacles for ball in balls]
        self._counted = np.array([pair not in NEIGHBOURS for pair in pairs])
        counted = [pair for pair in pairs if pair not in NEIGHBOURS]
        self.pairs = [(NAMES[part], NAMES[block]) for part, block in counted]
        self.folding = np.array([part in FOLDING for part, _ in counted])

    def frames(self, q_rad: F64) -> tuple[F64, F64]:
        """Turns (N, 8, 3, 3) and places (N, 8, 3) [m] in the base frame at joint angles q_rad (N, 6) [rad].

        The bodies from the base to the jaw; then the jaw again, no further open than LOWEST_JAW_RAD.
        """
        angles = q_rad[:, :, None, None]
        local = self._keep + self._cos * np.cos(angles) + self._sin * np.sin(angles)
        count = len(self._bodies)
        turns, places = np.empty((len(q_rad), count + 1, 3, 3)), np.zeros((len(q_rad), count + 1, 3))
        turns[:, 0] = np.eye(3)
        for index in range(1, count):
            turns[:, index] = turns[:, index - 1] @ local[:, index - 1]
            places[:, index] = places[:, index - 1] + turns[:, index - 1] @ self._steps[index - 1]
        low = np.minimum(q_rad[:, GRIPPER], LOWEST_JAW_RAD)[:, None, None]
        jaw = self._keep[GRIPPER] + self._cos[GRIPPER] * np.cos(low) + self._sin[GRIPPER] * np.sin(low)
        turns[:, count] = turns[:, count - 2] @ jaw
        places[:, count] = places[:, count - 1]
        return turns, places

    def heights(self, turns: F64, places: F64) -> F64:
        """Height (N, P) [m] in the base frame of the lowest side of each low point."""
        frame = self._low_frame
        height: F64 = places[:, frame, 2] - self._low_radius
        height += (turns[:, frame, 2] * self._low_point).sum(axis=2)
        return height

    def gaps(self, turns: F64, places: F64) -> F64:
        """Distance (N, G) [m] of each moving ball to each part that is not its neighbour; negative inside."""
        at = self._ball_frame
        balls = places[:, at] + (turns[:, at] @ self._ball[:, :, None])[..., 0]
        blocks = turns[:, self._block_frame]
        centres = places[:, self._block_frame] + (blocks @ self._block_pos[:, :, None])[..., 0]
        seen = (balls[:, None] - centres[:, :, None]) @ (blocks @ self._block_turn)
        outside = np.abs(seen) - self._block_half
        gap = np.sqrt((np.maximum(outside, 0.0) ** 2).sum(axis=3)) - self._radii
        gap += np.minimum(outside.max(axis=3), 0.0)
        found: F64 = gap.reshape(len(places), -1)[:, self._counted]
        return found


def _matrix(quat_wxyz: F64) -> F64:
    w, x, y, z = quat_wxyz / np.linalg.norm(quat_wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _box_turn(box: Box) -> F64:
    return _matrix(np.array([np.cos(box.turn_rad / 2), 0.0, 0.0, np.sin(box.turn_rad / 2)]))


def _outline(part: Box | Capsule) -> Iterator[tuple[F64, float]]:
    """Points with radii whose hull is the part."""
    if isinstance(part, Capsule):
        yield np.array(part.ends[:3]), part.radius
        yield np.array(part.ends[3:]), part.radius
        return
    for signs in product((-1.0, 1.0), repeat=3):
        yield part.pos + _box_turn(part) @ (np.array(signs) * part.half), 0.0


def _balls(part: Box | Capsule) -> Iterator[tuple[F64, float]]:
    """Balls that cover the part."""
    if isinstance(part, Capsule):
        start, end = np.array(part.ends[:3]), np.array(part.ends[3:])
        count = int(np.ceil(np.linalg.norm(end - start) / BALL_M))
        radius = float(np.hypot(part.radius, np.linalg.norm(end - start) / count / 2))
        for share in np.linspace(0, 1, count + 1):
            yield start + (end - start) * share, radius
        return
    half = np.array(part.half)
    counts = np.ceil(2 * half / BALL_M).astype(int)
    cell = half / counts
    for place in product(*(range(count) for count in counts)):
        centre = (2 * np.array(place) + 1) * cell - half
        yield part.pos + _box_turn(part) @ centre, float(np.linalg.norm(cell))


def _rounded_box(part: Box | Capsule) -> tuple[F64, F64, F64, float]:
    """Centre, turn (3, 3), half edges (3,) and radius: a box, or a capsule as a box without width."""
    if isinstance(part, Box):
        return np.array(part.pos), _box_turn(part), np.array(part.half), 0.0
    start, end = np.array(part.ends[:3]), np.array(part.ends[3:])
    along = (end - start) / np.linalg.norm(end - start)
    across = np.linalg.svd(along[None])[2][1:]
    turn = np.stack([along, *across], axis=1)
    return (start + end) / 2, turn, np.array([np.linalg.norm(end - start) / 2, 0.0, 0.0]), part.radius
