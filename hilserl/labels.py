"""Labels: in which frames of an episode success is visible. One JSON file beside what they are about.

`<source>.labels.json` stands beside the folder it labels, a LeRobotDataset or a folder of episode archives,
so that replacing or editing the one never loses the other:

    {"format": 1,
     "episodes": {"0": {"frames": 61, "ranges": [[50, 61]], "by": "operator", "exclude": false}}}

The keys are decimal episode indices (LeRobotDataset) or the stems of the archives' names. An episode that
is not named has not been labelled yet; one with no range was looked at and shows no success. Frames count
from 0 at the full rate, ranges are half-open: [50, 61] are the frames 50 to 60. `frames` is how many the
episode had when it was labelled, so that labels never slide onto a changed episode.

Other programs' labels come and go by `hilserl.labels_exchange`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilserl.rundir import write_whole

FORMAT = 1
BY = ("operator", "ground truth", "button", "import")
"""Who may have labelled: a person at the page, the twin's ground truth, a button of the pad, a file."""
_FIELDS = {"frames", "ranges", "by", "exclude"}

Ranges = tuple[tuple[int, int], ...]


class LabelError(Exception):
    """Labels that cannot be, or that do not belong to their episodes. Says which, and what would be right."""


@dataclass(frozen=True, slots=True)
class Label:
    """In which of `frames` frames success is visible. Raises LabelError for what cannot be.

    ranges: 0-based half-open (first, end), ascending, not overlapping and not touching; () is no success.
    by: one of BY. exclude: the episode is not to be trained on.
    """

    frames: int
    ranges: Ranges
    by: str
    exclude: bool = False

    def __post_init__(self) -> None:
        if not _is_count(self.frames) or self.frames < 1:
            raise LabelError(f"frames is {self.frames!r}, it must be how many frames the episode has")
        if self.by not in BY:
            raise LabelError(f"labelled by {self.by!r}; it must be one of {', '.join(BY)}")
        if not isinstance(self.exclude, bool):
            raise LabelError(f"exclude is {self.exclude!r}, it must be true or false")
        _check_ranges(self.ranges, self.frames)

    def success(self) -> NDArray[np.bool_]:
        """(frames,): whether success is visible in each frame."""
        visible = np.zeros(self.frames, np.bool_)
        for first, end in self.ranges:
            visible[first:end] = True
        return visible


def ranges_of(frames: Iterable[bool] | NDArray[np.bool_]) -> Ranges:
    """The ranges in which `frames` (N,) is true: the inverse of `Label.success`."""
    edges = np.flatnonzero(np.diff(np.asarray([False, *frames, False], np.int8)))
    return tuple((int(first), int(end)) for first, end in edges.reshape(-1, 2))


def labels_file(source: Path) -> Path:
    """Where the labels of the folder `source` stand: beside it."""
    source = source.resolve()
    return source.with_name(f"{source.name}.labels.json")


