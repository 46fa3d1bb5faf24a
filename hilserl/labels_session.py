"""One sitting of labelling: every change is on the disk at once, and can be taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hilserl import labels_marks
from hilserl.labels import Label, LabelError, change_labels, check_labels, labels_file, read_labels
from hilserl.labels_marks import Marks

_MARKS: dict[str, Callable[[Marks, int, int], Marks]] = {
    "start": labels_marks.mark_start,
    "end": labels_marks.mark_end,
    "to_end": labels_marks.mark_to_end,
    "none": lambda _marks, _frame, _frames: Marks(()),
    "remove": lambda marks, frame, _frames: labels_marks.remove(marks, frame),
}
MARKS = tuple(_MARKS)
"""What can be said of the frame on show."""


@dataclass(frozen=True, slots=True)
class _Change:
    key: str
    before: Label | None
    after: Label | None


class LabelSession:
    """The labels of one folder, for any number of tabs; not thread-safe.

    Changes go through the file, so that another process that labels the same folder loses nothing.
    Raises LabelError where the file's labels are not of these episodes; nothing is changed then.
    """

    def __init__(self, source: Path, frames: Mapping[str, int]) -> None:
        """frames: {episode: how many frames it has}, in order."""
        self._source, self._frames = source, dict(frames)
        self.labels: Mapping[str, Label] = {}
        """What the file holds."""
        self.changes = 0
        """Counts up with every change: what was drawn before is old."""
        self._done: list[_Change] = []
        self._undone: list[_Change] = []
        self._take(read_labels(source))

    def mark(self, key: str, mark: str, frame: int, pending: tuple[str, int] | None) -> Marks:
        """Say `mark` (one of MARKS) of a frame of an episode. Raises LabelError where it makes no sense.

        Returns the episode's ranges and the edge that is pending now. A label is changed when its ranges are.
        An episode whose last range is removed is not labelled any more: nobody said that it shows no success.
        """
        frames = self._frames_of(key)
        if not 0 <= frame < frames:
            raise LabelError(f"episode {key} has the frames 0 to {frames - 1}, not {frame}")
        before = self.labels.get(key)
        marks = _MARKS[mark](Marks(before.ranges if before else (), pending), frame, frames)
        exclude = before is not None and before.exclude
        if mark == "none" or marks.ranges != (before.ranges if before else ()):
            said = mark == "none" or marks.ranges or exclude
            self._change(key, Label(frames, marks.ranges, "operator", exclude) if said else None)
        return marks

    def accept(self, key: str, ranges: tuple[tuple[int, int], ...]) -> None:
        """A person found a proposal right."""
        before = self.labels.get(key)
        self._change(key, Label(self._frames_of(key), ranges, "operator", bool(before and before.exclude)))

    def exclude(self, key: str) -> None:
        """Exclude an episode from training, or take it in again.

        One without a range is not labelled after that: nobody said that it shows no success.
        """
        before = self.labels.get(key)
        if before is None:
            self._change(key, Label(self._frames_of(key), (), "operator", exclude=True))
        elif before.exclude and not before.ranges:
            self._change(key, None)
        else:
            self._change(key, Label(before.frames, before.ranges, before.by, not before.exclude))

    def undo(self) -> str:
        """Take the newest change back and return its episode. Raises LabelError where there is none."""
        return self._step(self._done, self._undone, "undo", lambda change: (change.after, change.before))

    def redo(self) -> str:
        """Do again what was undone, and return its episode. Raises LabelError where there is nothing."""
        return self._step(self._undone, self._done, "redo", lambda change: (change.before, change.after))

    def unlabelled(self) -> list[str]:
        """Episodes without a label, in order."""
        return [key for key in self._frames if key not in self.labels]

    def _frames_of(self, key: str) -> int:
        if key not in self._frames:
            raise LabelError(f"there is no episode {key!r}")
        return self._frames[key]

    def _change(self, key: str, after: Label | None) -> None:
        before = self.labels.get(key)
        if before == after:
            return
        self._take(change_labels(self._source, {key: after}))
        self._done.append(_Change(key, before, after))
        self._undone.clear()

    def _step(
        self,
        taken: list[_Change],
        given: list[_Change],
        what: str,
        ends: Callable[[_Change], tuple[Label | None, Label | None]],
    ) -> str:
        if not taken:
            raise LabelError(f"nothing to {what}")
        change = taken[-1]
        expected, wanted = ends(change)
        self._take(read_labels(self._source))
        if self.labels.get(change.key) != expected:
            taken.pop()
            raise LabelError(
                f"episode {change.key} was labelled by another program meanwhile; that stays, and what was "
                "here before is gone"
            )
        self._take(change_labels(self._source, {change.key: wanted}))
        given.append(taken.pop())
        return change.key

    def _take(self, labels: Mapping[str, Label]) -> None:
        check_labels(labels, self._frames, str(labels_file(self._source)))
        self.labels = labels
        self.changes += 1


def next_after(names: Iterable[str], wanted: Iterable[str], here: str) -> str | None:
    """The first of `wanted` that comes after `here` in `names`, then from the start; None where none does.

    `here` itself is never it.
    """
    order = list(names)
    place = order.index(here)
    among = set(wanted) - {here}
    return next((name for name in (*order[place + 1 :], *order[:place]) if name in among), None)
