"""The threads behind an ActorLink: join, send what the spool holds, receive weights and progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from hilserl._proto import learner_pb2 as pb
from hilserl._proto import learner_pb2_grpc as pb_grpc
from hilserl.config import ServiceConfig
from hilserl.spool import Spool
from hilserl.types import Spec, Weights
from hilserl.wire_channel import (
    DEADLINE_S,
    SESSION_KEY,
    EpisodeRefused,
    JoinRefused,
    LearnerUnreachable,
    WireError,
    address,
    open_channel,
    token_metadata,
)
from hilserl.wire_codec import PROTOCOL_VERSION, Difference, spec_to_proto, weights_from_proto

_BACKOFF_FIRST_S = 0.1
_BACKOFF_MAX_S = 2.0
_SAY_AGAIN_S = 10.0
_SESSION_ENDED = (grpc.StatusCode.ABORTED, grpc.StatusCode.FAILED_PRECONDITION)


class Connection:
    """Keeps one actor joined to its learner. Thread-safe.

    failure: why this actor can go on no longer, or None. durable: highest number the learner has.
    """

    def __init__(self, config: ServiceConfig, actor: str, spool: Spool, say: Callable[[str], None]) -> None:
        self.where = address(config)
        self.failure: WireError | None = None
        self.durable = 0
        self.session = ""
        self.weights: Weights | None = None
        self.progress = (0, 0)
        self._actor = actor
        self._spool = spool
        self._say = say
        self._token = token_metadata(config)
        self._channel = open_channel(config)
        self._stub = pb_grpc.LearnerStub(self._channel)
        self._request = pb.JoinRequest()
        self._have_sha256 = b""
        self._changed = threading.Condition()
        self._calls: dict[str, Any] = {}
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._say_next_s = 0.0

    def join(self, spec: Spec, task_hash: str, task_json: str, timeout_s: float | None) -> None:
        """Join, waiting for the learner. Raises JoinRefused or, after `timeout_s`, LearnerUnreachable."""
        self._request = pb.JoinRequest(
            protocol_version=PROTOCOL_VERSION,
            actor=self._actor,
            identity=self._spool.identity,
            spec=spec_to_proto(spec),
            task_hash=task_hash,
            task_json=task_json,
        )
        started = time.monotonic()
        delay = _BACKOFF_FIRST_S
        while True:
            try:
                self._join()
                return
            except grpc.RpcError as error:
                now = time.monotonic()
                waited = now - started
                reason = (
                    f"no learner at {self.where} (service.learner_host, .learner_port): {error.details()}"
                )
                if timeout_s is not None and waited >= timeout_s:
                    raise LearnerUnreachable(reason) from error
                if now >= self._say_next_s:
                    self._say_next_s = now + _SAY_AGAIN_S
                    self._say(f"waiting: {reason}")
            time.sleep(delay if timeout_s is None else min(delay, max(0.0, timeout_s - waited)))
            delay = min(2 * delay, _BACKOFF_MAX_S)

    def start(self) -> None:
        """Start sending and receiving. Once, after `join`."""
        for run in (self._run_steps, self._run_news):
            thread = threading.Thread(target=run, name=f"{self._actor}{run.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def started(self) -> bool:
        return bool(self._threads)

    @property
    def sending(self) -> bool:
        """True while what is in the spool may still reach the learner."""
        return self.started and self.failure is None and not self._stop.is_set()

    def wait(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `done` or a failure. False when `timeout_s` passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: done() or self.failure is not None, timeout_s)

    def close(self) -> None:
        """Hang up. More than once is allowed."""
        self._stop.set()
        with self._changed:
            calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        for thread in self._threads:
            thread.join(1.0)
        self._channel.close()

    def _join(self) -> None:
        """Ask for a session. Raises JoinRefused, or grpc.RpcError when the learner cannot be asked."""
        try:
            reply = self._stub.Join(self._request, timeout=DEADLINE_S, metadata=self._token)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise
            difference = Difference("service.token_file", "another token", f"a {error.details()}")
            raise JoinRefused([difference]) from error
        differences = [Difference(d.field, d.learner, d.actor) for d in reply.differences]
        unsent = self._spool.pending()
        if not differences and unsent and reply.durable_number > self._spool.last_number:
            # Numbers this spool never gave out: acknowledging them would lose what is still unsent here.
            theirs = f"episodes up to {reply.durable_number} under this name from another spool folder"
            ours = f"unsent episodes {unsent} in {self._spool.folder}; give this actor another name"
            differences = [Difference("actor", theirs, ours)]
        if differences:
            raise JoinRefused(differences)
        self._spool.acknowledge(reply.durable_number)
        with self._changed:
            self.durable = max(self.durable, reply.durable_number)
            self.session = reply.session
            self._changed.notify_all()

    def _run_steps(self) -> None:
        delay = _BACKOFF_FIRST_S
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                if not self.session:
                    self._join()
                    self._say(f"found the learner at {self.where} again")
                self._stream_steps()
                reason = "it ended the stream"
            except JoinRefused as error:
                self._fail(error)
                return
            except grpc.RpcError as error:
                reason = str(error.details())
            if self._stop.is_set():
                return
            if self.session:
                self._say(f"lost the learner at {self.where}: {reason}; trying again")
            with self._changed:
                self.session = ""
            if time.monotonic() - started > _BACKOFF_MAX_S:
                delay = _BACKOFF_FIRST_S
            self._stop.wait(delay)
            delay = min(2 * delay, _BACKOFF_MAX_S)

    def _stream_steps(self) -> None:
        over = threading.Event()
        try:
            for ack in self._call("steps", self.session, self._stub.StreamSteps, self._records(over)):
                self._spool.acknowledge(ack.durable_number)
                self._set_progress(ack.progress)
                if ack.refused_number:
                    self._spool.set_aside(ack.refused_number, "refused")
                    self._fail(EpisodeRefused(f"episode {ack.refused_number}: {ack.refused_reason}"))
        finally:
            over.set()
            self._spool.wake()

    def _records(self, over: threading.Event) -> Iterator[Any]:
        for payload in self._spool.follow(over):
            yield pb.Record.FromString(payload)

    def _run_news(self) -> None:
        while not self._stop.is_set():
            session = self.session
            if session:
                self._stream_news(session)
            self._stop.wait(_BACKOFF_FIRST_S)

    def _stream_news(self, session: str) -> None:
        call = self._call(
            "news", session, self._stub.StreamWeights, pb.WeightsRequest(have_sha256=self._have_sha256)
        )
        try:
            for news in call:
                self._take_news(news)
        except ValueError as error:
            self._say(f"refused weights: {error}; asking again")
            call.cancel()
        except grpc.RpcError as error:
            if error.code() in _SESSION_ENDED and session == self.session:
                self._say(f"the session with the learner ended: {error.details()}")
                steps = self._calls.get("steps")
                if steps is not None:
                    steps.cancel()  # while idle it would not notice; its thread then joins anew

    def _take_news(self, news: Any) -> None:  # noqa: ANN401 (a generated message)
        if news.WhichOneof("body") == "progress":
            self._set_progress(news.progress)
            return
        weights = weights_from_proto(news.weights)
        with self._changed:
            self.weights = weights
            self._have_sha256 = news.weights.sha256
            self._changed.notify_all()

    def _call(self, key: str, session: str, method: Any, request: Any) -> Any:  # noqa: ANN401
        metadata = (*self._token, (SESSION_KEY, session))
        call = method(request, metadata=metadata)
        with self._changed:
            self._calls[key] = call
        if self._stop.is_set():
            call.cancel()
        return call

    def _set_progress(self, progress: Any) -> None:  # noqa: ANN401
        with self._changed:
            self.progress = (progress.transitions, progress.updates)
            self._changed.notify_all()

    def _fail(self, error: WireError) -> None:
        self._say(str(error))
        with self._changed:
            self.failure = self.failure or error
            self._changed.notify_all()
