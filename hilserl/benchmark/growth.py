"""Does an update, a checkpoint or a resume cost more as the replay grows?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hilserl.alarms import CollapseGuard
from hilserl.benchmark.data import EPISODE_STEPS, SENSOR_NOISE, add_noise, episodes, make_spec
from hilserl.benchmark.lerobot_side import LeRobot
from hilserl.benchmark.ours import Ours, TableEncoder, make_replay
from hilserl.benchmark.timing import Deadline, Side, alternate, seconds
from hilserl.checkpoint import latest
from hilserl.counters import Counters
from hilserl.learner_saving import CheckpointSaver, restore
from hilserl.sac_agent import SacAgent
from hilserl.types import Episode
from robot.types import U8

CHANNELS, COPIES = 64, 2


def growth(renders: U8, sizes: Sequence[int], device: str, report: Callable[[str], None]) -> dict[str, Any]:
    """Fill a replay of files up to each of `sizes` transitions; update, save and reopen it there.

    64 channels and 2 copies, so that the largest fits a small machine. Returns rows by size; reopening is
    measured on the last one, in this process, with the machine's file cache as it is.
    """
    spec = make_spec(1)
    pictures = add_noise(renders, SENSOR_NOISE)
    encoder = TableEncoder(CHANNELS, pictures, device)
    stream = episodes(spec, pictures, sizes[-1])
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        capacity = (sizes[-1] // EPISODE_STEPS + 1) * (EPISODE_STEPS + 1) // 2 + EPISODE_STEPS
        ours = Ours(
            spec, [next(stream), next(stream)], encoder,
            copies=COPIES, batch_size=256, device=device,
            folder=folder / "replay", frames=(capacity, capacity),
        )  # fmt: skip
        agent = SacAgent(ours.sac, ours.replay, encoder)
        ours.full_steps(1, 1)
        counters, guard = Counters(), CollapseGuard(ours.config.policy)
        where = folder / "checkpoints"
        with CheckpointSaver(ours.config, where, spec, agent, encoder, counters, guard) as saver:
            for size in sizes:
                while ours.replay.transitions < size:
                    ours.replay.add(next(stream))
                counters.transitions = ours.replay.transitions
                update = alternate(
                    {"ours": Side(ours.critic_updates, 0.5, lambda: ours.critic_updates(3))}, 5, Deadline(60)
                )["ours"]
                stall_s = seconds(lambda: saver.save(False))
                row = {"transitions": ours.replay.transitions, "update_ms": update.scaled(1e3).as_dict()}
                rows.append(row | {"checkpoint_stall_ms": 1e3 * stall_s})
                report(
                    f"{row['transitions']} transitions: {1e3 * update.median:.1f} ms per critic update, "
                    f"checkpoint stall {1e3 * stall_s:.1f} ms"
                )
        ours.replay.close()
        start = time.perf_counter()
        replay = make_replay(spec, encoder, ours.config.policy, (capacity, capacity), folder / "replay")
        reopened_s = time.perf_counter() - start
        if replay.transitions != ours.replay.transitions:
            raise AssertionError(f"{replay.transitions} of {ours.replay.transitions} transitions came back")
        checkpoint = latest(where)
        assert checkpoint is not None
        agent.replay = replay
        restored_s = seconds(lambda: restore(checkpoint, agent, counters, guard))
        replay.close()
    return {
        "channels": CHANNELS,
        "copies": COPIES,
        "rows": rows,
        "reopen_s": reopened_s,
        "restore_s": restored_s,
        "transitions": rows[-1]["transitions"],
    }


def lerobot_persistence(theirs: LeRobot, stored: Sequence[Episode]) -> dict[str, float]:
    """What their learner does in its loop to save, and to start again, with `stored` in its buffer.

    Saving: policy, algorithm and optimisers, then the whole buffer as a dataset of pictures. Starting again:
    the dataset back into a buffer. Both grow with the buffer, so the cost per transition is told too.
    """
    import torch
    from lerobot.datasets import LeRobotDataset
    from lerobot.rl.buffer import ReplayBuffer

    buffer = theirs.buffer(list(stored))
    transitions = len(buffer)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def save_networks() -> None:
            theirs.policy.save_pretrained(folder / "policy")
            theirs.algorithm.save_pretrained(folder / "algorithm")
            states = {name: one.state_dict() for name, one in theirs.algorithm.get_optimizers().items()}
            torch.save(states, folder / "optimizers")

        networks_s = seconds(save_networks)
        buffer_s = seconds(
            lambda: buffer.to_lerobot_dataset("benchmark/buffer", fps=10, root=folder / "data")
        )
        dataset = LeRobotDataset("benchmark/buffer", root=folder / "data")
        keys = list(theirs.policy_config.input_features)
        resume_s = seconds(
            lambda: ReplayBuffer.from_lerobot_dataset(
                dataset, device=theirs.device, state_keys=keys, optimize_memory=True,
                image_augmentation_function=theirs.shift,
            )
        )  # fmt: skip
    return {
        "transitions": transitions,
        "networks_s": networks_s,
        "buffer_s": buffer_s,
        "save_ms_per_transition": 1e3 * buffer_s / transitions,
        "resume_s": resume_s,
        "resume_ms_per_transition": 1e3 * resume_s / transitions,
    }
