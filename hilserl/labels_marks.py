"""What the marking keys do to an episode's ranges: pure functions, used by the page.

A key speaks of the picture on show, frame k. A range that needs two keys is pending between them: nothing is
labelled before both are there.
"""

from __future__ import annotations

from dataclasses import dataclass

from hilserl.labels import LabelError, Ranges, ranges_of

START, END = "start", "end"


@dataclass(frozen=True, slots=True)
class Marks:
    """ranges: as in Label. pending: (START or END, frame), the one edge that is set of a range to come."""

    ranges: Ranges
    pending: tuple[str, int] | None = None


def mark_start(marks: Marks, frame: int, frames: int) -> Marks:
    """Frame k is the first that shows success: of the pending range, of the one around k, or of a new one."""
    if marks.pending is not None and marks.pending[0] == END:
        return _closed(marks.ranges, frame, marks.pending[1], frames)
    around = _around(marks.ranges, frame)
    if around is None:
        return Marks(marks.ranges, (START, frame))
    return Marks(tuple((frame, r[1]) if r == around else r for r in marks.ranges))


def mark_end(marks: Marks, frame: int, frames: int) -> Marks:
    """Frame k is the last that shows success: of the pending range, of the one around k, or of a new one."""
    if marks.pending is not None and marks.pending[0] == START:
        return _closed(marks.ranges, marks.pending[1], frame, frames)
    around = _around(marks.ranges, frame)
    if around is None:
        return Marks(marks.ranges, (END, frame))
    return Marks(tuple((r[0], frame + 1) if r == around else r for r in marks.ranges))


def mark_to_end(marks: Marks, frame: int, frames: int) -> Marks:
    """Success from frame k to the episode's end. A range around k starts at k; earlier ones stay."""
    return Marks(_united([*(r for r in marks.ranges if r[1] <= frame), (frame, frames)], frames))


def remove(marks: Marks, frame: int) -> Marks:
    """Give up a pending edge, or else remove the range around frame k. Raises LabelError where neither is."""
    if marks.pending is not None:
        return Marks(marks.ranges)
    around = _around(marks.ranges, frame)
    if around is None:
        raise LabelError(f"frame {frame} lies in no success interval: nothing to remove")
    return Marks(tuple(r for r in marks.ranges if r != around))


def _closed(ranges: Ranges, first: int, last: int, frames: int) -> Marks:
    """With a range more; it and those it meets become one."""
    if last < first:
        raise LabelError(
            f"an interval cannot start at frame {first} and end at {last}: mark its other edge, or Esc"
        )
    return Marks(_united([*ranges, (first, last + 1)], frames))


def _united(ranges: list[tuple[int, int]], frames: int) -> Ranges:
    return ranges_of(any(first <= k < end for first, end in ranges) for k in range(frames))


def _around(ranges: Ranges, frame: int) -> tuple[int, int] | None:
    return next((r for r in ranges if r[0] <= frame < r[1]), None)
