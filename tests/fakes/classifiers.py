"""A reward classifier on disk that nobody trained."""

from __future__ import annotations

from pathlib import Path

import torch

from hilserl.classifier.decision import Decision
from hilserl.classifier.model import About, RewardClassifier
from hilserl.classifier.network import Sizes, SuccessNetwork
from hilserl.config import Config
from hilserl.encoder import FeatureEncoder
from hilserl.task_record import task_json
from hilserl.vision import load_trunk

NEVER = Decision(threshold=1.0, hold_frames=1, min_frames=10**6)
ALWAYS = Decision(threshold=1e-12, hold_frames=1, min_frames=0)


def save_classifier(
    folder: Path,
    config: Config,
    decision: Decision = NEVER,
    *,
    look: tuple[float, float] = (0.0, 255.0),
    trusted: bool = True,
) -> Path:
    """Write one of random weights for the task, cameras and trunk of `config`; returns `folder`."""
    task, name = config.task, config.policy.vision_encoder_name
    trunk = load_trunk(name)
    encoder = FeatureEncoder(trunk, trunk.channels)
    sizes = Sizes(num_spatial_embeddings=2, latent_dim=8, dropout=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SuccessNetwork(task.camera_ids, encoder.feature_shape((*task.resize_size, 3)), sizes)
    about = About(
        task=task_json(task),
        trunk=name,
        sizes=sizes,
        decision=decision,
        look={camera: look for camera in task.camera_ids},
        trusted=trusted,
        trust="1 false success in 3 held-out failures",
        metrics={},
        data={},
    )
    RewardClassifier(network, encoder, about).save(folder)
    return folder
