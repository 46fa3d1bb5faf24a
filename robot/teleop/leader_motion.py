"""From a leader arm's poses to actions: who has the arm, how its hand moved, what its gripper wants.

Rules only: no bus and no clock. `robot.teleop.leader` feeds them.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from robot.kinematics import F64
from robot.types import F32

GRAB_RAD_S: Final = 0.3
GRAB_READS: Final = 3
"""So many readings in a row above GRAB_RAD_S are a hand at the leader. A knock at the table is shorter."""
REST_RAD: Final = 0.02
REST_S: Final = 1.5
"""No joint left a band of REST_RAD for so long: nobody moves the leader. A hand that goes 4 mm/s does."""
STILL_M: Final = 1e-3
"""A motion this small waits until it has grown: a servo's last count flickers, and a still hand asks 0."""
END_SHARE: Final = 0.1
"""A leader's gripper this near to an end of its range asks for the end itself."""
END_RAD: Final = 0.05
PICK_UP_SHARE: Final = 0.15
"""Share of the gripper's range the leader's must move away from the follower's to be meant."""


def turned(to_rad: F32, from_rad: F32) -> F32:
    """Shortest way (6,) [rad] between joint angles: a wrist's roll counts in a full circle."""
    way: F32 = (to_rad - from_rad + np.float32(np.pi)) % np.float32(2 * np.pi) - np.float32(np.pi)
    return way


class TakeOver:
    """Says whether the person has taken over.

    By the button: while it is held; letting go of it gives back, also what was taken by grabbing.
    By grabbing: a joint moved faster than GRAB_RAD_S in GRAB_READS readings in a row. It lasts until the
    leader is at rest for REST_S. After the button grabbing counts again once the leader was at rest, so that
    a hand still on its way does not take over anew.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Nobody has taken over, and nothing is known of the leader."""
        self.on = False
        self._armed, self._button = True, False
        self._before: tuple[F32, float] | None = None
        self._rest: tuple[F32, float] | None = None
        self._fast = 0

    def update(self, q_rad: F32, button: bool, now_s: float) -> bool:
        """One reading of the leader (6,) [rad]; whether the person acts now."""
        self._fast = self._fast + 1 if self._speed(q_rad, now_s) > GRAB_RAD_S else 0
        resting = self._resting(q_rad, now_s)
        if button:
            self.on, self._armed = True, False
        elif self._button or (self.on and resting):
            self.on = False
        elif not self.on and self._armed and self._fast >= GRAB_READS:
            self.on = True
        self._armed |= resting and not button
        self._button = button
        return self.on

    def _speed(self, q_rad: F32, now_s: float) -> float:
        """Of the fastest joint since the last reading [rad/s]."""
        before, self._before = self._before, (q_rad.copy(), now_s)
        if before is None or now_s <= before[1]:
            return 0.0
        return float(np.abs(turned(q_rad, before[0])).max()) / (now_s - before[1])

    def _resting(self, q_rad: F32, now_s: float) -> bool:
        if self._rest is None or np.abs(turned(q_rad, self._rest[0])).max() > REST_RAD:
            self._rest = q_rad.copy(), now_s
        return now_s - self._rest[1] >= REST_S


class HandMotion:
    """Turns positions of the leader's hand into actions.

    What one action cannot hold is carried over to the next: the actions times the scale, plus `owed_m`, are
    the leader's displacement since `start`. An action points where the hand is to go, also when it is cut to
    its longest. More than leash_m is never owed: what is beyond is dropped, and counted in `dropped_m`.
    """

    def __init__(self, action_scale_m: float, leash_m: float) -> None:
        """action_scale_m: what 1 in an action means [m]."""
        self._scale_m, self._leash_m = action_scale_m, leash_m
        self.start(np.zeros(3))

    def start(self, xyz_m: F64) -> None:
        """Take-over with the leader's hand at xyz_m (3,) [m]: nothing is owed."""
        self._last_m: F64 = np.array(xyz_m, np.float64)
        self.owed_m: F64 = np.zeros(3)
        self.dropped_m = 0.0

    def step(self, xyz_m: F64) -> F32:
        """The action (3,) in [-1, 1] after the leader's hand came to xyz_m (3,) [m]."""
        self.owed_m = self.owed_m + (xyz_m - self._last_m)
        self._last_m = np.array(xyz_m, np.float64)
        longest = float(np.abs(self.owed_m).max())
        if longest < STILL_M:
            return np.zeros(3, np.float32)
        action: F32 = (self.owed_m / max(self._scale_m, longest)).astype(np.float32)
        self.owed_m = self.owed_m - self._scale_m * action.astype(np.float64)
        ahead_m = float(np.linalg.norm(self.owed_m))
        if ahead_m > self._leash_m:
            self.dropped_m += ahead_m - self._leash_m
            self.owed_m = self.owed_m * (self._leash_m / ahead_m)
        return action


class GripperIntent:
    """What the leader's gripper wants of the follower's, from where both are, never from how fast they move.

    -1 while the leader's is more closed than the follower's by more than the band, +1 while it is more open,
    else 0. The leader's range, closed to open, stands for the follower's span. Near an end of it the end
    itself is meant, so that a closed hand closes all the way and a grasp is squeezed.

    At take-over it is on hold: a person who grabs the leader with its gripper open must not make the follower
    drop what it holds. It is picked up when both agree or the leader's passes the follower's, or when the
    person moves it on, away from the follower's, by PICK_UP_SHARE of its range.
    """

    def __init__(self, span_rad: tuple[float, float], band_rad: float) -> None:
        """span_rad: the follower's gripper, closed and open [rad]. band_rad: difference that is none."""
        self._span_rad, self._band_rad = span_rad, band_rad
        self._picked_up = False
        self._start_share, self._side = 0.0, 0.0

    def start(self, share: float, follower_rad: float) -> None:
        """Take-over. share: the leader's gripper, 0 closed to 1 open."""
        self._start_share, self._side = share, np.sign(self._target(share) - follower_rad)
        self._picked_up = False

    def step(self, share: float, follower_rad: float) -> float:
        """-1, 0 or +1."""
        difference = self._target(share) - follower_rad
        self._picked_up |= (
            abs(difference) <= self._band_rad
            or np.sign(difference) != self._side
            or (share - self._start_share) * self._side > PICK_UP_SHARE
        )
        return self.wanted(share, follower_rad) if self._picked_up else 0.0

    def wanted(self, share: float, follower_rad: float) -> float:
        """What these two positions mean, once picked up: -1, 0 or +1."""
        difference = self._target(share) - follower_rad
        at_end = share <= END_SHARE if difference < 0 else share >= 1.0 - END_SHARE
        band = min(END_RAD, self._band_rad) if at_end else self._band_rad
        return float(np.sign(difference)) if abs(difference) > band else 0.0

    def _target(self, share: float) -> float:
        closed, opened = self._span_rad
        return closed + share * (opened - closed)
