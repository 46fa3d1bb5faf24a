"""What Adam remembers, as named tensors for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Optimisers = Mapping[str, torch.optim.Adam]
_MOMENTS = ("exp_avg", "exp_avg_sq")


def adam_tensors(optimisers: Optimisers) -> dict[str, Tensor]:
    """The moments and step counts of each optimiser, by name; nothing for one that has not stepped."""
    return {
        f"optimiser.{name}.{index}.{slot}": tensor
        for name, optimiser in optimisers.items()
        for index, slots in optimiser.state_dict()["state"].items()
        for slot, tensor in slots.items()
    }


def expected_adam_tensors(optimisers: Optimisers, stepped: Mapping[str, bool]) -> dict[str, Tensor]:
    """Tensors of the names and shapes that `adam_tensors` gives once the optimisers of `stepped` have."""
    out: dict[str, Tensor] = {}
    for name, optimiser in optimisers.items():
        for index, parameter in enumerate(optimiser.param_groups[0]["params"] if stepped[name] else ()):
            key = f"optimiser.{name}.{index}."
            out |= {key + slot: parameter for slot in _MOMENTS}
            out[key + "step"] = torch.zeros(())
    return out


def restore_adam(optimisers: Optimisers, tensors: Mapping[str, Tensor]) -> None:
    """Continue from `adam_tensors`; an optimiser without tensors starts anew."""
    for name, optimiser in optimisers.items():
        parameters = optimiser.param_groups[0]["params"]
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith(f"optimiser.{name}."):
                _, _, index, slot = key.split(".")
                # In memory as the parameter is: fused Adam pairs numbers by where they lie.
                like = parameters[int(index)] if slot in _MOMENTS else tensor
                state.setdefault(int(index), {})[slot] = torch.empty_like(like).copy_(tensor).detach()
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
