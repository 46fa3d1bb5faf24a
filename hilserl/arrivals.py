"""Between the wire and the learner's loop: arriving episodes are encoded by a thread of their own.

The wire puts finished episodes, already on disk, into an inbox; the thread computes their features; the loop
gets both, in order of arrival, and never waits for an encoder while it has updates to do. Both queues are
bounded, so a learner that falls behind makes the wire wait, not the memory grow.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

from numpy.typing import NDArray

from hilserl.types import Episode, Role

READY_EPISODES = 8
"""Encoded episodes that may wait for the loop."""
_POLL_S = 0.1
"""How soon the thread notices that it is to end."""


class EncodingFailed(Exception):
    """An arrived episode could not be encoded; names it. The cause is chained."""


class Arrival(NamedTuple):
    """An episode and its features; None for an evaluation episode and where the replay keeps pictures."""

    episode: Episode
    features: NDArray[Any] | None


class Arrivals:
    """Encodes what arrives in `inbox` until `close`; also a context manager.

    with Arrivals(inbox, replay.features_of) as arrivals:
        arrival = arrivals.get(timeout_s=0.2)

    encode: pure, called from the one thread only. frames, encode_s: frames encoded so far, and the time it
    took [s].
    """

    def __init__(
        self,
        inbox: queue.Queue[Episode],
        encode: Callable[[Episode], NDArray[Any] | None],
        ready: int = READY_EPISODES,
    ) -> None:
        self._inbox, self._encode = inbox, encode
        self._ready: queue.Queue[Arrival | EncodingFailed] = queue.Queue(ready)
        self.frames, self.encode_s = 0, 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="encoder")
        self._thread.start()

    def get(self, timeout_s: float) -> Arrival | None:
        """The next episode, waiting up to timeout_s [s] for it (0: not at all); None when there is none.

        Raises EncodingFailed, from its cause, once the thread has ended because of an error.
        """
        try:
            found = self._ready.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(found, EncodingFailed):
            self._ready.put(found)  # the thread is over: whoever asks again is told again
            raise found
        return found

    def close(self) -> None:
        """End the thread, after the episode it may be encoding. What was not taken stays in the archive."""
        self._closing.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                episode = self._inbox.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            try:
                features = None if episode.role is Role.EVAL else self._encoded(episode)
            except Exception as error:  # noqa: BLE001 - handed to the loop, which stops
                failed = EncodingFailed(
                    f"episode {episode.actor}/{episode.number} could not be encoded: "
                    f"{type(error).__name__}: {error}"
                )
                failed.__cause__ = error
                self._hand_over(failed)
                return
            self._hand_over(Arrival(episode, features))

    def _encoded(self, episode: Episode) -> NDArray[Any] | None:
        start_s = time.monotonic()
        features = self._encode(episode)
        self.encode_s += time.monotonic() - start_s
        self.frames += len(episode) + 1
        return features

    def _hand_over(self, item: Arrival | EncodingFailed) -> None:
        while not self._closing.is_set():
            try:
                self._ready.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return
