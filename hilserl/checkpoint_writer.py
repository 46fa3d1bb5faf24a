"""Checkpoints are written beside the learner's loop: it hands over a snapshot and goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self


class WritingFailed(Exception):
    """A checkpoint could not be written; says which and why. The cause is chained."""


class _Job[S](NamedTuple):
    snapshot: S
    best: bool


class CheckpointWriter[S]:
    """One thread that writes one snapshot at a time; also a context manager.

    with CheckpointWriter(write) as writer:
        writer.submit(snapshot, best=False)

    write(snapshot, best) runs in the thread. While it does, a newer snapshot replaces the one that waits,
    but one marked best gives way only to a newer best: at most two wait. `close` waits until all is written.
    """

    def __init__(self, write: Callable[[S, bool], object]) -> None:
        self._write = write
        self._waiting: list[_Job[S]] = []
        self._news = threading.Condition()
        self._closing = False
        self._failed: WritingFailed | None = None
        self._thread = threading.Thread(target=self._work, name="checkpoints")
        self._thread.start()

    def submit(self, snapshot: S, *, best: bool) -> None:
        """Have `snapshot` written soon; does not wait. Raises what `check` raises."""
        self.check()
        with self._news:
            self._waiting = [job for job in self._waiting if job.best and not best] + [_Job(snapshot, best)]
            self._news.notify()

    def check(self) -> None:
        """Raise WritingFailed, from its cause, when a snapshot could not be written; costs nothing."""
        if self._failed is not None:
            raise self._failed

    def close(self) -> None:
        """Wait until everything submitted is written. Raises what `check` raises."""
        self._finish()
        self.check()

    def _finish(self) -> None:
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._finish()
        if error is None:  # an error on its way out must not be hidden behind this one
            self.check()

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                job = self._waiting.pop(0)
            try:
                self._write(job.snapshot, job.best)
            except Exception as error:  # noqa: BLE001 - handed to the loop, which stops
                failed = WritingFailed(f"a checkpoint could not be written: {type(error).__name__}: {error}")
                failed.__cause__ = error
                self._failed = failed
                return
