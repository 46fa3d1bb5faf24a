"""The run folder outputs/<job>/: what lies where, who may write it; files that appear whole or not at all.

    config.json                      the learner's effective configuration
    metrics/ episodes/ checkpoints/ videos/          the learner's
    actors/<name>/{config.json, metrics/, spool/, videos/, overrules.jsonl}     one actor's each

Learner and actors start in any order: neither needs, nor writes, a folder of the other.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

CONFIG_FILE = "config.json"
TEMPORARY = ".tmp"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RunDirError(Exception):
    """A run folder that cannot be used. The message names it and the choices left."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it durably when the block ends, removed when it raises.

    Readers see the old file or the new one, never a part. Its suffix is that of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=TEMPORARY + path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        fsync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def fsync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Claim:
    """A folder claimed for this process until `close`, or until the process ends however it ends."""

    def __init__(self, folder: Path, what: str) -> None:
        self._file: IO[str] = (folder / ".lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            self._file.close()
            raise RunDirError(
                f"{folder} is in use by {what} with process id {owner}: end that one, or choose another name"
            ) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class ActorDir:
    """What one actor leaves behind: outputs/<job>/actors/<name>/. Held by one process until `close`."""

    root: Path
    _claim: _Claim

    @property
    def metrics(self) -> Path:
        return self.root / "metrics"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def videos(self) -> Path:
        return self.root / "videos"

    @property
    def overrules(self) -> Path:
        return self.root / "overrules.jsonl"

    def close(self) -> None:
        """Let another process have the folder. More than once is allowed."""
        self._claim.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class RunDir:
    """The learner's run folder: outputs/<job>/. Held by one process until `close`."""

    root: Path
    _claim: _Claim

    @property
    def metrics(self) -> Path:
        return self.root / "metrics"

    @property
    def episodes(self) -> Path:
        return self.root / "episodes"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def videos(self) -> Path:
        return self.root / "videos"

    @classmethod
    def create(cls, output_dir: str | Path, job_name: str, config_json: str, resume: bool) -> RunDir:
        """Start the run `job_name`, or continue it when `resume`.

        config_json: the effective configuration, stored as config.json; on resume one that differs is kept
        as config_before_resume_N.json. Raises RunDirError when a run is there and `resume` is false, when
        none is there and it is true, and when another learner holds the folder.
        """
        root = _job_folder(output_dir, job_name)
        exists = (root / CONFIG_FILE).exists()
        if resume and not exists:
            raise RunDirError(_nothing_there(root))
        root.mkdir(parents=True, exist_ok=True)
        claim = _Claim(root, "a learner")
        if (root / CONFIG_FILE).exists() and not resume:  # judged under the claim: two may start at once
            claim.close()
            raise RunDirError(_already_there(root))
        run = cls(root, claim)
        for folder in (run.metrics, run.episodes, run.checkpoints, run.videos):
            folder.mkdir(exist_ok=True)
            _sweep(folder)
        _store_config(root, config_json)
        return run

    @classmethod
    def hold(cls, output_dir: str | Path, job_name: str) -> Self:
        """Hold the run `job_name` as it lies there, to work on it while no learner does.

        Raises RunDirError when there is none, or a learner holds it.
        """
        root = _job_folder(output_dir, job_name)
        if not (root / CONFIG_FILE).exists():
            raise RunDirError(f"no run at {root}: it has no {CONFIG_FILE}; {_runs(root)}")
        return cls(root, _Claim(root, "a learner"))

    @staticmethod
    def open_actor(output_dir: str | Path, job_name: str, actor: str, config_json: str) -> ActorDir:
        """The folder of `actor` in the run `job_name`; made when missing, continued when there.

        Raises RunDirError when a running actor of this name holds it.
        """
        root = _job_folder(output_dir, job_name) / "actors" / _checked(actor, "the actor's name")
        root.mkdir(parents=True, exist_ok=True)
        folder = ActorDir(root, _Claim(root, "an actor"))
        for part in (folder.metrics, folder.videos):
            part.mkdir(exist_ok=True)
            _sweep(part)
        _store_config(root, config_json)
        return folder

    def close(self) -> None:
        """Let another process have the folder. More than once is allowed."""
        self._claim.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checked(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise RunDirError(f"{what} is {name!r}; it names a folder: at most 64 letters, digits, '.', '_', '-'")
    return name


def _job_folder(output_dir: str | Path, job_name: str) -> Path:
    return Path(output_dir) / _checked(job_name, "job_name")


def _already_there(root: Path) -> str:
    saved = sorted(p.name for p in (root / "checkpoints").glob("[0-9]*"))
    episodes = len(list((root / "episodes").glob("*.npz")))
    found = f"{episodes} episodes, last checkpoint {saved[-1] if saved else 'none'}"
    return (
        f"a run is at {root} already ({found}). "
        f"Continue it with --resume=true, or start another with --job_name=NAME"
    )


def _nothing_there(root: Path) -> str:
    return (
        f"nothing to resume at {root}: it has no {CONFIG_FILE}. Start it with --resume=false, "
        f"or name another run with --job_name; {_runs(root)}"
    )


def _runs(root: Path) -> str:
    runs = ", ".join(sorted(p.parent.name for p in root.parent.glob(f"*/{CONFIG_FILE}"))) or "none"
    return f"runs in {root.parent}: {runs}"


def _store_config(root: Path, config_json: str) -> None:
    path = root / CONFIG_FILE
    if path.exists():
        before = path.read_text(encoding="utf-8")
        if before == config_json:
            return
        number = 1
        while (kept := root / f"config_before_resume_{number}.json").exists():
            number += 1
        write_whole(kept, before)
    write_whole(path, config_json)


def _sweep(folder: Path) -> None:
    """Remove what interrupted writers of `whole_file` left. Only the folder's one owner may."""
    for leftover in folder.glob(f".*{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
