"""The learner's end of the wire: takes episodes in, stores before it acknowledges, hands out weights."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from hilserl._proto import learner_pb2 as pb
from hilserl._proto import learner_pb2_grpc as pb_grpc
from hilserl.alarms import Alarm
from hilserl.config import ServiceConfig
from hilserl.episode_builder import check_actor
from hilserl.task_record import TaskMismatch, task_differences
from hilserl.types import Episode, Spec, Weights
from hilserl.wire_assembly import Assembler, Finished, RecordRefused
from hilserl.wire_channel import (
    MAX_WEIGHTS_BYTES,
    SERVER_OPTIONS,
    SESSION_KEY,
    TokenCheck,
    WireError,
    address,
    check_bindable,
    server_credentials,
    token_metadata,
)
from hilserl.wire_codec import (
    PROTOCOL_VERSION,
    Command,
    Difference,
    alarm_to_proto,
    command_from_proto,
    spec_differences,
    spec_to_proto,
    weights_to_proto,
)
from hilserl.wire_sessions import Session, Sessions

_MAX_ACTORS = 16
_PROGRESS_EVERY_S = 0.05
_LOG = logging.getLogger(__name__)


class LearnerService:
    """The gRPC server.

    Every committed episode goes, in this order, to `store` (which must return only when it is on disk), into
    `inbox` (waiting while that is full), and is then acknowledged. durable: highest episode number already
    stored, per actor (`hilserl.episode.durable_numbers`). `store` is called from the server's threads, one
    call at a time per actor; when it raises, the episode is not acknowledged and the actor sends it again.
    """

    def __init__(
        self,
        config: ServiceConfig,
        spec: Spec,
        task_hash: str,
        task_json: str,
        store: Callable[[Episode], object],
        inbox: queue.Queue[Episode],
        durable: Mapping[str, int],
        allow_task_difference: Sequence[str] = (),
    ) -> None:
        self.port = config.learner_port
        self.commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._config = config
        self._spec = spec
        self._task_hash = task_hash
        self._task_json = task_json
        self._store = store
        self._inbox = inbox
        self._allowed = frozenset(allow_task_difference)
        self._sessions = Sessions(durable, _MAX_ACTORS)
        self._news = threading.Condition()
        self._weights = pb.Weights()
        self._progress = pb.Progress()
        self._health = pb.StatusReply()
        self._stopping = threading.Event()
        self._server: Any = None

    def start(self) -> None:
        """Listen. Raises PortBusy, or WireError when the address cannot be served."""
        credentials = server_credentials(self._config)
        interceptors = [TokenCheck(value) for _, value in token_metadata(self._config)]
        check_bindable(self._config)
        # Two streams per actor hold a thread each; the rest answer unary calls.
        pool = ThreadPoolExecutor(2 * _MAX_ACTORS + 8, thread_name_prefix="wire")
        server = grpc.server(pool, interceptors=interceptors, options=SERVER_OPTIONS)
        pb_grpc.add_LearnerServicer_to_server(self, server)
        where = address(self._config)
        try:
            bind = server.add_insecure_port
            self.port = bind(where) if credentials is None else server.add_secure_port(where, credentials)
        except RuntimeError as error:
            pool.shutdown(wait=False)
            raise WireError(
                f"cannot listen on {where}, or the certificate does not fit its key: {error}"
            ) from error
        server.start()
        self._server = server

    def publish(self, weights: Weights) -> None:
        """Make `weights` the newest. Raises ValueError when they are not finite or too large."""
        for name, tensor in weights.tensors.items():
            if np.issubdtype(tensor.dtype, np.floating) and not np.isfinite(tensor).all():
                raise ValueError(f"weights version {weights.version}: {name!r} is not finite")
        message = weights_to_proto(weights)
        if message.ByteSize() > MAX_WEIGHTS_BYTES - 1024:
            raise ValueError(f"weights of {message.ByteSize()} bytes; the wire takes {MAX_WEIGHTS_BYTES}")
        with self._news:
            self._weights = message
            self._news.notify_all()

    def progress(self, transitions: int, updates: int) -> None:
        """Tell the actors how many transitions were taken in and how many critic updates are done."""
        with self._news:
            self._progress = pb.Progress(transitions=transitions, updates=updates)
            self._news.notify_all()

    def set_alarms(
        self, alarms: Iterable[Alarm], *, paused: bool, updates_per_transition: float | None
    ) -> None:
        """What `Status` says from now on: the alarms that stand, whether updates are paused, the pace.

        updates_per_transition: achieved in the last minute, None when nothing arrived in it.
        """
        self._health = pb.StatusReply(
            alarms=[alarm_to_proto(alarm) for alarm in alarms],
            paused=paused,
            updates_per_transition=updates_per_transition,
        )

    def actors(self) -> dict[str, bool]:
        """Return {actor: connected now} of every actor seen or stored."""
        return {name: connected for name, connected, _ in self._sessions.overview()}

    def stop(self) -> None:
        """Stop serving within 2 s; what was not acknowledged will be sent again. May be called again."""
        self._stopping.set()
        with self._news:
            self._news.notify_all()
        if self._server is not None:
            self._server.stop(0.2).wait(1.5)

    # -- the protocol; grpc looks these methods up by name ------------------------------------------

    def Join(self, request: Any, context: Any) -> Any:  # noqa: N802, ANN401
        differences = self._differences(request)
        if not differences:
            joined = self._sessions.join(request.actor, request.identity, request.task_hash)
            if isinstance(joined, Session):
                with self._news:
                    self._news.notify_all()  # an earlier session of this actor ends
                durable = self._sessions.durable(request.actor)
                return pb.JoinReply(session=joined.id, durable_number=durable)
            differences = [Difference("actor", "a reason against it", f"{request.actor!r}, which {joined}")]
        return pb.JoinReply(
            differences=[pb.Difference(field=d.field, learner=d.learner, actor=d.actor) for d in differences]
        )

    def StreamSteps(self, requests: Iterable[Any], context: Any) -> Iterator[Any]:  # noqa: N802, ANN401
        session = self._open(context)
        assembler = Assembler(self._spec, session.actor, session.task_hash)
        for record in requests:
            self._require_current(session, context)
            try:
                finished = assembler.take(record)
            except RecordRefused as error:
                _LOG.error("refused episode %d of %s: %s", record.number, session.actor, error)
                yield self._ack(session, refused_number=record.number, refused_reason=str(error))
                continue
            if finished is not None:
                if not self._commit(session, finished):
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the learner is stopping")
                yield self._ack(session)

    def StreamWeights(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802, ANN401
        session = self._open(context)
        have, told = request.have_sha256, None

        def new_weights() -> bool:
            gone = (
                self._stopping.is_set() or not context.is_active() or not self._sessions.is_current(session)
            )
            return gone or self._weights.sha256 != have

        def something_new() -> bool:
            return new_weights() or self._progress != told

        while True:
            with self._news:
                self._news.wait_for(something_new)
                weights, progress = self._weights, self._progress
            if self._stopping.is_set():
                context.abort(grpc.StatusCode.UNAVAILABLE, "the learner is stopping")
            self._require_current(session, context)
            if not context.is_active():
                return
            if progress != told:
                told = progress
                yield pb.News(progress=progress)
            if weights.sha256 != have:
                have = weights.sha256
                yield pb.News(weights=weights)
            with self._news:  # progress may wait, weights go out at once
                self._news.wait_for(new_weights, _PROGRESS_EVERY_S)

    def Status(self, request: Any, context: Any) -> Any:  # noqa: N802, ANN401
        actors = [
            pb.ActorStatus(name=name, connected=connected, durable_number=durable)
            for name, connected, durable in self._sessions.overview()
        ]
        reply = pb.StatusReply(
            protocol_version=PROTOCOL_VERSION,
            task_hash=self._task_hash,
            weights_version=self._weights.version,
            progress=self._progress,
            actors=actors,
        )
        reply.MergeFrom(self._health)
        return reply

    def Control(self, request: Any, context: Any) -> Any:  # noqa: N802, ANN401
        try:
            self.commands.put(command_from_proto(request))
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return pb.ControlReply()

    # -- behind the protocol ------------------------------------------------------------------------

    def _differences(self, request: Any) -> list[Difference]:  # noqa: ANN401
        if request.protocol_version != PROTOCOL_VERSION:
            theirs = str(request.protocol_version)
            return [Difference("protocol_version", str(PROTOCOL_VERSION), theirs)]
        found = spec_differences(spec_to_proto(self._spec), request.spec)
        try:
            check_actor(request.actor)
            if request.task_hash != self._task_hash:
                if not task_differences(self._task_json, request.task_json):
                    found.append(Difference("task_hash", self._task_hash, request.task_hash))
                tasks = task_differences(self._task_json, request.task_json, self._allowed)
                found += [Difference(d.field, d.ours, d.theirs) for d in tasks]
        except (ValueError, TaskMismatch) as error:
            found.append(Difference("actor, task_json", "a name and a JSON object", str(error)))
        return found

    def _open(self, context: Any) -> Session:  # noqa: ANN401
        """Return the session a stream names, and close it with the stream."""
        session = self._sessions.open_stream(dict(context.invocation_metadata()).get(SESSION_KEY, ""))
        if session is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no such session; join first")
            raise AssertionError("abort raises")

        def closed() -> None:
            self._sessions.close_stream(session)
            with self._news:
                self._news.notify_all()

        if not context.add_callback(closed):
            closed()
        return session

    def _require_current(self, session: Session, context: Any) -> None:  # noqa: ANN401
        if not self._sessions.is_current(session):
            context.abort(grpc.StatusCode.ABORTED, f"{session.actor} has joined anew")

    def _ack(self, session: Session, **refused: Any) -> Any:  # noqa: ANN401
        durable = self._sessions.durable(session.actor)
        return pb.Ack(durable_number=durable, progress=self._progress, **refused)

    def _commit(self, session: Session, finished: Finished) -> bool:
        """Store, then hand over. False when the learner stops before the episode was handed over."""
        record = self._sessions.record(session.actor)
        with record.lock:
            if finished.number <= record.durable:
                return True  # sent twice
            if finished.episode is not None:
                try:
                    self._store(finished.episode)
                except FileExistsError as error:
                    _LOG.warning("episode sent twice: %s", error)
                    finished = Finished(finished.number, None)
            record.durable = finished.number
            return finished.episode is None or self._hand_over(finished.episode)

    def _hand_over(self, episode: Episode) -> bool:
        while not self._stopping.is_set():
            try:
                self._inbox.put(episode, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
