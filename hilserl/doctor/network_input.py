"""What enters a network of a picture: its definition, and a look at what really comes there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from hilserl.config import CropConfig
from robot.types import U8

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet."""


def definition(native: U8, crop: CropConfig, resize_size: tuple[int, int], device: str = "cpu") -> Tensor:
    """What must enter the network of a native picture: float32 (3, H, W). A second opinion, on purpose."""
    part = native[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    small = cv2.resize(part, resize_size[::-1], interpolation=cv2.INTER_AREA)
    return scaled(np.asarray(small, np.uint8), device)


def scaled(image: U8, device: str = "cpu") -> Tensor:
    """What must enter the network of a policy image uint8 RGB (H, W, 3)."""
    mean, std = (torch.tensor(numbers, device=device).view(3, 1, 1) for numbers in (MEAN, STD))
    return ((torch.from_numpy(image).to(device).permute(2, 0, 1) / 255.0 - mean) / std).cpu()


@contextmanager
def entering() -> Iterator[list[Tensor]]:
    """Every picture that enters a trunk meanwhile, float32 (3, H, W), as its first convolution gets it."""
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            seen.extend(inputs[0].detach().cpu().clone().contiguous())

    handle = register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def difference(seen: Sequence[Tensor], expected: Sequence[Tensor]) -> str:
    """Empty where exactly the expected pictures came, each at least once; or how they differ."""
    if not seen:
        return "no picture came there"
    for one in seen:
        if not any(torch.equal(one, other) for other in expected):
            alike = [float((one - other).abs().max()) for other in expected if one.shape == other.shape]
            return f"differs by up to {min(alike):.3g}" if alike else f"its shape is {tuple(one.shape)}"
    missing = sum(not any(torch.equal(one, other) for other in seen) for one in expected)
    return f"{missing} of {len(expected)} pictures did not come there" if missing else ""
