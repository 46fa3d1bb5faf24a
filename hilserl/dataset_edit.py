"""Editing recorded datasets: drop, trim, merge, relabel, undo. Labels go along.

Every edit builds the new dataset beside the old one, checks it whole, and exchanges the two; the old one is
kept and `undo` brings it back, bit by bit (see `dataset_edit_swap`). Only datasets recorded by hilserl can be
edited. All functions raise EditError, or DatasetError, RecordingError, TaskMismatch or LabelError for a
dataset that is not whole; then nothing was changed.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from hilserl.config import TaskConfig
from hilserl.dataset_edit_build import EditError, Piece, build_dataset, link_tree, read_pieces, task_text
from hilserl.dataset_edit_pieces import concluded, cut
from hilserl.dataset_edit_swap import claimed, exchange, hold, hold_new, versions
from hilserl.dataset_schema import TASK_RECORD, DatasetError
from hilserl.labels import Label, labels_file
from hilserl.recording_check import check_recording, check_whole, stored_task
from hilserl.recording_record import RecordingError
from hilserl.task_record import TaskMismatch, check_task, task_differences, task_from_json
from hilserl.types import End

Say = Callable[[str], None]
VERDICTS = (End.SUCCESS, End.FAILURE, End.TIMEOUT)
"""What a person may say of how an episode ended."""


def drop(root: Path, episodes: Collection[int], say: Say) -> None:
    """Leave episodes out; those after them move up. What is dropped need not be readable."""
    with hold(root) as held:
        gone = sorted(set(episodes))
        pieces = [piece for piece in _pieces(held, gone) if piece is not None]
        if not pieces:
            raise EditError(f"{held} has no other episode than {_named(gone)}: remove the folder instead")
        _replace(held, f"drop {_named(gone)}", pieces, say)


def trim(root: Path, episode: int, start: int, stop: int, say: Say) -> None:
    """Keep the frames [start, stop) of an episode, 0-based half-open; its pictures stay as they are.

    Where frames are cut off the end, the last step kept ends the episode: in success where it ended so and
    the last frame kept is known to show it (labels, else ground truth), with the reward that was paid; else
    as a time-out, which says nothing of what would have come. `relabel` says otherwise.
    """
    with hold(root) as held:
        pieces = _whole(_pieces(held, (), (episode,)))
        task = _task(held)
        piece = pieces[episode]
        if (start, stop) == (0, len(piece)):
            raise EditError(f"[0, {stop}) is all of episode {episode} already")
        pieces[episode] = cut(piece, start, stop, task)
        _replace(held, f"trim episode {episode} to frames [{start}, {stop})", pieces, say)
        say(f"episode {episode} ends in {pieces[episode].record.end} (before: {piece.record.end})")


def relabel(root: Path, episode: int, end: End, say: Say) -> None:
    """Say how an episode ended: its end marks, its reward and its record."""
    if end not in VERDICTS:
        raise EditError(f"an episode cannot be said to end in {end.value!r}; it can in {_words(VERDICTS)}")
    with hold(root) as held:
        pieces = _whole(_pieces(held, (), (episode,)))
        before = pieces[episode].record.end
        if before == end.value:
            raise EditError(f"episode {episode} ends in {end.value} already")
        pieces[episode] = concluded(pieces[episode], end, _task(held))
        _replace(held, f"relabel episode {episode} from {before} to {end.value}", pieces, say)
        label = pieces[episode].label
        if label is not None and not label.exclude and bool(label.ranges) != (end is End.SUCCESS):
            shown = "shows success" if label.ranges else "shows no success"
            say(f"NOTE: by its label episode {episode} {shown}, and that stays: hilserl label {root}")


def rename_task(root: Path, text: str, say: Say) -> None:
    """Put the task in other words, as lerobot shows them. The task record, and so its hash, stays."""
    with hold(root) as held:
        before = task_text(held)
        if not text.strip() or text == before:
            raise EditError(f"the task is called {before!r}; call it otherwise, got {text!r}")
        pieces = [replace(piece, origin=None) for piece in _whole(_pieces(held))]
        _replace(held, f"call the task {text!r}, before {before!r}", pieces, say, text)


def merge(new: Path, roots: Sequence[Path], say: Say) -> None:
    """Make one dataset of several, which stay as they are. All must have one task record, text and role."""
    if len({root.resolve() for root in roots}) < max(2, len(roots)):
        raise EditError(f"a merge takes two or more different datasets, got {_words(roots)}")
    with ExitStack() as stack:
        held = stack.enter_context(hold_new(new))
        pieces: list[Piece] = []
        for root in roots:
            if not root.is_dir():
                raise EditError(f"there is no dataset {root}")
            stack.enter_context(claimed(root, "recorded into", fcntl.LOCK_SH))
            pieces += _whole(_pieces(root))
            _refuse_difference(roots[0], root)
        labels = _labels(pieces) if any(labels_file(root).is_file() for root in roots) else None
        writer = _writer(roots[0], pieces, task_text(roots[0]))
        task = _task(roots[0])
        exchange(held, "", writer, labels, lambda folder: _check(folder, task, say))
        say(f"{held} holds the episodes of {_words(roots)}, which stay as they are")


def undo(root: Path, number: str, say: Say) -> None:
    """Bring a kept version back, its labels too; "" is that before the last edit. Undoing twice is redoing.

    What stands now is kept in its turn. An older version need not be whole: that is said.
    """
    with hold(root) as held:
        known = {version.number: version for version in versions(held)}
        if not known:
            raise EditError(f"{held} was not edited: there is nothing to undo")
        version = known.get(number or max(known))
        if version is None:
            kept = "\n".join(f"  {one.number}  before: {one.edit}" for one in known.values())
            raise EditError(f"{held} has no version {number!r}; it has\n{kept}")
        labels = version.labels if version.labels.is_file() else None
        edit = f"undo, back to {version.number}"
        kept_as = exchange(
            held, edit, lambda folder: link_tree(version.dataset, folder), labels, lambda folder: None
        )
        say(f"{held} is what it was before: {version.edit}; its labels too. What it was now is {kept_as}")
        try:
            say(f"checked: {check_whole(held).sentence()}")
        except (DatasetError, RecordingError, TaskMismatch) as fault:
            say(f"THAT VERSION IS NOT WHOLE: {fault}")


def repair(root: Path, say: Say) -> None:
    """Complete the edit a killed process had decided on, or remove what it left; then check."""
    with hold(root) as held:  # which repairs
        say(f"checked: {check_whole(held).sentence()}")


def _replace(root: Path, edit: str, pieces: list[Piece], say: Say, text: str = "") -> None:
    labels = _labels(pieces) if labels_file(root).is_file() else None
    writer = _writer(root, pieces, text or task_text(root))
    task = _task(root)
    kept = exchange(root, edit, writer, labels, lambda folder: _check(folder, task, say))
    say(f"done: {edit}. Undo it with: hilserl dataset undo {root} (version {kept} is kept)")


def _writer(root: Path, pieces: list[Piece], text: str) -> Callable[[Path], None]:
    """What writes the new dataset, of the same task record as `root`."""
    task, stored = _task(root), stored_task(root)
    return lambda folder: build_dataset(folder, task, stored, text, pieces)


def _check(folder: Path, task: TaskConfig, say: Say) -> None:
    say(f"checked: {check_recording(folder, task).sentence()}")


def _task(root: Path) -> TaskConfig:
    """The task of a dataset, which must be one this program knows in full."""
    stored, name = stored_task(root), str(root / TASK_RECORD)
    task = task_from_json(stored, name)
    check_task(task, stored, name)
    return task


def _pieces(root: Path, without: Collection[int] = (), named: Collection[int] = ()) -> list[Piece | None]:
    pieces = read_pieces(root, without)
    unknown = [index for index in (*without, *named) if not 0 <= index < len(pieces)]
    if unknown:
        raise EditError(f"{root} has no {_named(unknown)}; its episodes are 0 ... {len(pieces) - 1}")
    return pieces


def _whole(pieces: list[Piece | None]) -> list[Piece]:
    return [piece for piece in pieces if piece is not None]


def _labels(pieces: Sequence[Piece]) -> dict[str, Label]:
    return {str(index): piece.label for index, piece in enumerate(pieces) if piece.label is not None}


def _refuse_difference(first: Path, other: Path) -> None:
    differences = task_differences(stored_task(first), stored_task(other))
    if differences:
        lines = "\n".join(f"  - {d.field}: {d.ours} there, {d.theirs} here" for d in differences)
        raise TaskMismatch(f"{other} cannot be merged with {first}: its task record differs in\n{lines}")
    roles = [{piece.record.role for piece in _whole(_pieces(root))} for root in (first, other)]
    for what, ours, theirs in (
        ("role", *roles),
        ("task in words", task_text(first), task_text(other)),
    ):
        if ours != theirs:
            raise EditError(f"{other} cannot be merged with {first}: {what} is {ours} there, {theirs} here")


def _named(episodes: Sequence[int]) -> str:
    return f"episode{'s' if len(episodes) > 1 else ''} {', '.join(map(str, episodes))}"


def _words(things: Sequence[End | Path]) -> str:
    return ", ".join(thing.value if isinstance(thing, End) else str(thing) for thing in things)
