"""Imported datasets, kept under a key made of everything that decides the result; stale ones are never met.

<cache>/<key>/        the episodes and task.json
<cache>/<key>.json    written last: what was found, and the sha256 of every file
<cache>/<key>.lock    held while an entry is checked or made
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import av
import cv2
import mujoco
import numpy as np

from hilserl.episode import fsync_folder
from hilserl.rundir import write_whole

KEY_LENGTH = 16
DATA_FOLDERS = ("meta", "data", "videos")
MODULES = (
    "config",
    "config_tree",
    "dataset_actions",
    "dataset_checks",
    "dataset_columns",
    "dataset_import",
    "dataset_motion",
    "dataset_schema",
    "dataset_video",
    "env",
    "episode",
    "episode_builder",
    "task_record",
    "types",
)
"""Modules of hilserl that decide what an import gives; of robot, all do."""


def content_hash(root: Path) -> str:
    """sha256 of a dataset: the names and the bytes of all its files, whatever their dates."""
    digest = hashlib.sha256()
    for folder in DATA_FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(root).as_posix()}\n{_sha256(path)}\n".encode())
    return digest.hexdigest()


def code_hash() -> str:
    """sha256 of the source of every module that decides the result, the arm model, and library versions."""
    digest = hashlib.sha256()
    versions = [av.__version__, cv2.__version__, mujoco.__version__, np.__version__]
    digest.update(json.dumps(versions).encode())
    mind, body = Path(str(files("hilserl"))), Path(str(files("robot")))
    sources = [mind / f"{name}.py" for name in MODULES]
    sources += [path for path in sorted(body.rglob("*")) if path.suffix in (".py", ".json")]
    for path in sources:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def entry_key(**parts: str) -> str:
    """Name of the entry: sha256 of named parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]


@contextmanager
def locked(cache: Path, key: str) -> Iterator[None]:
    """Hold the entry for this process; another one that wants it waits."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{key}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def find_entry(cache: Path, key: str) -> tuple[dict[str, Any] | None, str]:
    """What is known of a whole entry, or None and why it cannot be used ("" when there is none)."""
    folder, record = cache / key, cache / f"{key}.json"
    if not folder.exists() and not record.exists():
        return None, ""
    try:
        told: dict[str, Any] = json.loads(record.read_text())
        expected: dict[str, str] = told["files"]
        found = {path.name: _sha256(path) for path in folder.iterdir()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{record.name} or its folder cannot be read ({error})"
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return (None, f"{folder.name}/{wrong[0]} is not as it was written") if wrong else (told, "")


@contextmanager
def new_entry(cache: Path, key: str, told: dict[str, Any]) -> Iterator[Path]:
    """A folder to fill; it becomes the entry when the block ends, and vanishes when it raises.

    told: what `find_entry` shall give back; it may still grow within the block.
    """
    partial, folder, record = cache / f".{key}.partial", cache / key, cache / f"{key}.json"
    for left in (partial, folder):
        shutil.rmtree(left, ignore_errors=True)
    record.unlink(missing_ok=True)
    partial.mkdir()
    try:
        yield partial
        told["files"] = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
        partial.rename(folder)
        fsync_folder(cache)
        write_whole(record, json.dumps(told, indent=1))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
