"""The acting policy as a rollout wants one, and what published weights carry beside its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hilserl.acting import ActingPolicy
from hilserl.config import Config
from hilserl.contract import ContractMismatch
from hilserl.encoder import FeatureEncoder
from hilserl.types import Obs, Spec
from robot.types import F32

ENCODER_KEY = "encoder_sha256"
"""Name under which published weights carry the hash of the image encoder training began with."""
PROJECTION_KEY = "projection"
"""Name under which they carry the encoder's projection where it was computed from demonstrations."""


def encoder_mark(encoder_hash: str) -> dict[str, NDArray[Any]]:
    """The entry of published weights that names their encoder. encoder_hash: `FeatureEncoder.hash()`."""
    return {ENCODER_KEY: np.frombuffer(bytes.fromhex(encoder_hash), np.uint8)}


class Player:
    """An ActingPolicy as the rollout wants one. deterministic: squashed mean instead of a draw."""

    def __init__(self, spec: Spec, config: Config, encoder: FeatureEncoder, *, deterministic: bool) -> None:
        self._policy = ActingPolicy(spec, config.policy, encoder)
        self._encoder, self._encoder_hash = encoder, encoder.hash()
        self._generator = torch.Generator().manual_seed(config.seed)
        self.deterministic = deterministic
        self.noise_scale = 1.0

    def load(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Take published weights. Raises ContractMismatch when they belong to another image encoder."""
        tensors = dict(weights)
        theirs = tensors.pop(ENCODER_KEY).tobytes().hex()
        projection = tensors.pop(PROJECTION_KEY, None)
        if projection is not None and not self._encoder.complete:
            self._encoder.project(torch.from_numpy(np.array(projection)))
            self._encoder_hash = self._encoder.hash()
        if theirs != self._encoder_hash:
            raise ContractMismatch(
                f"the learner trains on an image encoder with hash {theirs[:16]}, this actor loaded "
                f"{self._encoder_hash[:16]}: give both the same policy.vision_encoder_name, "
                "policy.feature_channels and policy.feature_projection"
            )
        self._policy.load(tensors)

    def reset(self) -> None:
        """A new episode begins."""
        self._policy.reset()

    def observe(self, obs: Obs) -> None:
        """An observation the operator acts on."""
        self._policy.observe(obs)

    def act(self, obs: Obs) -> F32:
        """The action (4,) after `obs`."""
        mode: Literal["sample", "mean"] = "mean" if self.deterministic else "sample"
        return self._policy.act(obs, mode, self._generator, self.noise_scale)
