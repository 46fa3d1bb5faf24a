"""What a learner does with idle time: shift and encode stored frames anew, gently, and only where it pays.

Augmentation works because no picture is seen twice alike. A stored copy that was never drawn is as good as
new, so frames are refreshed only as fast as batches use them up, and a learner without updates comes to rest
after one pass at most. Idle in lock-step means that the actor is computing on the same cores: after each
slice of work the learner rests for longer than it worked.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hilserl.learner import WAIT_S

REST_PER_WORK = 3.0
"""Rest after a slice, as a multiple of the time it took: at most a quarter of the cores is used."""


class IdleRefresh:
    """One slice of refreshing at a time, while there is something worn to refresh.

    refresh() shifts and encodes some frames anew and returns how many; stored() is the number of frames that
    could be; wear: frames that one critic update wears out (drawn once for each of their copies).
    """

    def __init__(
        self, refresh: Callable[[], int], stored: Callable[[], int], wear: float, updates: int
    ) -> None:
        self._refresh, self._stored, self._wear = refresh, stored, wear
        self._seen, self._worn = updates, 0.0

    def __call__(self, updates: int) -> float:
        """Do a slice if it pays after this many critic updates; how long to rest then [s]."""
        self._worn = min(float(self._stored()), self._worn + self._wear * (updates - self._seen))
        self._seen = updates
        if self._worn < 1:
            return WAIT_S
        start_s = time.monotonic()
        done = self._refresh()
        if not done:
            return WAIT_S
        self._worn -= done
        return REST_PER_WORK * (time.monotonic() - start_s)
