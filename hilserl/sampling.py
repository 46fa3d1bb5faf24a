"""From slots of a ring to batches of transitions: gathered with whole-array operations, no loop over rows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilserl.frame_features import gather_shifted
from hilserl.ring import I64, Ring
from hilserl.types import ACTION_SIZE, Spec


@dataclass(frozen=True, slots=True)
class Batch:
    """B transitions; observations are stacked, oldest first.

    seen, next_seen: what the cameras showed, as float16 features (B, n_obs, n_cam, C, h, w), or as uint8
    pictures (B, n_obs, n_cam, H, W, 3) from a replay that keeps those. state, next_state: (B, n_obs, S) in
    physical units. action: (B, 4). reward, discount: (B,): the value of a transition is
    reward + discount * value(next), with discount 0 where the future is worth nothing (success, failure) and
    otherwise discount**m, time-outs included; next is m = min(n_step, steps left) steps later. is_demo: bool
    (B,), True for demonstrations and interventions. All float32 but `seen` and `is_demo`.
    """

    seen: Tensor
    state: Tensor
    action: Tensor
    reward: Tensor
    next_seen: Tensor
    next_state: Tensor
    discount: Tensor
    is_demo: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; to a GPU by way of page-locked memory, so that nobody waits for it."""
        if self.action.device.type == device.type:
            return self
        pinned = {f.name: getattr(self, f.name).pin_memory() for f in fields(self)}
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in pinned.items()}
        return replace(self, **moved)


@dataclass(frozen=True, slots=True)
class View:
    """How transitions are seen: stacks of n_obs frames, returns of n_step steps, pictures shifted by pad."""

    n_obs: int
    n_step: int
    discount: float
    pad: int


class Sampler:
    """Draws transitions of one ring, uniformly by step.

    The ring keeps features of `copies` versions of each frame, or (copies None) pictures, which are shifted
    when they are drawn.
    """

    def __init__(self, ring: Ring, spec: Spec, view: View, copies: int | None) -> None:
        self._ring, self._spec, self._view, self._copies = ring, spec, view, copies
        self._seen = ring.arrays["images" if copies is None else "features"]
        self._row = self._seen.shape[2 if copies is None else 3 :]
        self._rows = _tensor(self._seen.reshape(-1, *self._row))

    def empty(self, batch: int) -> dict[str, Tensor]:
        """A batch to be filled, of nobody's demonstrations."""
        seen = (batch, self._view.n_obs, len(self._spec.cameras), *self._row)
        state = (batch, self._view.n_obs, self._spec.state_size)
        return {
            "seen": torch.empty(seen, dtype=self._rows.dtype),
            "next_seen": torch.empty(seen, dtype=self._rows.dtype),
            "state": torch.empty(state),
            "next_state": torch.empty(state),
            "action": torch.empty(batch, ACTION_SIZE),
            "reward": torch.empty(batch),
            "discount": torch.empty(batch),
            "is_demo": torch.zeros(batch, dtype=torch.bool),
        }

    def fill(self, size: int, rng: np.random.Generator, out: Mapping[str, Tensor]) -> None:
        """Draw `size` steps into `out`."""
        ring, view = self._ring, self._view
        slots = ring.samplable[rng.integers(len(ring.samplable), size=size)]
        reached, reward, discount = ring.returns(slots, view.n_step, view.discount)
        out["reward"].numpy()[...] = reward
        out["discount"].numpy()[...] = discount
        out["action"].numpy()[...] = ring.arrays["action"][slots]
        for prefix, frames in (("", slots), ("next_", reached)):
            stacked = ring.stack(frames, view.n_obs)
            out[prefix + "state"].numpy()[...] = ring.arrays["state"][stacked]
            self._fill_seen(stacked, rng, out[prefix + "seen"].view(-1, *self._row))

    def _fill_seen(self, stacked: I64, rng: np.random.Generator, out: Tensor) -> None:
        """What the cameras showed at `stacked` (B, n_obs): of each stack the same random copy or shift."""
        cameras = len(self._spec.cameras)
        pictures = stacked[:, :, None] * cameras + np.arange(cameras)
        drawn = (len(stacked), 1, cameras)
        if self._copies is not None:
            rows = pictures * self._copies + rng.integers(self._copies, size=drawn)
            torch.index_select(self._rows, 0, torch.from_numpy(rows.reshape(-1)), out=out)
            return
        moves = rng.integers(-self._view.pad, self._view.pad + 1, size=(*drawn, 2))
        shifts = np.broadcast_to(moves, (*pictures.shape, 2)).reshape(-1, 2)
        gather_shifted(self._rows.numpy(), pictures.reshape(-1), shifts, out.numpy())


def _tensor(array: NDArray[Any]) -> Tensor:
    """The array as a tensor that shares its memory."""
    with warnings.catch_warnings():  # that a map of a file is read-only is the point of it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
