"""Fits the small network on stored features; notes what it says of held-out frames after each epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from hilserl.classifier.features import EpisodeFeatures
from hilserl.classifier.network import Sizes, SuccessNetwork
from hilserl.config import ClassifierConfig
from hilserl.noise import Noise
from robot.types import F32

I64 = NDArray[np.int64]
_EVAL_BATCH = 512


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of all episodes, one after the other; each stands in memory once, whoever trains on it.

    features: {camera: float16 (copies, N, C, h, w)}. success: float32 (N,). first: (episodes + 1,), where
    each episode begins, and N.
    """

    features: Mapping[str, Tensor]
    success: Tensor
    first: I64

    @classmethod
    def of(cls, episodes: Sequence[EpisodeFeatures], success: Sequence[NDArray[np.bool_]]) -> Frames:
        """success: bool (N,) of each episode."""
        return cls(
            {
                camera: torch.from_numpy(np.concatenate([one.versions[camera] for one in episodes], axis=1))
                for camera in episodes[0].versions
            },
            torch.from_numpy(np.concatenate(success).astype(np.float32)),
            np.cumsum([0, *(len(one) for one in success)]),
        )

    def of_episodes(self, episodes: Sequence[int]) -> I64:
        """The frames of some episodes."""
        return np.concatenate([np.arange(self.first[i], self.first[i + 1]) for i in episodes])

    def network(self, sizes: Sizes, seed: int) -> SuccessNetwork:
        """A network for these features with random weights, the same for the same seed. Not from threads."""
        shape = next(iter(self.features.values())).shape[2:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return SuccessNetwork(list(self.features), (shape[0], shape[1], shape[2]), sizes)

    def batch(self, versions: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """{camera: float32 (B, C, h, w)} of the given versions of the given frames, int64 (B,) each."""
        return {camera: stored[versions, frames].float() for camera, stored in self.features.items()}


@dataclass(slots=True)
class Fitted:
    """What came of one training.

    losses: (epoch, training loss, held-out loss), epochs counted from 1. said: what the network said of the
    held-out frames after each epoch, float32 (N,) in [0, 1]. Both are empty where none were held out.
    """

    network: SuccessNetwork
    losses: list[tuple[int, float, float]] = field(default_factory=list)
    said: list[F32] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """The one with the lowest held-out loss."""
        return min(self.losses, key=lambda row: row[2])[0]


def fit(
    network: SuccessNetwork,
    frames: Frames,
    train: I64,
    test: I64 | None,
    config: ClassifierConfig,
    seed: int,
    epochs: int,
) -> Fitted:
    """Train on the frames `train`; an epoch takes each of them once, in any of its versions.

    Success and failure weigh the same in the loss, however many frames each has. With held-out frames `test`,
    which are taken as they are, it ends config.patience epochs after the lowest held-out loss; else after
    `epochs`. Same arguments, same weights, on one machine with one thread of torch.
    """
    rng, noise = np.random.default_rng([seed, 1]), Noise(seed, torch.device("cpu"))
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    share = float(frames.success[torch.from_numpy(train)].mean())
    fitted = Fitted(network)
    for epoch in range(1, epochs + 1):
        loss = _epoch(network, optimiser, frames, rng.permutation(train), rng, noise, config, share)
        if test is None:
            continue
        said, missed = _judge(network, frames, test, share)
        fitted.said.append(said)
        fitted.losses.append((epoch, loss, missed))
        if epoch - fitted.best_epoch >= config.patience:
            break
    return fitted


def _epoch(
    network: SuccessNetwork,
    optimiser: torch.optim.Optimizer,
    frames: Frames,
    order: I64,
    rng: np.random.Generator,
    noise: Noise,
    config: ClassifierConfig,
    share: float,
) -> float:
    """The mean loss. share: of success frames in what is trained on."""
    network.train()
    copies, total = len(next(iter(frames.features.values()))), 0.0
    versions = torch.from_numpy(rng.integers(0, copies, len(order)))
    parts = zip(
        torch.split(torch.from_numpy(order), config.batch_size),
        torch.split(versions, config.batch_size),
        strict=True,
    )
    for chosen, version in parts:
        logits = network(frames.batch(version, chosen), noise)
        loss = _loss(logits, frames.success[chosen], share).mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        total += float(loss.detach()) * len(chosen)
    return total / len(order)


@torch.inference_mode()
def _judge(network: SuccessNetwork, frames: Frames, test: I64, share: float) -> tuple[F32, float]:
    """What the network says of frames as they are, and its loss on them."""
    network.eval()
    logits = torch.cat(
        [
            network(frames.batch(torch.zeros_like(part), part))
            for part in torch.split(torch.from_numpy(test), _EVAL_BATCH)
        ]
    )
    loss = _loss(logits, frames.success[torch.from_numpy(test)], share).mean()
    said: F32 = torch.sigmoid(logits).numpy()
    return said, float(loss)


def _loss(logits: Tensor, success: Tensor, share: float) -> Tensor:
    """Cross entropy of each frame, weighted so that both classes of the training set weigh the same."""
    weight = torch.where(success > 0, 0.5 / share, 0.5 / (1 - share))
    return F.binary_cross_entropy_with_logits(logits, success, weight, reduction="none")