def read_labels(source: Path) -> dict[str, Label]:
    """{episode: its label} of the folder `source`; {} where nothing was labelled yet. Raises LabelError."""
    path = labels_file(source)
    if not path.is_file():
        return {}
    told = parse_json(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(told, dict) or set(told) != {"format", "episodes"}:
        raise LabelError(f'{path} must be {{"format": {FORMAT}, "episodes": {{...}}}}')
    if told["format"] != FORMAT:
        raise LabelError(f"{path} has format {told['format']!r}, this program reads {FORMAT}")
    if not isinstance(told["episodes"], dict):
        raise LabelError(f"{path}: episodes must be an object, got {told['episodes']!r:.60}")
    return {key: _read_label(entry, f"{path}: episode {key}") for key, entry in told["episodes"].items()}


def write_labels(source: Path, labels: Mapping[str, Label]) -> None:
    """Replace all labels of `source`, durably; readers see the old ones or the new ones. {} is an empty file.

    Whoever changes single labels uses `change_labels`, which keeps what others changed meanwhile.
    """
    with only_one_changes_labels(source):
        _write(source, labels)


def change_labels(source: Path, changes: Mapping[str, Label | None]) -> dict[str, Label]:
    """Set, or with None remove, single labels of `source` and leave all others as the file has them.

    Returns all labels afterwards. Two processes may do this at once. Raises LabelError for a damaged file.
    """
    with only_one_changes_labels(source):
        labels = read_labels(source)
        for key, label in changes.items():
            if label is None:
                labels.pop(key, None)
            else:
                labels[key] = label
        _write(source, labels)
    return labels


def check_labels(labels: Mapping[str, Label], frames: Mapping[str, int], where: str) -> None:
    """Raise LabelError where labels are not of these episodes. frames: {episode: how many frames it has}.

    where: what the labels stand in, for the message. Every fault is named, and nothing is changed.
    """
    faults = [
        f"episode {key} does not exist"
        if key not in frames
        else f"episode {key} was labelled when it had {label.frames} frames, now it has {frames[key]}"
        for key, label in labels.items()
        if frames.get(key) != label.frames
    ]
    if faults:
        raise LabelError(
            f"{where} does not belong to these episodes:\n"
            + "\n".join(f"  - {fault}" for fault in faults)
            + "\nWas the recording edited by another program? Put back the episodes these labels are of, or "
            "move the file away and label anew"
        )


def parse_json(text: str, where: str) -> Any:  # noqa: ANN401
    """JSON in which no object names a key twice. Raises LabelError."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise LabelError(f"{where} says more than once what {', '.join(sorted(twice))} is")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except ValueError as error:
        raise LabelError(f"{where} is not JSON: {error}") from error


def _read_label(entry: object, where: str) -> Label:
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise LabelError(f"{where} must have exactly {', '.join(sorted(_FIELDS))}, got {entry!r:.80}")
    try:
        return Label(entry["frames"], as_ranges(entry["ranges"]), entry["by"], entry["exclude"])
    except LabelError as error:
        raise LabelError(f"{where}: {error}") from None


def as_ranges(told: object) -> Ranges:
    """Ranges from parsed JSON: a list of pairs. Raises LabelError; what they say is checked by Label."""
    if not isinstance(told, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in told):
        raise LabelError(f"ranges is {told!r:.80}, it must be a list of pairs [first, end]")
    return tuple((pair[0], pair[1]) for pair in told)


def _check_ranges(ranges: Ranges, frames: int) -> None:
    before = -1
    for first, end in ranges:
        if not _is_count(first) or not _is_count(end) or not 0 <= first < end <= frames:
            raise LabelError(
                f"range [{first!r}, {end!r}] is not within {frames} frames: it must be [first, end] with "
                f"0 <= first < end <= {frames}, counted from 0, the end not belonging to it"
            )
        if first <= before:
            raise LabelError(
                f"range [{first}, {end}] does not come after the one that ends at {before} with a frame "
                "between them: ranges must ascend, and those that touch are one"
            )
        before = end


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _write(source: Path, labels: Mapping[str, Label]) -> None:
    ordered = sorted(labels, key=lambda key: (not key.isdecimal(), len(key) if key.isdecimal() else 0, key))
    lines = ",\n".join(
        f"  {json.dumps(key)}: "
        + json.dumps({"frames": it.frames, "ranges": it.ranges, "by": it.by, "exclude": it.exclude})
        for key in ordered
        for it in (labels[key],)
    )
    body = f"{{\n{lines}\n }}" if lines else "{}"
    write_whole(labels_file(source), f'{{"format": {FORMAT},\n "episodes": {body}}}\n')


@contextmanager
def only_one_changes_labels(source: Path) -> Iterator[None]:
    """One process at a time changes labels; the lock ends with the process and leaves no file."""
    handle = os.open(labels_file(source).parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
