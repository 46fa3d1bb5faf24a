"""Updates per second of both sides, in turns, on the same episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hilserl.benchmark.data import SENSOR_NOISE, add_noise, episodes, make_spec
from hilserl.benchmark.lerobot_side import LeRobot
from hilserl.benchmark.ours import Ours, TableEncoder, plain_encoder
from hilserl.benchmark.timing import Deadline, Side, alternate, ratio
from hilserl.types import Episode
from robot.types import U8

Report = Callable[[str], None]
WINDOW_S = 0.5
"""How long one turn of ours lasts; theirs is one update, or one step."""
_UTD = (2, 20)


class Contest:
    """Both learners on the same `transitions` transitions with `cameras` cameras.

    variants: (channels, copies) of ours. renders: pictures both are given, with SENSOR_NOISE added.
    """

    def __init__(
        self,
        renders: U8,
        encoder: Path,
        *,
        cameras: int,
        transitions: int,
        variants: Sequence[tuple[int, int]],
        device: str,
        compile_shift: bool,
    ) -> None:
        self.cameras, self.transitions, self.device = cameras, transitions, device
        pictures = add_noise(renders, SENSOR_NOISE)
        spec = make_spec(cameras)
        self.episodes: list[Episode] = list(episodes(spec, pictures, transitions))
        self.lerobot = LeRobot(
            spec, self.episodes, encoder, batch_size=256, device=device, compile_shift=compile_shift
        )
        tables = {channels: TableEncoder(channels, pictures, device) for channels, _ in variants}
        self.ours = {
            (channels, copies): Ours(
                spec, self.episodes, tables[channels], copies=copies, batch_size=256, device=device
            )
            for channels, copies in variants
        }

    def critic_updates(
        self, batch: int, rounds: int, deadline: Deadline, warm_batch: int | None = None
    ) -> dict[str, Any]:
        """Critic updates per second with batches of `batch`, gathered and augmented by each side's own means.

        warm_batch: size of the batch lerobot is warmed up with, where time is short.
        """
        self._set_batch(warm_batch or batch)

        def warm() -> None:
            self.lerobot.critic_updates(1)
            self._set_batch(batch)

        sides = {"lerobot": Side(self.lerobot.critic_updates, 0.0, warm)}
        for variant, ours in self.ours.items():
            sides[_name(variant)] = Side(ours.critic_updates, WINDOW_S, partial(ours.critic_updates, 3))
        return self._compare(sides, batch, rounds, deadline) | {"utd": 0}

    def full_steps(self, batch: int, utd: int, rounds: int, deadline: Deadline) -> dict[str, Any]:
        """Whole updates per second: `utd` critic steps, one of the actor and one of the temperature."""
        self._set_batch(batch)
        # Theirs is warm from the critic updates; an actor step would cost as long as it saves.
        sides = {"lerobot": Side(partial(self.lerobot.full_steps, utd), 0.0, lambda: None)}
        for variant, ours in self.ours.items():
            warm = partial(ours.full_steps, utd, 1)
            sides[_name(variant)] = Side(partial(ours.full_steps, utd), WINDOW_S, warm)
        return self._compare(sides, batch, rounds, deadline) | {"utd": utd}

    def encoding(self, rounds: int, deadline: Deadline) -> dict[str, Any]:
        """Milliseconds per encoded picture: theirs in a batch of 256, ours as the learner encodes."""
        pictures = torch.rand(256, 3, *self.lerobot.spec.image_shape[:2], device=self.device)
        encoder = plain_encoder(512, self.device)
        images = self.episodes[0].images[self.lerobot.spec.cameras[0]]
        one, eight = images[:1], images[:8]

        def repeat(work: Callable[[], object], count: int) -> None:
            for _ in range(count):
                work()

        works: dict[str, tuple[Callable[[], object], int]] = {
            "lerobot, 256 at a time": (lambda: self.lerobot.encode(pictures), 256),
            "ours, 8 at a time": (lambda: encoder.encode(eight), 8),
            "ours, 1 at a time": (lambda: encoder.encode(one), 1),
        }
        sides = {name: Side(partial(repeat, work), WINDOW_S, work) for name, (work, _) in works.items()}
        found = alternate(sides, rounds, deadline)
        return {name: s.scaled(1e3 / works[name][1]).as_dict() for name, s in found.items()}

    def _set_batch(self, batch: int) -> None:
        self.lerobot.set_batch(batch)
        for ours in self.ours.values():
            ours.batch_size = batch

    def _compare(self, sides: dict[str, Side], batch: int, rounds: int, deadline: Deadline) -> dict[str, Any]:
        found = alternate(sides, rounds, deadline)
        theirs = found.pop("lerobot")
        return {
            "batch": batch,
            "cameras": self.cameras,
            "device": self.device,
            "lerobot_s": theirs.as_dict(),
            "ours": [
                {
                    "channels": variant[0],
                    "copies": variant[1],
                    "s": found[_name(variant)].as_dict(),
                    "ratio": ratio(theirs, found[_name(variant)]),
                }
                for variant in self.ours
            ],
        }


def all_updates(
    contest: Contest, batches: Sequence[int], deadline: Deadline, report: Report
) -> list[dict[str, Any]]:
    """Critic updates and full steps for every batch size."""
    rows = []
    for batch in batches:
        rows.append(contest.critic_updates(batch, 5, deadline))
        report(line(rows[-1]))
        for utd in _UTD:
            rows.append(contest.full_steps(batch, utd, 3 if utd == min(_UTD) else 1, deadline))
            report(line(rows[-1]))
    return rows


def line(row: dict[str, Any]) -> str:
    """One comparison in words."""
    what = f"steps at UTD {row['utd']}" if row["utd"] else "critic updates"
    parts = [
        f"{o['channels']} channels, M={o['copies']}: {1 / o['s']['median']:.3g}/s "
        f"({o['ratio']['median']:.0f}x)"
        for o in row["ours"]
    ]
    return (
        f"{what}, batch {row['batch']}, {row['cameras']} camera(s), {row['device']}: "
        f"lerobot {1 / row['lerobot_s']['median']:.3g}/s; ours " + ", ".join(parts)
    )


def _name(variant: tuple[int, int]) -> str:
    return f"C={variant[0]} M={variant[1]}"
