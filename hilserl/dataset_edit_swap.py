"""An edited dataset takes the old one's place, and every version before it is kept.

    SET/                    the dataset
    SET.labels.json         its labels
    SET.undo/003/           what both were before edit 3: dataset/, edit.json, and labels.json if any
    SET.undo/new/           an edit being made

An edit is built in `new` in full. Writing new/edit.json decides it: before that it never was, after that the
next command completes it. The old dataset leaves before the labels change and the new one comes after, so
nobody ever reads labels of the one beside episodes of the other; whoever looks just then finds no dataset.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hilserl.dataset_edit_build import EditError, sync_tree
from hilserl.dataset_schema import INFO_FILE, TASK_RECORD, undo_folder
from hilserl.labels import Label, labels_file, only_one_changes_labels, write_labels
from hilserl.recording_files import PARTIAL, Recording
from hilserl.recording_record import episode_lines, record_in
from hilserl.rundir import fsync, whole_file, write_whole
from hilserl.task_record import task_from_json

_NEW, _EDIT, _DATASET, _LABELS = "new", "edit.json", "dataset", "labels.json"


@dataclass(frozen=True, slots=True)
class Version:
    """A kept version. edit: what was done to it next."""

    number: str
    folder: Path
    edit: str

    @property
    def dataset(self) -> Path:
        return self.folder / _DATASET

    @property
    def labels(self) -> Path:
        """May not exist."""
        return self.folder / _LABELS


@contextmanager
def hold(root: Path) -> Iterator[Path]:
    """Keep a dataset from other editors and recorders; complete or remove what a killed editor left.

    Gives the folder as it is, links resolved. Raises EditError where another process has it.
    """
    root = root.resolve()
    if not root.exists() and not undo_folder(root).exists():
        raise EditError(f"there is no dataset {root}")
    with _editing(root):
        repair(root)
        _put_in_order(root)
        if not (root / INFO_FILE).is_file():
            raise EditError(f"{root} is no dataset: it has no {INFO_FILE}")
        with claimed(root, "recorded into"):
            yield root


@contextmanager
def hold_new(root: Path) -> Iterator[Path]:
    """`hold` for a dataset that is to be made. Raises EditError where there is one, or labels of one."""
    root = root.resolve()
    root.parent.mkdir(parents=True, exist_ok=True)
    with _editing(root):
        repair(root)
        for path in (root, labels_file(root)):
            if path.exists():
                raise EditError(f"{path} exists, and a merge replaces nothing: choose another name")
        yield root


@contextmanager
def claimed(folder: Path, what: str, mode: int = fcntl.LOCK_EX) -> Iterator[None]:
    """A folder that no other process claims until the block ends. Raises EditError where one does.

    mode: LOCK_SH lets others read it too.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
            mine = folder.exists() and os.path.samestat(os.fstat(handle), folder.stat())
        except BlockingIOError:
            mine = False
        if not mine:
            raise EditError(f"{folder} is being {what} by another process")
        yield
    finally:
        os.close(handle)


@contextmanager
def _editing(root: Path) -> Iterator[None]:
    """Only one process edits `root`. The folder of its versions leaves again where there are none."""
    undo = undo_folder(root)
    undo.mkdir(exist_ok=True)
    with claimed(undo, "edited"):
        try:
            yield
        finally:
            if not any(undo.iterdir()):
                undo.rmdir()


def _put_in_order(root: Path) -> None:
    """What a killed recorder left."""
    if (root / PARTIAL).exists() and (root / TASK_RECORD).is_file():
        task = task_from_json((root / TASK_RECORD).read_text(), str(root / TASK_RECORD))
        roles = [record_in(root, line).role for line in episode_lines(root)]
        Recording.reopen(root, task, roles[0] if roles else "").close()


def versions(root: Path) -> list[Version]:
    """The kept versions of a dataset, the oldest first."""
    found = sorted(path for path in undo_folder(root).glob("[0-9]*") if (path / _EDIT).is_file())
    return [Version(path.name, path, json.loads((path / _EDIT).read_text())["edit"]) for path in found]


def exchange(
    root: Path,
    edit: str,
    write: Callable[[Path], None],
    labels: dict[str, Label] | Path | None,
    check: Callable[[Path], None],
) -> str:
    """Replace the dataset `root` (or make it, where there is none). Returns the kept version's number, or "".

    edit: what is done, in words. write: writes the new dataset into a folder that does not exist. labels: of
    the new dataset; a labels file to be copied as it is; None for none. check: raises where the new dataset
    is not whole, which leaves everything as it was. Must be called within `hold`. Raises EditError when the
    labels were changed meanwhile.
    """
    before = _content(labels_file(root))
    try:
        _prepare(undo_folder(root) / _NEW, write, labels, check)
        with only_one_changes_labels(root):
            if _content(labels_file(root)) != before:
                raise EditError(f"{labels_file(root)} was changed meanwhile; nothing was done, do it again")
            number = _next_number(root) if root.exists() else ""
            told = {"edit": edit, "keep_as": number, "labels": labels is not None}
            write_whole(undo_folder(root) / _NEW / _EDIT, json.dumps(told))
            _complete(root)
    finally:
        repair(root)
    return number


def _prepare(
    new: Path,
    write: Callable[[Path], None],
    labels: dict[str, Label] | Path | None,
    check: Callable[[Path], None],
) -> None:
    new.mkdir()
    write(new / _DATASET)
    if isinstance(labels, Path):
        shutil.copyfile(labels, new / _LABELS)
    elif labels is not None:
        write_labels(new / _DATASET, labels)
        labels_file(new / _DATASET).rename(new / _LABELS)
    check(new / _DATASET)
    sync_tree(new)


def repair(root: Path) -> None:
    """Complete the edit a killed process had decided on; remove one it had not."""
    new = undo_folder(root) / _NEW
    if (new / _EDIT).is_file():
        with only_one_changes_labels(root):
            _complete(root)
    elif new.exists():
        shutil.rmtree(new)


def _complete(root: Path) -> None:
    """Every step may have been done already."""
    undo, labels = undo_folder(root), labels_file(root)
    new = undo / _NEW
    plan = json.loads((new / _EDIT).read_text())
    if plan["keep_as"] and not (undo / plan["keep_as"] / _DATASET).exists():
        _keep(root, undo / plan["keep_as"], plan["edit"])
    if (new / _DATASET).exists():
        if (new / _LABELS).exists():
            (new / _LABELS).replace(labels)
        elif not plan["labels"]:
            labels.unlink(missing_ok=True)
        fsync(labels.parent)
        (new / _DATASET).rename(root)
        fsync(root.parent)
    (new / _EDIT).unlink()
    shutil.rmtree(new)


def _keep(root: Path, kept: Path, edit: str) -> None:
    kept.mkdir(exist_ok=True)
    if labels_file(root).exists():
        with whole_file(kept / _LABELS) as copy:
            shutil.copyfile(labels_file(root), copy)
    write_whole(kept / _EDIT, json.dumps({"edit": edit}))
    root.rename(kept / _DATASET)
    fsync(kept)
    fsync(kept.parent)


def _next_number(root: Path) -> str:
    return f"{max([-1, *(int(version.number) for version in versions(root))]) + 1:03d}"


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
