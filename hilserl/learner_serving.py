"""The learner's side of the wire: arriving episodes go to disk and inbox, weights and progress go out."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from hilserl.alarms import Alarm
from hilserl.config import Config
from hilserl.episode import EpisodeInfo, durable_numbers
from hilserl.learner_storage import Archive
from hilserl.oversight import Oversight
from hilserl.rundir import write_whole
from hilserl.stopping import Stop
from hilserl.task_record import task_hash, task_json
from hilserl.types import Episode, Role, Spec, Weights
from hilserl.wire import Command, LearnerService

INBOX_EPISODES = 64


class Serving:
    """Serves actors from `start` to `close`. Arrived episodes are in `inbox`, those of `stored` on disk.

    Actors are told of transitions as soon as these are on disk, not when the loop gets to them: an actor
    that keeps pace would otherwise run ahead while they are encoded.
    """

    def __init__(
        self,
        config: Config,
        spec: Spec,
        archive: Archive,
        stored: Sequence[EpisodeInfo],
        transitions: int,
        version_file: Path,
    ) -> None:
        self.inbox: queue.Queue[Episode] = queue.Queue(INBOX_EPISODES)
        self._archive, self._version_file = archive, version_file
        self._lock = threading.Lock()
        self._arrived, self._updates = transitions, 0
        self._service = LearnerService(
            config.service,
            spec,
            task_hash(config.task),
            task_json(config.task),
            self._store,
            self.inbox,
            durable_numbers(list(stored)),
            config.allow_task_difference,
        )

    def start(self) -> None:
        """Listen. Raises PortBusy, or WireError when the address cannot be served."""
        self._service.start()

    def close(self) -> None:
        """Stop serving within 2 s; what was not acknowledged will be sent again."""
        self._service.stop()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._service.port

    def last_version(self) -> int:
        """The newest version ever published in this run, 0 when there is none."""
        return int(self._version_file.read_text()) if self._version_file.exists() else 0

    def publish(self, weights: Weights) -> None:
        """Hand new weights to the actors; the version is on disk first: no two policies ever share one."""
        write_whole(self._version_file, f"{weights.version}\n")
        self._service.publish(weights)

    def progress(self, transitions: int, updates: int) -> None:
        """Tell the actors how far learning is."""
        with self._lock:
            self._arrived, self._updates = max(self._arrived, transitions), updates
            self._service.progress(self._arrived, self._updates)

    def actors(self) -> list[str]:
        """Names of the actors connected now."""
        return [name for name, connected in self._service.actors().items() if connected]

    def report(self, alarms: Sequence[Alarm], paused: bool, updates_per_transition: float | None) -> None:
        """What `Status` says from now on."""
        self._service.set_alarms(alarms, paused=paused, updates_per_transition=updates_per_transition)

    def obedient(
        self, stop: Stop, watch: Oversight, save: Callable[[bool], None] | None
    ) -> Callable[[], bool]:
        """A should_stop that first does what was asked for over the wire. save: None before learning."""

        def should_stop() -> bool:
            while not self._service.commands.empty():
                match self._service.commands.get():
                    case Command.SAVE if save is not None:
                        save(False)
                    case Command.STOP:
                        stop.ask()
                    case Command.PAUSE:
                        watch.pause("as asked over the wire")
                    case Command.RESUME:
                        watch.resume()
            return stop()

        return should_stop

    def _store(self, episode: Episode) -> None:
        """Called by the service's threads, before an episode is acknowledged."""
        self._archive.store(episode)
        if episode.role is Role.TRAIN:
            with self._lock:
                self._arrived += len(episode)
                self._service.progress(self._arrived, self._updates)
