"""Pictures to features: random shifts, the frozen ResNet10 trunk, and where its weights come from.

The trunk is the ResNet10 of HIL-SERL, tensor names included, so that published weights load. `width` is the
number of channels of its first stage: 64 is the published size, 16 the quarter-width one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from hilserl.hub import HubError, hub_folder
from robot.types import U8

log = logging.getLogger(__name__)

F16 = NDArray[np.float16]
PUBLISHED_WIDTH = 64
STRIDE = 32
"""Side of the picture area, in pixels, that one feature position stands for."""
PASS_SIZE = 8
"""Pictures in one pass of the trunk: what a CPU core does fastest."""
WEIGHTS_FILE = "model.safetensors"
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_GROUPS = 4


class VisionError(Exception):
    """A trunk cannot be found, or its file does not hold exactly a trunk; says what would be right."""


def random_shift(images: U8, pad: int, generator: np.random.Generator) -> U8:
    """Each picture moved by its own whole number of pixels, at most `pad` in x and in y.

    images: uint8 (B, H, W, 3). Equals a random (H, W) crop of the picture padded by repeating its border
    (DrQ). pad 0 returns the pictures as they are.
    """
    if pad == 0:
        return images
    shifts = generator.integers(-pad, pad + 1, size=(len(images), 2))
    return shift(images, shifts)


def shift(images: U8, shifts: NDArray[np.int64]) -> U8:
    """Pictures (B, H, W, 3) read `shifts` (B, 2) pixels further down and right, borders repeated."""
    count, height, width, _ = images.shape
    rows = np.clip(np.arange(height) + shifts[:, :1], 0, height - 1)
    columns = np.clip(np.arange(width) + shifts[:, 1:], 0, width - 1)
    moved: U8 = images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


class _Block(nn.Module):
    """conv, norm, ReLU, conv, norm, add the input (through a 1x1 conv where channels change), ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(_GROUPS, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(_GROUPS, channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.GroupNorm(_GROUPS, channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu_(y + self.shortcut(x))


class _Encoder(nn.Module):
    """The four stages; a module of its own only because published tensors are named `encoder.stages.*`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.Sequential(
            *(_Block(channels[i], channels[i + 1], stride=1 if i == 0 else 2) for i in range(4))
        )


class Trunk(nn.Module):
    """ResNet10 without its head: uint8 RGB pictures in, (B, 8 * width, H / 32, W / 32) features out."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int = PUBLISHED_WIDTH) -> None:
        super().__init__()
        self.width = width
        self.channels = 8 * width
        self.embedder = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.GroupNorm(_GROUPS, width)
        )
        self.encoder = _Encoder(width)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """images: uint8 (B, H, W, 3) or (B, 3, H, W). Anything else raises ValueError."""
        if images.dtype != torch.uint8 or images.ndim != 4 or 3 not in (images.shape[1], images.shape[3]):
            raise ValueError(
                "the trunk takes uint8 RGB pictures (B, H, W, 3) or (B, 3, H, W), "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        pixels = images.permute(0, 3, 1, 2) if images.shape[3] == 3 else images
        x = (pixels / 255.0 - self.mean) / self.std  # the one place where pixels become network numbers
        x = F.relu_(self.embedder(x))
        # Padded on the right and bottom only, as the published weights were trained.
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), kernel_size=3, stride=2)
        features: Tensor = self.encoder.stages(x)
        return features


def random_trunk(width: int, seed: int) -> Trunk:
    """A trunk with random weights (He initialisation), the same for the same width and seed."""
    if width < _GROUPS or width % _GROUPS:
        raise VisionError(f"a trunk's width must be a positive multiple of {_GROUPS}, got {width}")
    generator = torch.Generator().manual_seed(seed)
    trunk = Trunk(width)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    return frozen(trunk)


def load_trunk(name: str) -> Trunk:
    """The trunk that `vision_encoder_name` asks for, frozen.

    name: "random:<width>:<seed>", a folder holding model.safetensors, a .safetensors file, or a hub id
    ("owner/repository"; only its weight file is fetched, never code). Raises VisionError, and never falls
    back to anything else.
    """
    if name.startswith("random:"):
        match = re.fullmatch(r"random:(\d+):(\d+)", name)
        if match is None:
            raise VisionError(f"vision_encoder_name {name!r}: write random:<width>:<seed>, like random:16:0")
        return random_trunk(int(match[1]), int(match[2]))
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / WEIGHTS_FILE
    elif not path.exists():
        path = _fetch(name) / WEIGHTS_FILE
    if not path.is_file():
        raise VisionError(f"vision_encoder_name {name!r}: there is no file {path}")
    return _load_file(path)


def _fetch(name: str) -> Path:
    """Local folder of a hub repository's weights, fetched if needed (or found in the local cache)."""
    try:
        return hub_folder(name, [WEIGHTS_FILE, "config.json"])
    except HubError as error:
        raise VisionError(
            f"vision_encoder_name {name!r}: no file or folder {Path(name).absolute()}, and {error}. It must "
            "be a folder with model.safetensors, a .safetensors file, a hub id or random:<width>:<seed>; "
            "offline, use an encoder made here (hilserl pretrain-encoder) or choose random:16:0"
        ) from error


def _load_file(path: Path) -> Trunk:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise VisionError(f"{path} is not a readable safetensors file: {error}") from error
    first = tensors.get("embedder.0.weight")
    if first is None:
        raise VisionError(f"{path} holds no trunk: no tensor embedder.0.weight among {sorted(tensors)[:8]}")
    if first.ndim != 4 or first.shape[0] % _GROUPS:
        raise VisionError(
            f"{path}: embedder.0.weight must be (width, 3, 7, 7) with width a multiple of {_GROUPS}, "
            f"got {tuple(first.shape)}"
        )
    trunk = Trunk(first.shape[0])
    check_tensors(trunk.state_dict(), tensors, str(path))
    trunk.load_state_dict(tensors)
    return frozen(trunk)


def tensor_faults(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """One phrase per tensor of `found` that is missing, unknown, misshapen or not finite, sorted."""
    faults = [f"missing {name}" for name in expected if name not in found]
    faults += [f"unknown {name}" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        want, got = tuple(expected[name].shape), tuple(found[name].shape)
        if want != got:
            faults.append(f"{name} has shape {got}, not {want}")
        elif not bool(torch.isfinite(found[name]).all()):
            faults.append(f"{name} holds a value that is not finite")
    return sorted(faults)


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str) -> None:
    """Raise VisionError naming every tensor of `found` that is missing, unknown, or shaped otherwise."""
    faults = tensor_faults(expected, found)
    if faults:
        raise VisionError(f"{source} is not a ResNet10 trunk: " + "; ".join(faults))


def frozen(trunk: Trunk) -> Trunk:
    """The same trunk, made unable to learn, in the memory order its convolutions are fastest in."""
    trunk.eval().requires_grad_(False)
    return trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def save_trunk(trunk: Trunk, folder: Path) -> None:
    """Write `trunk` as `load_trunk` reads it: folder/model.safetensors and a config.json for people."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trunk.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    about = {"architecture": "resnet10", "width": trunk.width, "hash": trunk_hash(trunk)}
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n")


def trunk_hash(trunk: Trunk) -> str:
    """sha256 (hex) of the trunk's weights; equal exactly when every tensor is."""
    return tensors_hash(trunk.state_dict())


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) of the names, types, shapes and bytes of `tensors`, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
