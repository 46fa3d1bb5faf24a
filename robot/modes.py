"""Who drives the arm now: derived at each look from what is known anyway, and kept nowhere.

A mode depends on the present signs alone. So every change of them changes the mode in the same control step,
whatever it was before, and no mode can be stuck in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Mode(Enum):
    """Who drives the follower."""

    PARKED = "parked"
    """Nobody, and its servos are released."""
    HOLD = "hold"
    """No person and no policy: between episodes, on its way to its start, or held by its guard."""
    RECORD = "record"
    """A person demonstrates. There is no policy: while he lets go the arm stands still."""
    POLICY = "policy"
    TAKE_OVER = "take-over"
    """A person, instead of the policy."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What a mode is derived from.

    torque: the follower's servos are energised. holding: its guard holds it, or refuses to move it. playing:
    an episode is being played. recording: for a data set, without a policy. human: the operator's action is
    the one that is executed.
    """

    torque: bool
    holding: bool
    playing: bool
    recording: bool
    human: bool


def mode_of(signs: Signs) -> Mode:
    """Who drives. The person wins over the policy in the same step; nobody drives what holds or is limp."""
    if not signs.torque:
        return Mode.PARKED
    if signs.holding or not signs.playing:
        return Mode.HOLD
    if signs.recording:
        return Mode.RECORD
    return Mode.TAKE_OVER if signs.human else Mode.POLICY


def mode_line(signs: Signs, torque: Mapping[str, bool]) -> str:
    """The mode in words and the torque of each arm. torque: {arm: energised}, the follower and a leader."""
    mode = mode_of(signs)
    who = {
        Mode.PARKED: "nobody drives",
        Mode.HOLD: "nobody drives",
        Mode.RECORD: "the operator drives" if signs.human else "the arm stands still",
        Mode.POLICY: "the policy drives",
        Mode.TAKE_OVER: "the operator drives",
    }[mode]
    arms = ", ".join(f"{arm} torque {'on' if on else 'off'}" for arm, on in torque.items())
    return f"{mode.value.upper()}: {who}  ({arms})"
