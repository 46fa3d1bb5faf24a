"""The plan of a fault campaign: which fault, with which numbers, at which moment. Plain data from a seed."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

BUS_KINDS: Final = (
    "loss_1",
    "loss_5",
    "loss_20",
    "late",
    "corrupted",
    "silent",
    "overload",
    "heat",
    "voltage",
    "tripped",
    "supply",
    "unplugged",
)
"""On the servo bus. overload, heat, voltage: what a servo shows; tripped: it has let go because of one."""
CAMERA_KINDS: Final = ("frozen", "black", "torn", "missing")
LANES: Final = {
    "wire": (*BUS_KINDS, *CAMERA_KINDS, "learner_gone", "disk_full"),
    "kill": ("kill", "kill_parking", "stopped"),
    "pad": ("pad",),
    "leader": ("leader",),
    "full": ("kill_full", "learner_kill"),
}
"""Lane -> kinds that are injected one after the other into one arm and its program."""
SHARES: Final = {
    "kill": 0.18,
    "kill_parking": 0.02,
    "stopped": 0.01,
    "pad": 0.03,
    "leader": 0.03,
    "learner_gone": 0.02,
    "disk_full": 0.015,
    "kill_full": 0.012,
    "learner_kill": 0.004,
}
"""Share of all faults; the other kinds share the rest equally. Of each kind there is at least one."""
KINDS: Final = tuple(kind for kinds in LANES.values() for kind in kinds)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. wait_s: from when the program is at work until the fault. lasts_s: how long it stands.

    numbers: what else belongs to its kind.
    """

    index: int
    kind: str
    wait_s: float
    lasts_s: float
    numbers: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Self:
        """From `plain`."""
        return cls(**plain)


def counts(faults: int) -> dict[str, int]:
    """How many of each kind; at least one of each, in all `faults` (or as many as there are kinds)."""
    wanted = {kind: max(1, round(share * faults)) for kind, share in SHARES.items()}
    others = [kind for kind in KINDS if kind not in SHARES]
    left = max(len(others), faults - sum(wanted.values()))
    for place, kind in enumerate(others):
        wanted[kind] = left // len(others) + (place < left % len(others))
    return {kind: wanted[kind] for kind in KINDS}


def plan(seed: int, faults: int, kinds: tuple[str, ...] = KINDS) -> dict[str, list[Fault]]:
    """{lane: its faults in order}, the same for the same seed. Raises ValueError for an unknown kind."""
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    lanes, index = {}, 0
    for lane, lane_kinds in LANES.items():
        rng = random.Random(f"{seed} {lane}")
        order = [kind for kind in lane_kinds if kind in kinds for _ in range(counts(faults)[kind])]
        rng.shuffle(order)
        lanes[lane] = [_draw(index + place, kind, rng) for place, kind in enumerate(order)]
        index += len(order)
    return {lane: found for lane, found in lanes.items() if found}


def _draw(index: int, kind: str, rng: random.Random) -> Fault:
    wait_s, numbers = rng.uniform(0.0, 0.8), {}
    lasts_s = rng.uniform(*_LASTING.get(kind, (0.0, 0.0)))
    match kind:
        case "loss_1" | "loss_5" | "loss_20":
            numbers = {"rate": int(kind.partition("_")[2]) / 100}
        case "late":
            numbers = {"rate": rng.uniform(0.2, 1.0), "late_s": rng.uniform(0.01, 0.2)}
        case "corrupted":
            numbers = {"rate": rng.choice((0.01, 0.05, 0.2))}
        case "silent":
            numbers = {"servo": rng.randint(1, 6)}
        case "overload":
            numbers = {"servo": rng.randint(1, 6), "load": rng.uniform(0.92, 1.0) * rng.choice((-1, 1))}
        case "heat":
            numbers = {"servo": rng.randint(1, 6), "celsius": rng.uniform(66.0, 69.0)}
        case "voltage":
            numbers = {"servo": rng.randint(1, 6), "volts": rng.uniform(3.6, 4.3)}
        case "tripped":
            numbers = {"servo": rng.randint(1, 6), "status": rng.choice((1, 4, 8, 32))}
        case "kill" | "stopped":
            # A fifth of them while the body is being built; the others at work: resets, episodes, between.
            early = kind == "kill" and rng.random() < 0.2
            wait_s = rng.uniform(0.0, 3.0 if early else 6.0)
            numbers = {"early": early}
        case "kill_full":
            wait_s = rng.uniform(0.0, 8.0)
        case "kill_parking":
            wait_s, numbers = rng.uniform(2.0, 4.0), {"parking_s": rng.uniform(0.0, 3.0)}
        case "pad" | "leader":
            wait_s = rng.uniform(0.0, 1.0)
            numbers = {"into_s": rng.uniform(0.0, 0.8)}
    return Fault(index, kind, round(wait_s, 3), round(lasts_s, 3), numbers)


_LASTING: Final = {
    "loss_1": (0.5, 1.5),
    "loss_5": (0.3, 1.5),
    "loss_20": (0.2, 1.2),
    "late": (0.2, 1.2),
    "corrupted": (0.3, 1.2),
    "silent": (0.05, 1.2),
    "overload": (4.4, 5.2),
    "heat": (0.9, 2.0),
    "voltage": (4.4, 5.2),
    "tripped": (0.2, 1.0),
    "supply": (0.0, 0.0),
    "unplugged": (0.05, 2.0),
    "frozen": (0.05, 1.0),
    "black": (0.05, 0.7),
    "torn": (0.05, 0.7),
    "missing": (0.05, 1.2),
    "learner_gone": (0.3, 3.0),
    "disk_full": (1.0, 2.0),
    "pad": (0.3, 2.5),
    "leader": (0.3, 2.5),
    "learner_kill": (0.2, 3.0),
}
