"""The judge of a fault campaign: laws over what the physics wrote down. It knows nothing of the program.

Each law returns what it found wrong as (monotonic time [s], words); an empty list is good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robot.parking import REST_RAD
from robot.types import F32, JOINT_NAMES

F64 = NDArray[np.float64]
Found = list[tuple[float, str]]
Span = tuple[float, float]

WINDOW_S: Final = 0.3
"""A joint's speed is a mean over this time: a soft servo swings about where it is driven, undisturbed too."""
DRIVEN_WINDOW_S: Final = 0.1
"""The speed at which a servo is driven is a mean over this time."""
SPEED_TOLERANCE: Final = 1.02
IN_TIME_S, LATE_S, GAP_S = 0.6, 0.03, 0.05
"""A speed counts where the physics kept real time for IN_TIME_S: at most LATE_S behind or ahead, and never
standing still for GAP_S. After a stall of the machine goals leap for a simulated arm only."""
BOX_TOLERANCE_M: Final = 0.02
TABLE_TOLERANCE_M: Final = 0.005
REST_TOLERANCE_RAD: Final = 0.25
"""A released arm settles a little."""
STILL_RAD_S: Final = 0.1
APART_S: Final = 1.0
"""What is found again within this time is one finding."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What an arm did, by the physics: N moments.

    t_s (N,): monotonic time [s]. sim_s (N,): simulated time [s]; a slow machine loses some. q_rad (N, 6).
    on (N, 6): energised. driven_rad (N, 6): where the servos drive the joints to now. hand_m (N, 3): the
    hand. depth_m (N,): how deep the arm presses into the table.
    """

    t_s: F64
    sim_s: F64
    q_rad: F32
    on: NDArray[np.bool_]
    driven_rad: F32
    hand_m: F64
    depth_m: F64

    def between(self, begin_s: float, end_s: float) -> Trace:
        """The moments of [begin_s, end_s]."""
        part = slice(*np.searchsorted(self.t_s, [begin_s, end_s]))
        return Trace(*(getattr(self, name)[part] for name in self.__slots__))


def speeds(trace: Trace, q_rad: F32, window_s: float) -> tuple[F64, F64]:
    """Mean speed (M, 6) [rad/s] of q_rad (N, 6) over window_s, at times (M,) [s].

    0 where a joint was not energised throughout.
    The longer of real and simulated time counts. Moments at which the physics was not in time are left out.
    """
    count = len(trace.t_s)
    first = np.searchsorted(trace.t_s, trace.t_s - window_s, side="right") - 1
    last = np.arange(count)[first >= 0]
    first = first[first >= 0]
    if not len(last):
        return np.zeros((0, 6)), np.zeros(0)
    took_s = np.maximum(trace.t_s[last] - trace.t_s[first], trace.sim_s[last] - trace.sim_s[first])
    speed = np.abs(q_rad[last] - q_rad[first]) / took_s[:, None]
    changes = np.concatenate([np.zeros((1, 6), int), np.cumsum(~trace.on, axis=0)])
    throughout = changes[last + 1] == changes[first]
    good = in_time(trace)[last]
    return np.where(throughout, speed, 0.0)[good], trace.t_s[last][good]


def in_time(trace: Trace) -> NDArray[np.bool_]:
    """(N,): whether the physics kept real time for IN_TIME_S until then."""
    first = np.maximum(np.searchsorted(trace.t_s, trace.t_s - IN_TIME_S, side="right") - 1, 0)
    late = (trace.t_s - trace.t_s[first]) - (trace.sim_s - trace.sim_s[first])
    stalls = np.concatenate([[0], np.cumsum(np.diff(trace.t_s) > GAP_S)])
    return np.asarray((np.abs(late) <= LATE_S) & (stalls == stalls[first]))


