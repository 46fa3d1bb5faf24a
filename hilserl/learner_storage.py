"""Where a learner's data are on disk, and how a run that is started again takes them in.

The archive (run.episodes and the demonstrations) is what counts; the replay's files are made from it and
save the time of encoding it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hilserl.build import build_replay, take_in
from hilserl.config import Config
from hilserl.counters import Counters
from hilserl.encoder import FeatureEncoder
from hilserl.episode import TASK_FILE, EpisodeInfo, load_episode, save_episode, scan_episodes
from hilserl.replay import Key, LayoutChanged, Replay, delete_ring
from hilserl.rollback import excluded_episodes
from hilserl.rundir import RunDir, write_whole
from hilserl.sac_agent import Stopped
from hilserl.task_record import check_task, task_json
from hilserl.types import Episode, Role, Spec
from robot.types import U8

Say = Callable[[str], None]
ShouldStop = Callable[[], bool]


class Archive:
    """The episode files a run learns from. Its methods may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[Key, Path] = {}

    def store(self, episode: Episode) -> None:
        """Write an arrived episode durably. Evaluation leaves no file."""
        if episode.role is not Role.EVAL:
            self.know(Key.of(episode), save_episode(self._folder, episode))

    def know(self, key: Key, path: Path) -> None:
        """Remember where an episode is."""
        self._paths[key] = path

    def pictures(self, key: Key) -> Mapping[str, U8] | None:
        """The pictures of a stored episode, None when it is not known."""
        path = self._paths.get(key)
        return None if path is None else load_episode(path).images


def open_replay(config: Config, spec: Spec, encoder: FeatureEncoder, folder: Path, say: Say) -> Replay:
    """The replay of a run, its rings as files under `folder`; made anew where they are of another layout."""
    while True:
        try:
            return build_replay(config, spec, encoder, folder)
        except LayoutChanged as changed:
            say(f"{changed}; it is filled again from the episodes, which takes a while")
            delete_ring(changed.folder)


def take_in_run(
    config: Config,
    run: RunDir,
    replay: Replay,
    archive: Archive,
    counters: Counters,
    say: Say,
    should_stop: ShouldStop,
) -> list[EpisodeInfo]:
    """Count a resumed run's own episodes and add those the replay lacks; returns them all.

    What a rollback set apart is neither counted nor sampled. Raises TaskMismatch naming a field that differs.
    """
    task_file = run.episodes / TASK_FILE
    if task_file.exists():
        check_task(config.task, task_file.read_text(), str(task_file), config.allow_task_difference)
    else:
        write_whole(task_file, task_json(config.task))
    stored, excluded = scan_episodes(run.episodes), excluded_episodes(run.root)
    apart = [info for info in stored if (info.actor, info.number) in excluded]
    replay.exclude(Key.of(load_episode(info.path, pictures=False)) for info in apart)
    # In order of arrival, so that where the ring is too small the oldest make room.
    lacked = 0
    for info in sorted(stored, key=lambda info: info.path.stat().st_mtime_ns):
        if should_stop():
            raise Stopped
        if info not in apart:
            episode, added = take_in(info, replay, archive.know)
            counters.count(episode)
            lacked += added
    if stored:
        say(
            f"{len(stored)} episodes of this run, {counters.transitions} transitions: {lacked} were encoded, "
            f"{len(apart)} set apart by a rollback"
        )
    return stored
