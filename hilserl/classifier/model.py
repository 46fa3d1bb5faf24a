"""A trained reward classifier: the probability of success it gives a picture, and what is stored of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from hilserl.classifier.decision import Decision
from hilserl.classifier.model_files import (
    BEST,
    CONFIG_FILE,
    ClassifierError,
    check_cameras,
    model_folder,
    read_config,
    read_tensors,
    write_model,
)
from hilserl.classifier.network import Sizes, SuccessNetwork
from hilserl.classifier.sources import ALWAYS_ALLOWED
from hilserl.config import TaskConfig
from hilserl.encoder import FeatureEncoder
from hilserl.task_record import check_task, hash_of
from hilserl.vision import F16, WEIGHTS_FILE, load_trunk, tensors_hash
from robot.types import F32, U8

__all__ = ["BEST", "About", "ClassifierError", "RewardClassifier", "brightness", "probability_of"]

LOOK_MARGIN = 0.15
"""A picture may be darker or brighter than every one seen in training by this share."""


@dataclass(frozen=True, slots=True)
class About:
    """What is stored beside the weights.

    task: the record, `task_json`. trunk: name under which the trunk was found. look: {camera: (least,
    most) brightness [0, 255] of its pictures in training}. trusted: the false successes asked for were kept;
    trust: how that was found, in words. metrics: on held-out episodes. data: what it was trained on.
    """

    task: str
    trunk: str
    sizes: Sizes
    decision: Decision
    look: Mapping[str, tuple[float, float]]
    trusted: bool
    trust: str
    metrics: Mapping[str, Any]
    data: Mapping[str, Any]


class RewardClassifier:
    """Probability that policy images show success.

    Pictures go through the trunk one by one: in a batch they would round otherwise, and what was judged in
    training must be judged alike while acting.
    """

    def __init__(self, network: SuccessNetwork, encoder: FeatureEncoder, about: About) -> None:
        self.about = about
        self.encoder = encoder
        self.network = network.eval().requires_grad_(False)
        self.cameras = tuple(network.heads)
        side = json.loads(about.task)["resize_size"]
        self._shape = (int(side[0]), int(side[1]), 3)
        told = tensors_hash(network.state_dict()) + encoder.hash()
        self.hash = hashlib.sha256(told.encode()).hexdigest()
        """sha256 of everything that decides the probability: the trained weights and the trunk's."""

    @property
    def decision(self) -> Decision:
        """When success is called, as chosen in training."""
        return self.about.decision

    @torch.inference_mode()
    def probability(self, images: Mapping[str, U8]) -> float:
        """Of success in one observation, {camera: uint8 (H, W, 3)}. Raises ClassifierError."""
        self._check(images)
        features = {camera: self.encoder.encode(images[camera][None]) for camera in self.cameras}
        return probability_of(self.network, features)

    def probabilities(self, pictures: Mapping[str, U8]) -> F32:
        """Of success in every frame of {camera: uint8 (N, H, W, 3)}: float32 (N,), as `probability`."""
        counts = {len(frames) for frames in pictures.values()}
        if len(counts) != 1:
            raise ClassifierError(
                f"the cameras have {sorted(counts)} pictures; they must have the same number"
            )
        frames = range(counts.pop())
        one_by_one = (
            self.probability({camera: pictures[camera][frame] for camera in pictures}) for frame in frames
        )
        return np.fromiter(one_by_one, np.float32, len(frames))

    def out_of_range(self, images: Mapping[str, U8]) -> str:
        """Empty where all pictures are about as bright as those of training, or a sentence about one."""
        self._check(images)
        for camera in self.cameras:
            seen, (low, high) = brightness(images[camera]), self.about.look[camera]
            if not low * (1 - LOOK_MARGIN) <= seen <= high * (1 + LOOK_MARGIN):
                return (
                    f"camera {camera!r} shows a picture of brightness {seen:.1f} of 255, those of training "
                    f"were {low:.1f} to {high:.1f} ({LOOK_MARGIN:.0%} beyond is allowed)"
                )
        return ""

    @classmethod
    def load(
        cls,
        name: str,
        task: TaskConfig,
        allow: Collection[str] = (),
        *,
        trunk: str = "",
        device: str = "cpu",
        allow_untrusted: bool = False,
    ) -> Self:
        """The classifier in the folder `name` (best_model), or of a hub id.

        allow: task fields in which the record it was trained under may differ; `success` always may. trunk:
        as policy.vision_encoder_name; "" takes the name it was trained with. Raises TaskMismatch, VisionError
        (there is no such trunk), or ClassifierError: what it is not, another trunk, or held-out episodes that
        showed more false successes than asked for, unless allow_untrusted.
        """
        folder = model_folder(name)
        told, source = read_config(folder), str(folder / CONFIG_FILE)
        check_task(task, told["task"], source, (*allow, *ALWAYS_ALLOWED))
        check_cameras(task.camera_ids, told["cameras"], source)
        if not told["trusted"] and not allow_untrusted:
            raise ClassifierError(f"{folder} must not give rewards: {told['trust']}")
        trunk = trunk or told["trunk"]["name"]
        loaded = load_trunk(trunk)
        encoder = FeatureEncoder(loaded, loaded.channels, device=device)
        if encoder.hash() != told["trunk"]["hash"]:
            raise ClassifierError(
                f"{source}: it was trained on the trunk {told['trunk']['name']!r} with hash "
                f"{told['trunk']['hash'][:16]}, {trunk!r} has hash {encoder.hash()[:16]}: use that trunk, or "
                "train the classifier again with this one"
            )
        try:
            about = About(
                task=json.dumps(told["task"], sort_keys=True, separators=(",", ":")),
                trunk=trunk,
                sizes=Sizes(**told["network"]),
                decision=Decision(**told["decision"]),
                look={camera: (float(low), float(high)) for camera, (low, high) in told["look"].items()},
                trusted=bool(told["trusted"]),
                trust=told["trust"],
                metrics=told["metrics"],
                data=told["data"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ClassifierError(f"{source} is damaged: {type(error).__name__}: {error}") from error
        height, width = told["task"]["resize_size"]
        network = SuccessNetwork(told["cameras"], encoder.feature_shape((height, width, 3)), about.sizes)
        network.load_state_dict(read_tensors(folder, network.state_dict()))
        found = cls(network.to(device), encoder, about)
        if found.hash != told["hash"]:
            raise ClassifierError(f"{folder}: {WEIGHTS_FILE} is not the one {CONFIG_FILE} was written with")
        return found

    def _check(self, images: Mapping[str, U8]) -> None:
        for camera in self.cameras:
            if camera not in images:
                raise ClassifierError(
                    f"the classifier judges pictures of {list(self.cameras)}, camera {camera!r} is missing; "
                    f"there is {sorted(images)}"
                )
            image = images[camera]
            if image.dtype != np.uint8 or image.shape != self._shape:
                raise ClassifierError(
                    f"the classifier judges policy images uint8 {self._shape}, camera {camera!r} gave "
                    f"{image.dtype} {image.shape}"
                )

    def save(self, folder: Path) -> None:
        """Write it durably, whole or not at all. Raises ClassifierError where `folder` exists."""
        arrays = {name: tensor.cpu().numpy() for name, tensor in self.network.state_dict().items()}
        write_model(folder, self._told(), arrays)

    def _told(self) -> dict[str, Any]:
        about = self.about
        return {
            "cameras": list(self.cameras),
            "network": dataclasses.asdict(about.sizes),
            "trunk": {"name": about.trunk, "hash": self.encoder.hash()},
            "hash": self.hash,
            "decision": dataclasses.asdict(about.decision),
            "look": {camera: list(range_) for camera, range_ in about.look.items()},
            "trusted": about.trusted,
            "trust": about.trust,
            "task_hash": hash_of(about.task),
            "task": json.loads(about.task),
            "metrics": about.metrics,
            "data": about.data,
        }


def probability_of(network: SuccessNetwork, features: Mapping[str, F16]) -> float:
    """Of success in one observation, from trunk features {camera: float16 (1, C, h, w)}. Not in a batch."""
    device = next(network.parameters()).device
    logits = network({camera: torch.from_numpy(one).to(device).float() for camera, one in features.items()})
    return float(torch.sigmoid(logits)[0])


def brightness(image: U8) -> float:
    """Mean of a picture's numbers, 0 to 255."""
    return float(image.mean())
