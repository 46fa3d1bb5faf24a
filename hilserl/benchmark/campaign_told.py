"""What a person must have been told of each kind of fault: words, as patterns over the program's lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

CABLE: Final = (
    r"no valid answer|port failed|port was lost|arm's bus is back|the arm refuses|no such|is not there"
)
NOT_FOLLOWED: Final = (
    r"it is blocked or does not follow|missed by|interpolate|keeps its last target|no clear way|not clear"
)
PAUSED: Final = r"(PAUSE|does not move): (.*; )?\w+: "
WORDS: Final = {
    "loss_1": rf"{CABLE}|{NOT_FOLLOWED}",
    "loss_5": rf"{CABLE}|{NOT_FOLLOWED}",
    "loss_20": rf"{CABLE}|{NOT_FOLLOWED}",
    "late": rf"{CABLE}|{NOT_FOLLOWED}",
    "corrupted": rf"{CABLE}|{NOT_FOLLOWED}|unknown status",
    "silent": rf"{CABLE}|{NOT_FOLLOWED}",
    "unplugged": rf"{CABLE}|{NOT_FOLLOWED}",
    "overload": rf"{PAUSED}(load|current)",
    "heat": rf"{PAUSED}temperature",
    "voltage": rf"{PAUSED}voltage",
    "tripped": r"overloaded|overheated|supply voltage out of range|current too high",
    "supply": r"lost torque|lost its torque",
    "frozen": r"identical pictures|s old, allowed",
    "black": r"picture is flat",
    "torn": r"torn",
    "missing": r"s old, allowed|gave no picture|no picture of",
    "learner_gone": r"lost the learner|no learner at",
    "disk_full": r"disk full",
    "pad": r"was unplugged: plug it in again|no gamepad fits",
    "leader": r"is gone; plug it in again|cannot be used",
    "kill": r"watchdog: .*ended without parking",
    "kill_parking": r"watchdog: .*ended without parking",
    "stopped": r"watchdog: .*was frozen for .* and was ended",
    "kill_full": r"watchdog: .*ended without parking",
    "learner_kill": r"lost the learner",
}
"""Kind -> what must be said when it had an effect."""
ALWAYS: Final = ("overload", "heat", "voltage", "supply", "stopped", "learner_kill")
"""Said whether or not an episode was cut short."""
STANDING: Final = re.compile(r"PAUSE: (\w+: \w+)")
"""What is told once, until the quantity is well again."""
HOLDS, PARKED, RELEASED = "it holds", "parked and released", "nothing to do: every servo is released"
LATER_S: Final = 4.0
"""How long after a fault its words may come."""


def told(kind: str, lines: Sequence[tuple[float, str]], begin_s: float, end_s: float) -> list[str]:
    """The lines about this kind of fault that were said in [begin_s, end_s + LATER_S].

    A pause that stood already when the fault began is told, too: nobody is told twice.
    """
    said = [
        (t_s, line)
        for t_s, line in lines
        if t_s <= end_s + LATER_S and re.search(WORDS[kind], line, re.IGNORECASE)
    ]
    now = [line for t_s, line in said if t_s >= begin_s]
    pauses = [(t_s, line, found[1]) for t_s, line in said if (found := STANDING.match(line))]
    if now or not pauses:
        return now
    since_s, standing, quantity = pauses[-1]
    over = any(since_s < t_s < begin_s and line.startswith(quantity) for t_s, line in lines)
    return [] if over else [standing]


def cause(kind: str, reason: str) -> str:
    """Whose reason a person was given: "own" of this kind of fault, "other" of another kind, "" unknown.

    Another's: on a busy machine a picture comes late while packets are lost.
    """
    if re.search(WORDS[kind], reason, re.IGNORECASE):
        return "own"
    return "other" if any(re.search(words, reason, re.IGNORECASE) for words in WORDS.values()) else ""


def untold(kind: str, said: list[str], *, effect: bool) -> str:
    """What is missing in what a person was told; effect: an episode was cut short, or the program ended."""
    if said or not (effect or kind in ALWAYS):
        return ""
    return f"nobody was told: no line like {WORDS[kind]!r}"
