"""Records of one stream -> whole episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hilserl.episode import EpisodeBuilder
from hilserl.types import End, Episode, Spec
from hilserl.wire_codec import (
    end_from_proto,
    header_from_proto,
    info_from_proto,
    obs_from_proto,
    step_from_proto,
)

MAX_STEPS = 5000
"""Longest episode the wire carries: what an actor that never ends one may cost the learner's memory."""


class RecordRefused(Exception):
    """A record is malformed; its whole episode is dropped. The message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Finished:
    """An episode's end marker arrived. episode: None when it was discarded."""

    number: int
    episode: Episode | None


class Assembler:
    """Puts the records of one actor together. An episode cut short leaves nothing."""

    def __init__(self, spec: Spec, actor: str, task_hash: str) -> None:
        self._spec = spec
        self._actor = actor
        self._task_hash = task_hash
        self._builder: EpisodeBuilder | None = None
        self._skipped = 0

    def take(self, record: Any) -> Finished | None:  # noqa: ANN401 (a generated message)
        """Take one record; return the episode when it is the last one.

        Raises RecordRefused once per episode; further records of that episode are then skipped.
        """
        if record.number == self._skipped and record.WhichOneof("body") != "first":
            return None
        try:
            return self._take(record)
        except ValueError as error:
            self._builder = None
            self._skipped = record.number
            raise RecordRefused(f"record {record.index}: {error}") from error

    def _take(self, record: Any) -> Finished | None:  # noqa: ANN401
        kind = record.WhichOneof("body")
        if record.actor != self._actor:
            raise ValueError(f"belongs to {record.actor!r}, but {self._actor!r} has joined")
        if kind == "first":
            self._start(record)
            return None
        builder = self._builder
        if builder is None or builder.header.number != record.number:
            raise ValueError(f"episode {record.number} has not started")
        if record.index != len(builder) + 1:
            raise ValueError(f"index {record.index} where {len(builder) + 1} was due")
        if kind == "next":
            if len(builder) >= MAX_STEPS:
                raise ValueError(f"an episode may have {MAX_STEPS} steps")
            builder.add(step_from_proto(record.next))
            return None
        if kind != "last":
            raise ValueError("it is empty")
        return self._finish(builder, record.last)

    def _start(self, record: Any) -> None:  # noqa: ANN401
        if record.index != 0:
            raise ValueError(f"an episode starts with index 0, not {record.index}")
        header = header_from_proto(record)
        if header.task_hash != self._task_hash:
            raise ValueError(
                f"played under task {header.task_hash!r}, but this actor joined with {self._task_hash!r}"
            )
        builder = EpisodeBuilder(self._spec, header)
        builder.start(obs_from_proto(record.first.observation))
        self._builder = builder
        self._skipped = 0

    def _finish(self, builder: EpisodeBuilder, last: Any) -> Finished:  # noqa: ANN401
        end = end_from_proto(last)
        number = builder.header.number
        if end is not End.DISCARDED and len(builder) == 0:
            raise ValueError("an episode without a step can only be discarded")
        episode = builder.finish(end, info_from_proto(last.info)) if end is not End.DISCARDED else None
        self._builder = None
        return Finished(number, episode)
