"""Who is connected to the learner: one session per actor name, and how far each actor's episodes are safe."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

_GRACE_S = 10.0
"""How long a session may exist before its first stream."""


@dataclass(slots=True)
class Session:
    """One joined actor. streams: how many of its streams are open now."""

    id: str
    actor: str
    identity: str
    task_hash: str
    joined_s: float
    streams: int = 0
    streamed: bool = False

    def active(self) -> bool:
        """True while the actor is connected, or has just joined and may still open its streams."""
        return self.streams > 0 or (not self.streamed and time.monotonic() - self.joined_s < _GRACE_S)


@dataclass(slots=True)
class ActorRecord:
    """What is known of an actor name. `lock` is held while one of its episodes is stored."""

    durable: int = 0
    session: Session | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Sessions:
    """All actors by name. Thread-safe."""

    def __init__(self, durable: Mapping[str, int], max_actors: int) -> None:
        self._lock = threading.Lock()
        self._max_actors = max_actors
        self._actors = {name: ActorRecord(number) for name, number in durable.items()}

    def join(self, actor: str, identity: str, task_hash: str) -> Session | str:
        """Return a new session for `actor`, or why there is none.

        The same identity takes its name over from its own earlier session, which then ends.
        """
        with self._lock:
            record = self._actors.get(actor)
            current = record.session if record else None
            if current is not None and current.active() and current.identity != identity:
                return "is connected already; give every actor a name of its own"
            others = sum(
                1 for n, r in self._actors.items() if n != actor and r.session and r.session.active()
            )
            if others >= self._max_actors:
                return f"is one too many; the learner takes {self._max_actors} actors"
            session = Session(uuid.uuid4().hex, actor, identity, task_hash, time.monotonic())
            self._actors.setdefault(actor, ActorRecord()).session = session
            return session

    def open_stream(self, session_id: str) -> Session | None:
        """Return the session of that id and count one more stream; None when it has ended."""
        with self._lock:
            for record in self._actors.values():
                if record.session is not None and record.session.id == session_id:
                    record.session.streams += 1
                    record.session.streamed = True
                    return record.session
            return None

    def close_stream(self, session: Session) -> None:
        """One stream of `session` ended."""
        with self._lock:
            session.streams -= 1

    def is_current(self, session: Session) -> bool:
        """False once the actor has joined anew."""
        return self._actors[session.actor].session is session

    def record(self, actor: str) -> ActorRecord:
        """Return what is known of an actor that has joined."""
        return self._actors[actor]

    def durable(self, actor: str) -> int:
        """Return the highest number of `actor` that needs no resending, 0 when there is none."""
        record = self._actors.get(actor)
        return record.durable if record else 0

    def overview(self) -> list[tuple[str, bool, int]]:
        """Return (name, connected, durable number) of every actor ever seen."""
        with self._lock:
            return [
                (name, r.session is not None and r.session.active(), r.durable)
                for name, r in sorted(self._actors.items())
            ]
