"""Labels to and from other programs, as one JSON object per file: {episode: what is seen in it}.

    {"0": {"ranges": [[50, 61]]},                     success in the frames 50 to 60
     "1": {"success_start": 50},                      success from frame 50 to the episode's end
     "2": null,                                       no success
     "3": {"ranges": [], "exclude": true}}            not to be trained on

The keys are those of the label file (`hilserl.labels`); frames count from 0, ranges are half-open. An episode
that is not named is not labelled, and stays as it was on import. `{"exclude": true}` alone is an episode that
is not to be trained on, without success. What is exported names ranges, or is null.
"""

from __future__ import annotations

from collections.abc import Mapping

from hilserl.labels import Label, LabelError, Ranges, as_ranges

_KEYS = {"success_start", "ranges", "exclude"}


def export_labels(labels: Mapping[str, Label]) -> dict[str, object]:
    """The object to write as JSON; `import_labels` gives the labels back, except who made them."""
    return {key: _told(label) for key, label in labels.items()}


def _told(label: Label) -> object:
    if not label.ranges and not label.exclude:
        return None
    told: dict[str, object] = {"ranges": [list(pair) for pair in label.ranges]}
    return told | ({"exclude": True} if label.exclude else {})


def import_labels(told: object, frames: Mapping[str, int], where: str) -> dict[str, Label]:
    """Labels from parsed JSON. frames: {episode: how many frames it has}; where: the file, for the message.

    Raises LabelError naming every fault: an unknown episode, a frame that is not there, an entry that could
    be read in two ways. Nothing is repaired.
    """
    if not isinstance(told, dict):
        raise LabelError(f'{where} must be an object {{"0": ..., "1": ...}}, got {told!r:.60}')
    labels, faults = {}, []
    for key, entry in told.items():
        try:
            if key not in frames:
                raise LabelError(f"there is no such episode; they are {_listed(list(frames))}")
            labels[key] = _label(entry, frames[key])
        except LabelError as error:
            faults.append(f"  - {key}: {error}")
    if faults:
        raise LabelError(f"{where} was not imported:\n" + "\n".join(faults))
    return labels


def _label(entry: object, frames: int) -> Label:
    if entry is None:
        return Label(frames, (), "import")
    if not isinstance(entry, dict) or set(entry) - _KEYS or not entry:
        raise LabelError(
            'it must be null (no success), {"success_start": n} or {"ranges": [[first, end], ...]}, with or '
            f'without "exclude": true; got {entry!r:.80}'
        )
    exclude = entry.get("exclude", False)
    if not isinstance(exclude, bool):
        raise LabelError(f"exclude is {exclude!r}, it must be true or false")
    return Label(frames, _ranges(entry, frames, exclude), "import", exclude)


def _ranges(entry: Mapping[str, object], frames: int, exclude: bool) -> Ranges:
    if "success_start" in entry and "ranges" in entry:
        raise LabelError("it has success_start and ranges; either one says where success is")
    if "ranges" in entry:
        return as_ranges(entry["ranges"])
    if "success_start" in entry:
        start = entry["success_start"]
        if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < frames:
            raise LabelError(
                f"success_start is {start!r}; it must be a frame, 0 to {frames - 1} (no success is null)"
            )
        return ((start, frames),)
    if not exclude:
        raise LabelError("it does not say where success is; no success is null")
    return ()


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]} ... {names[-1]}"
