"""From the end of an update to an actor that holds the new weights: real gRPC on loopback."""

from __future__ import annotations

import queue
import tempfile
import time
from pathlib import Path

from hilserl.benchmark.ours import Ours
from hilserl.config import ServiceConfig, TaskConfig
from hilserl.task_record import task_hash, task_json
from hilserl.types import Weights
from hilserl.wire import ActorLink, LearnerService

_PATIENCE_S = 60.0


def weights_out_ms(ours: Ours, rounds: int) -> list[float]:
    """Milliseconds from an update's end until the actor's link has the tensors, once for each round.

    Learner and actor share a process here: the time of both is counted.
    """
    task = TaskConfig()
    record, text = task_hash(task), task_json(task)
    config = ServiceConfig(learner_port=0)
    service = LearnerService(config, ours.spec, record, text, lambda _: None, queue.Queue(), {})
    service.start()
    took = []
    with tempfile.TemporaryDirectory() as folder:
        link = ActorLink(ServiceConfig(learner_port=service.port), "actor", Path(folder))
        try:
            service.publish(Weights(1, ours.sac.actor_weights()))
            link.connect(ours.spec, record, text, _PATIENCE_S)
            link.wait_weights(_PATIENCE_S)
            for version in range(2, rounds + 2):
                ours.critic_updates(1)
                start = time.perf_counter()
                service.publish(Weights(version, ours.sac.actor_weights()))
                while link.weights(newer_than=version - 1) is None:
                    time.sleep(0.0005)
                    if time.perf_counter() - start > _PATIENCE_S:
                        raise TimeoutError(f"weights version {version} did not arrive in {_PATIENCE_S:g} s")
                took.append(1e3 * (time.perf_counter() - start))
        finally:
            link.close()
            service.stop()
    return took