def too_fast(trace: Trace, limit_rad_s: float) -> Found:
    """No energised joint moves, or is driven by its servo, faster than limit_rad_s, with SPEED_TOLERANCE."""
    found: Found = []
    for verb, q_rad, window_s in (
        ("moved", trace.q_rad, WINDOW_S),
        ("was driven", trace.driven_rad, DRIVEN_WINDOW_S),
    ):
        speed, t_s = speeds(trace, q_rad, window_s)
        fast = []
        for row in np.flatnonzero((speed > SPEED_TOLERANCE * limit_rad_s).any(axis=1)):
            joint = int(speed[row].argmax())
            told = f"{JOINT_NAMES[joint]} {verb} at {speed[row, joint]:.2f} rad/s, at most {limit_rad_s:g}"
            fast.append((float(t_s[row]), told))
        found += once(fast)
    return found


def outside(trace: Trace, spans: Sequence[Span], low_m: Sequence[float], high_m: Sequence[float]) -> Found:
    """While an episode is played (spans) and the whole arm is energised its hand is in the box.

    A hand that was outside when its span begins, or was dropped outside while joints were limp, has until
    it is first inside.
    """
    low, high = np.array(low_m) - BOX_TOLERANCE_M, np.array(high_m) + BOX_TOLERANCE_M
    found: Found = []
    for begin_s, end_s in spans:
        part = trace.between(begin_s, end_s)
        inside = np.asarray(((part.hand_m >= low) & (part.hand_m <= high)).all(axis=1))
        been = False
        whole = np.asarray(part.on.all(axis=1))
        for row in range(len(part.t_s)):
            been = bool(whole[row] and (been or inside[row]))
            if been and not inside[row]:
                hand = np.round(part.hand_m[row], 3)
                found.append((float(part.t_s[row]), f"the hand was at {hand} m, outside the workspace"))
    return once(found)


def into_table(trace: Trace) -> Found:
    """No energised arm presses into the table. What falls limp, falls."""
    deep = (trace.depth_m > TABLE_TOLERANCE_M) & trace.on.all(axis=1)
    return once(
        [
            (float(t_s), f"the arm pressed {1000 * depth:.1f} mm into the table")
            for t_s, depth in zip(trace.t_s[deep], trace.depth_m[deep], strict=True)
        ]
    )


def not_parked(trace: Trace) -> Found:
    """At the end no joint is energised and the arm lies folded."""
    end_s = float(trace.t_s[-1])
    if trace.on[-1].any():
        left = ", ".join(np.array(JOINT_NAMES)[trace.on[-1]])
        return [(end_s, f"still energised at the end: {left}")]
    off = np.abs(trace.q_rad[-1][:5] - np.array(REST_RAD))
    if off.max() > REST_TOLERANCE_RAD:
        joint = int(off.argmax())
        return [(end_s, f"released, but {JOINT_NAMES[joint]} is {off[joint]:.2f} rad from its rest pose")]
    return []


def moving(trace: Trace, begin_s: float, end_s: float) -> Found:
    """Within [begin_s, end_s] the energised arm holds still; the gripper may close on what it grips."""
    part = trace.between(begin_s, end_s)
    speed, t_s = speeds(part, part.q_rad, WINDOW_S)
    fast = speed[:, :5].max(axis=1, initial=0.0) > STILL_RAD_S
    if not fast.any():
        return []
    row = int(np.flatnonzero(fast)[0])
    joint = int(speed[row, :5].argmax())
    return [(float(t_s[row]), f"{JOINT_NAMES[joint]} moved at {speed[row, joint]:.2f} rad/s, it should hold")]


def did(trace: Trace) -> str:
    """What the arm did, in a word: "moved" or "held", "limp" (a part), or "released" (all)."""
    if not len(trace.t_s):
        return "unseen"
    if not trace.on[-1].any():
        return "released"
    if not trace.on.all():
        return "limp"
    speed, _ = speeds(trace, trace.q_rad, WINDOW_S)
    return "moved" if len(speed) and speed[-max(1, len(speed) // 2) :].max() > STILL_RAD_S else "held"


def once(found: Found) -> Found:
    """Findings of the same kind that follow each other within APART_S are one: the first."""
    kept: Found = []
    last_s = -np.inf
    for t_s, words in found:
        if t_s - last_s > APART_S:
            kept.append((t_s, words))
        last_s = t_s
    return kept
