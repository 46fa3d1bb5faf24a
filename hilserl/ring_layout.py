"""What the bytes of a ring's files mean, written beside them, and what to do when that has changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hilserl.ring_journal import Line, ReplayError
from hilserl.rundir import write_whole
from hilserl.types import ACTION_SIZE, Spec

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of one slot of each column."""
Meaning = Mapping[str, Any]
"""What else decides what the bytes mean (plain JSON values)."""
FORMAT = 1
LAYOUT, JOURNAL = "layout.json", "journal"


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a frame: features (C, h, w) of `copies` versions of each picture, or the picture.

    feature_shape: None for pictures. alike: the frames of an episode were shifted by the same, up to pad.
    """

    spec: Spec
    feature_shape: tuple[int, int, int] | None
    copies: int
    pad: int
    alike: bool

    def shapes(self) -> Shapes:
        """Shape and dtype of a slot of each column."""
        cameras = len(self.spec.cameras)
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "state": ((self.spec.state_size,), "<f4"),
            "action": ((ACTION_SIZE,), "<f4"),
            "reward": ((), "<f4"),
        }
        if self.feature_shape is None:
            shapes["images"] = ((cameras, *self.spec.image_shape), "|u1")
        else:
            shapes["features"] = ((cameras, self.copies, *self.feature_shape), "<f2")
        return shapes

    def meaning(self, encoder_hash: str) -> Meaning:
        """What decides, beside the shapes, what the bytes mean."""
        spec = self.spec
        meaning: dict[str, Any] = {
            "cameras": list(spec.cameras),
            "image_shape": list(spec.image_shape),
            "state_names": list(spec.state_names),
            "action_names": list(spec.action_names),
        }
        if self.feature_shape is None:
            return meaning
        shifts = {"copies": self.copies, "pad": self.pad, "frames_shifted_alike": self.alike}
        return {**meaning, "encoder": encoder_hash, **shifts}


def row_bytes(shapes: Shapes) -> int:
    """Bytes of one slot of all columns."""
    return sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())


class LayoutChanged(ReplayError):
    """The files were made for another layout. `fields` differ; `delete_ring(folder)`, then fill it again."""

    def __init__(self, folder: Path, fields: Mapping[str, tuple[Any, Any]]) -> None:
        said = "; ".join(f"{name} was {old!r}, is now {new!r}" for name, (old, new) in fields.items())
        super().__init__(f"the replay in {folder} was made for something else: {said}")
        self.folder, self.fields = folder, dict(fields)


def delete_ring(folder: Path) -> None:
    """Remove a ring's files, whatever their state. The layout goes first: without it there is no ring."""
    for name in (LAYOUT, JOURNAL):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("*.column") if folder.is_dir() else []:
        path.unlink()


def allocated(folder: Path) -> int:
    """Bytes of disk that a ring's files take already."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob("*.column")) if folder.is_dir() else 0


def make_layout(shapes: Shapes, capacity: int, meaning: Meaning) -> Line:
    """The layout of a ring, as JSON gives it back."""
    layout = {
        "format": FORMAT,
        "capacity": capacity,
        "columns": {name: [list(shape), kind] for name, (shape, kind) in shapes.items()},
        **meaning,
    }
    plain: Line = json.loads(json.dumps(layout))
    return plain


def write_layout(folder: Path, layout: Line) -> None:
    """Declare `folder` a ring of this layout; the last thing a new one gets."""
    write_whole(folder / LAYOUT, json.dumps(layout, indent=2) + "\n")


def is_new(folder: Path, layout: Line) -> bool:
    """Whether there is no ring in `folder` yet. Raises LayoutChanged where there is one of another layout."""
    path = folder / LAYOUT
    if not path.exists():
        if (folder / JOURNAL).exists():
            log.warning("replay: %s has lost its %s and is made anew", folder, LAYOUT)
        return True
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LayoutChanged(folder, {LAYOUT: ("damaged", "needed")})
    names = [name for name in {**found, **layout} if found.get(name) != layout.get(name)]
    if names:
        raise LayoutChanged(folder, {name: (found.get(name), layout.get(name)) for name in names})
    return False


def overlap(one: tuple[int, int], other: tuple[int, int], capacity: int) -> bool:
    """Whether two ranges (first, length) of a ring of `capacity` slots share one."""
    return other[1] > 0 and (
        (other[0] - one[0]) % capacity < one[1] or (one[0] - other[0]) % capacity < other[1]
    )
