"""SAC on a replay, as the learner's loop wants an agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from hilserl.encoder import FeatureEncoder
from hilserl.metrics import train_names
from hilserl.parallel import Order, Processes
from hilserl.player import PROJECTION_KEY, encoder_mark
from hilserl.replay import Replay
from hilserl.sac import SAC, Sample
from hilserl.sampling import Batch


class Stopped(Exception):
    """The end was asked for before learning began."""


class SacAgent:
    """SAC on a Replay, as the learner's loop wants an Agent.

    encoder: the one that training began with. others: the processes that share each batch, of which this is
    rank 0; they must hear of every change, so pretraining and updates go through here.
    """

    def __init__(
        self, sac: SAC, replay: Replay, encoder: FeatureEncoder, others: Processes | None = None
    ) -> None:
        self.sac, self.replay, self.encoder_hash, self._others = sac, replay, encoder.hash(), others
        self._constants = encoder_mark(self.encoder_hash)
        self.sample_s = 0.0
        if sac.config.feature_projection == "pca" and encoder.projection is not None:
            self._constants[PROJECTION_KEY] = encoder.projection.cpu().numpy()

    def sample(self) -> Batch:
        """A batch with the configured share of demonstrations."""
        start_s = time.monotonic()
        batch = self.replay.sample(self.sac.config.batch_size, self.sac.config.demo_fraction)
        self.sample_s += time.monotonic() - start_s
        return batch

    def demonstrations(self) -> Batch:
        """A batch of demonstrations only."""
        return self.replay.sample(self.sac.config.batch_size, 1.0)

    def update(self, critic_updates: int) -> None:
        """`critic_updates` critic steps and one actor step."""
        with self._shared(Order.UPDATE, critic_updates, self.sample) as sample:
            self.sac.update(sample, critic_updates)

    def pretrain(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Clone the demonstrations and value the clone, as configured. Raises Stopped when asked to stop."""

        def watched() -> Batch:
            if should_stop():
                raise Stopped
            return self.demonstrations()

        policy = self.sac.config
        with self._shared(Order.PRETRAIN_BC, policy.bc_pretrain_steps, watched) as sample:
            self.sac.pretrain_bc(sample, policy.bc_pretrain_steps)
        with self._shared(Order.PRETRAIN_CRITIC, policy.critic_pretrain_steps, watched) as sample:
            self.sac.pretrain_critic(sample, policy.critic_pretrain_steps)

    def share_state(self) -> None:
        """Make the others what this process is: at the start, and after a restored checkpoint."""
        if self._others is not None:
            self._others.order(Order.STATE)
            self._others.send_state(*self.sac.state_dict())

    @contextmanager
    def _shared(self, order: Order, count: int, sample: Sample) -> Iterator[Sample]:
        """`sample`, or where several processes learn, this one's share of it while `order` lasts."""
        others = self._others
        if others is None:
            yield sample
            return
        others.order(order, count)
        drawn = 0

        def share() -> Batch:
            nonlocal drawn
            batch = others.share(sample())
            drawn += 1
            return batch

        try:
            yield share
        finally:
            if drawn < count:
                others.end()

    def weights(self) -> dict[str, NDArray[Any]]:
        """What an actor needs, with the encoder's hash."""
        return {**self.sac.actor_weights(), **self._constants}

    def metrics(self) -> dict[str, float]:
        """The glossary's train/ metrics since the last call."""
        return train_names({**self.sac.metrics(), **self.replay.metrics()})

    def large_inputs(self) -> dict[str, int]:
        """Critic updates in a row in which each state component was too often far out of range."""
        return self.sac.large_inputs()
