"""Several learner processes that share each batch (torch.distributed), started by torchrun.

Rank 0 is the learner: it serves the actors, keeps the replay, decides. The others follow: rank 0 sends them
an order, then their share of each batch. Gradients are averaged, so that all weights stay the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from enum import Enum
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hilserl.sampling import Batch

_PATIENCE = timedelta(days=7)
"""How long a process waits for another: a learner without actors sends nothing for hours."""
_MORE, _OVER = 1, 0


class ParallelError(Exception):
    """The processes cannot share the work as configured; says what would do."""


class Ended(Exception):
    """Rank 0 ended the order before its last batch."""


class Order(Enum):
    """What rank 0 asks of the others: the arguments of SAC's methods of these names, a state, or the end."""

    STATE = "state"
    UPDATE = "update"
    PRETRAIN_BC = "pretrain_bc"
    PRETRAIN_CRITIC = "pretrain_critic"
    STOP = "stop"


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


class Processes:
    """This process among those that torchrun started. rank: its number; world: how many there are.

    device: where this process computes; "cuda" is made the GPU of its own. Raises ParallelError where a
    batch of `batch_size` rows cannot be shared equally.
    """

    def __init__(self, device: str, batch_size: int) -> None:
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if batch_size % self.world:
            raise ParallelError(
                f"policy.batch_size {batch_size} cannot be shared by {self.world} processes: "
                f"use a multiple of {self.world}, such as {batch_size // self.world * self.world}"
            )
        gpu = device.startswith("cuda")
        self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device(device)
        if gpu:
            torch.cuda.set_device(self.device)
        dist.init_process_group("nccl" if gpu else "gloo", timeout=_PATIENCE)
        # Orders wait for hours; on a GPU that waiting would keep it busy.
        self._words = dist.new_group(backend="gloo", timeout=_PATIENCE)

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes; the same bits in all of them."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    # -- rank 0

    def order(self, order: Order, count: int = 0) -> None:
        """Tell the others what comes next."""
        self._say(json.dumps({"order": order.value, "count": count}).encode())

    def share(self, batch: Batch) -> Batch:
        """Rank 0's share of `batch`; the others get theirs."""
        self._signal(_MORE)
        shapes = [(tuple(t.shape), t.dtype) for t in _tensors(batch)]
        self._say(json.dumps([[shape, str(dtype)] for shape, dtype in shapes]).encode())
        return self._scatter(batch)

    def dismiss(self) -> None:
        """Let the others end, and leave the group."""
        self.order(Order.STOP)
        self.close()

    def end(self) -> None:
        """No more batches of the present order."""
        self._signal(_OVER)

    def send_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Give all a learner state (`SAC.state_dict`)."""
        about = [[name, list(t.shape), str(t.dtype)] for name, t in tensors.items()]
        self._say(json.dumps({"tensors": about, "plain": plain}).encode())
        for tensor in tensors.values():
            dist.broadcast(tensor.contiguous(), 0, group=self._words)

    # -- the others

    def next_order(self) -> tuple[Order, int]:
        """What rank 0 wants, and how often; blocks until it says."""
        said = json.loads(self._hear())
        return Order(said["order"]), said["count"]

    def receive(self) -> Batch:
        """This process's share of the next batch. Raises Ended when rank 0 stopped early."""
        signal = torch.zeros((), dtype=torch.int64)
        dist.broadcast(signal, 0, group=self._words)
        if int(signal) == _OVER:
            raise Ended
        shapes = [(tuple(shape), _dtype(dtype)) for shape, dtype in json.loads(self._hear())]
        return self._scatter(None, shapes)

    def receive_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What rank 0's `send_state` gives."""
        said = json.loads(self._hear())
        tensors = {name: torch.empty(shape, dtype=_dtype(kind)) for name, shape, kind in said["tensors"]}
        for tensor in tensors.values():
            dist.broadcast(tensor, 0, group=self._words)
        return tensors, said["plain"]

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()

    # -- between them

    def _scatter(
        self, batch: Batch | None, shapes: Sequence[tuple[tuple[int, ...], torch.dtype]] = ()
    ) -> Batch:
        shares: list[Tensor] = []
        whole = None if batch is None else [t.to(self.device) for t in _tensors(batch)]
        for index in range(len(fields(Batch))):
            shape, dtype = (tuple(whole[index].shape), whole[index].dtype) if whole else shapes[index]
            carried = torch.uint8 if dtype is torch.bool else dtype  # NCCL has no booleans
            mine = torch.empty((shape[0] // self.world, *shape[1:]), dtype=carried, device=self.device)
            # Every world-th row: a batch begins with its demonstrations, and each process should see some.
            parts = None
            if whole:
                rows = whole[index].to(carried)
                parts = [rows[rank :: self.world].contiguous() for rank in range(self.world)]
            dist.scatter(mine, parts, 0)
            shares.append(mine.to(dtype))
        return Batch(*shares)

    def _signal(self, value: int) -> None:
        dist.broadcast(torch.tensor(value), 0, group=self._words)

    def _say(self, text: bytes) -> None:
        dist.broadcast(torch.tensor(len(text)), 0, group=self._words)
        dist.broadcast(torch.frombuffer(bytearray(text), dtype=torch.uint8), 0, group=self._words)

    def _hear(self) -> bytes:
        length = torch.zeros((), dtype=torch.int64)
        dist.broadcast(length, 0, group=self._words)
        text = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(text, 0, group=self._words)
        return text.numpy().tobytes()


def _tensors(batch: Batch) -> list[Tensor]:
    return [getattr(batch, field.name) for field in fields(Batch)]


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name.removeprefix("torch."))
    if not isinstance(found, torch.dtype):
        raise ParallelError(f"{name} is no number format")
    return found
