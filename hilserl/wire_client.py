"""The actor's end of the wire: never blocks the control loop, loses nothing, brings the newest weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from hilserl._proto import learner_pb2 as pb
from hilserl._proto import learner_pb2_grpc as pb_grpc
from hilserl.alarms import Alarm
from hilserl.config import ServiceConfig
from hilserl.episode import EpisodeHeader
from hilserl.episode_builder import check_actor, check_obs, check_step, merge_info
from hilserl.spool import Spool
from hilserl.types import End, Obs, Spec, Step, Weights
from hilserl.wire_assembly import MAX_STEPS
from hilserl.wire_channel import (
    DEADLINE_S,
    LearnerUnreachable,
    WireError,
    address,
    open_channel,
    token_metadata,
)
from hilserl.wire_codec import (
    Command,
    alarm_from_proto,
    command_to_proto,
    first_to_proto,
    last_to_proto,
    next_to_proto,
)
from hilserl.wire_connection import Connection

_LOG = logging.getLogger(__name__)


class ActorLink:
    """An actor's connection to its learner. begin, step and end belong to one thread.

        link = ActorLink(config.service, "robot", run_dir / "spool")
        link.connect(spec, task_hash, task_json)
        weights = link.wait_weights()
        link.begin(EpisodeHeader("robot", link.next_episode_number, ...), obs)
        link.step(step)
        link.end(End.SUCCESS)
        link.close()

    begin, step and end write to the spool and return; a thread sends. While the learner is away, episodes
    gather in the spool and are sent when it is back. on_message: told in words when the learner is waited
    for, lost or found, and what was refused or dropped; called from several threads.
    """

    def __init__(
        self,
        config: ServiceConfig,
        actor: str,
        spool_dir: Path,
        on_message: Callable[[str], None] = _LOG.warning,
    ) -> None:
        check_actor(actor)
        self.actor = actor
        self._spool = Spool(spool_dir, on_message)
        try:
            self._connection = Connection(config, actor, self._spool, on_message)
        except WireError:
            self._spool.close()
            raise
        self._spec: Spec | None = None
        self._header: EpisodeHeader | None = None
        self._steps = 0

    def connect(self, spec: Spec, task_hash: str, task_json: str, timeout_s: float | None = None) -> None:
        """Join the learner, waiting for it (None: for ever); then start sending and receiving.

        Raises JoinRefused with every difference, LearnerUnreachable when time is up (call again if you like).
        """
        if self._connection.started:
            raise WireError("already connected")
        self._connection.join(spec, task_hash, task_json, timeout_s)
        self._spec = spec
        self._connection.start()

    @property
    def connected(self) -> bool:
        """True while a session with the learner stands."""
        return bool(self._connection.session)

    @property
    def next_episode_number(self) -> int:
        """Number the next episode must carry, above every one this actor ever used. Valid once connected."""
        return max(self._spool.last_number, self._connection.durable) + 1

    @property
    def backlog(self) -> int:
        """Number of finished episodes the learner has not acknowledged."""
        return len(self._spool.pending())

    def begin(self, header: EpisodeHeader, obs: Obs) -> None:
        """Start an episode. header.number must be `next_episode_number`.

        Raises ValueError for what does not fit, EpisodeRefused when the learner refused an earlier episode,
        JoinRefused when it no longer takes this actor, SpoolError when the disk is full.
        """
        self._check()
        if self._spec is None:
            raise WireError("connect first")
        if self._header is not None:
            raise WireError(f"episode {self._header.number} has not ended; end it (End.DISCARDED) first")
        if (header.actor, header.number) != (self.actor, self.next_episode_number):
            expected = f"{self.actor}/{self.next_episode_number}"
            raise ValueError(f"the next episode is {expected}, got {header.actor}/{header.number}")
        check_obs(self._spec, obs)
        payload = first_to_proto(header, obs).SerializeToString()
        self._spool.begin(header.number)
        self._header, self._steps = header, 0
        self._spool.append(payload)

    def step(self, step: Step) -> None:
        """Send one step. How the episode ended is said by `end`, not by step.end. Raises like `begin`."""
        if self._spec is None or self._header is None:
            raise WireError("no episode has begun")
        if self._steps >= MAX_STEPS:
            raise ValueError(f"an episode may have {MAX_STEPS} steps; end it")
        check_step(self._spec, step)
        self._spool.append(next_to_proto(self._header, self._steps + 1, step).SerializeToString())
        self._steps += 1

    def end(self, end: End, info: Mapping[str, float | str] | None = None) -> None:
        """End the episode; DISCARDED makes it vanish. `info` adds facts known only now.

        Returns when the episode is safe on this machine's disk (some ms). Raises ValueError when it has no
        step and is not discarded, or a fact contradicts the header's.
        """
        if self._header is None:
            raise WireError("no episode has begun")
        if self._steps == 0 and end is not End.DISCARDED:
            raise ValueError("an episode without a step can only be discarded")
        facts = info or {}
        merge_info(self._header.info, facts)
        self._spool.append(last_to_proto(self._header, self._steps + 1, end, facts).SerializeToString())
        self._spool.commit()
        self._header = None

    def weights(self, newer_than: int | None = None) -> Weights | None:
        """Return the newest weights, or None when there are none or their version is `newer_than`.

        A learner that was rolled back publishes lower versions: any other version counts as newer.
        """
        self._check()
        newest = self._connection.weights
        return None if newest is None or newest.version == newer_than else newest

    def wait_weights(self, timeout_s: float | None = None) -> Weights | None:
        """Wait for the first weights; None when `timeout_s` passed. Raises like `begin`."""
        self._connection.wait(lambda: self._connection.weights is not None, timeout_s)
        return self.weights()

    def progress(self) -> tuple[int, int]:
        """Return (transitions taken in, critic updates done) as last heard from the learner."""
        return self._connection.progress

    def wait_updates(self, updates: int, timeout_s: float | None = None) -> bool:
        """Wait until the learner has done `updates` critic updates. False when `timeout_s` passed."""
        done = self._connection.wait(lambda: self._connection.progress[1] >= updates, timeout_s)
        self._check()
        return done

    def wait_sent(self, but: int, timeout_s: float) -> bool:
        """Wait until the learner has all finished episodes `but` so many. False when `timeout_s` passed."""
        done = self._spool.wait_empty(timeout_s, but)
        self._check()
        return done

    def close(self, timeout_s: float = 2.0) -> int:
        """Send what is left for up to `timeout_s`, then hang up. Return the number of episodes still unsent.

        Those stay in the spool for the next start. An episode that has not ended is lost. More than once is
        allowed.
        """
        if self._connection.sending:
            self._spool.wait_empty(timeout_s)
        self._connection.close()
        self._spool.close()
        return self.backlog

    def _check(self) -> None:
        if self._connection.failure is not None:
            raise self._connection.failure


@dataclass(frozen=True, slots=True)
class LearnerStatus:
    """What a learner says of itself.

    actors: {name: (connected now, highest stored episode number)}. alarms: those that stand.
    updates_per_transition: achieved in the last minute, None when no transition arrived in it.
    paused: no updates until Command.RESUME.
    """

    task_hash: str
    weights_version: int
    transitions: int
    updates: int
    actors: dict[str, tuple[bool, int]]
    alarms: tuple[Alarm, ...]
    updates_per_transition: float | None
    paused: bool


def learner_status(config: ServiceConfig) -> LearnerStatus:
    """Ask the learner how it is. Raises LearnerUnreachable."""
    return status_from_proto(_ask(config, "Status", pb.StatusRequest()))


def status_from_proto(reply: Any) -> LearnerStatus:  # noqa: ANN401
    """Return a StatusReply as plain data."""
    return LearnerStatus(
        task_hash=reply.task_hash,
        weights_version=reply.weights_version,
        transitions=reply.progress.transitions,
        updates=reply.progress.updates,
        actors={a.name: (a.connected, a.durable_number) for a in reply.actors},
        alarms=tuple(alarm_from_proto(alarm) for alarm in reply.alarms),
        updates_per_transition=(
            reply.updates_per_transition if reply.HasField("updates_per_transition") else None
        ),
        paused=reply.paused,
    )


def send_command(config: ServiceConfig, command: Command) -> None:
    """Ask the learner to do `command`. Raises LearnerUnreachable."""
    _ask(config, "Control", command_to_proto(command))


def _ask(config: ServiceConfig, method: str, request: Any) -> Any:  # noqa: ANN401 (generated messages)
    with open_channel(config) as channel:
        call = getattr(pb_grpc.LearnerStub(channel), method)
        try:
            return call(request, timeout=DEADLINE_S, metadata=token_metadata(config))
        except grpc.RpcError as error:
            raise LearnerUnreachable(
                f"no answer from the learner at {address(config)}: {error.details()}"
            ) from error
