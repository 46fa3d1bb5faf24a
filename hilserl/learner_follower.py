"""The learner's other processes: each computes its share of each batch and keeps the weights of rank 0."""

from __future__ import annotations

import logging
import signal

import numpy as np

from hilserl.build import build_encoder, sac_of
from hilserl.config import Config
from hilserl.env import task_spec
from hilserl.parallel import Ended, Order, Processes
from hilserl.sac import SAC

log = logging.getLogger(__name__)


def follow(config: Config, group: Processes) -> SAC:
    """Do what rank 0 orders until it orders to stop; the learner as it then is.

    An interrupt reaches all processes at once; rank 0 acts on it and then lets the others end.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    spec = task_spec(config.task)
    any_state = np.ones(spec.state_size, np.float32)  # the true statistics come with rank 0's state
    sac = sac_of(config, spec, build_encoder(config), any_state, any_state, group)
    log.info("process %d of %d follows", group.rank, group.world)
    obey(sac, group)
    return sac


def obey(sac: SAC, group: Processes) -> None:
    """Do to `sac` what rank 0 does to its own, until it stops."""
    while True:
        order, count = group.next_order()
        try:
            match order:
                case Order.STATE:
                    sac.load_state_dict(*group.receive_state())
                case Order.UPDATE:
                    sac.update(group.receive, count)
                case Order.PRETRAIN_BC:
                    sac.pretrain_bc(group.receive, count)
                case Order.PRETRAIN_CRITIC:
                    sac.pretrain_critic(group.receive, count)
                case Order.STOP:
                    group.close()
                    return
        except Ended:
            log.info("order %s ended early", order.value)
