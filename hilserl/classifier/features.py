"""Trunk features of every labelled frame, computed once: the frozen trunk gives the same in every epoch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hilserl.classifier.augment import relit
from hilserl.classifier.labelled import Labelled
from hilserl.config import ClassifierConfig
from hilserl.encoder import FeatureEncoder
from hilserl.vision import F16, random_shift
from robot.types import U8

_CHUNK = 8
"""Pictures in one pass of the trunk, of those that need not round as live ones: fastest on a CPU core."""


@dataclass(frozen=True, slots=True)
class EpisodeFeatures:
    """What is kept of an episode of N frames in place of its pictures.

    versions: {camera: float16 (copies, N, C, h, w)}. Version 0 is the frame as it is, encoded alone, bit by
    bit what the actor has of it; the others are for training only. brightness: {camera: float64 (N,)}, 0 to
    255. digests: of its frames, all cameras together; equal frames have equal ones.
    """

    versions: dict[str, F16]
    brightness: dict[str, NDArray[np.float64]]
    digests: frozenset[bytes]


def encode_episodes(
    episodes: Sequence[Labelled],
    encoder: FeatureEncoder,
    config: ClassifierConfig,
    seed: int,
) -> list[EpisodeFeatures]:
    """Decode and encode every frame of every episode, whole episodes side by side.

    seed: of the varied versions; the same for the same seed and order. Raises what the sources raise.
    """

    def one(index: int) -> EpisodeFeatures:
        labelled = episodes[index]
        pictures = labelled.source.pictures(labelled.episode)
        return encode_episode(pictures, encoder, config, np.random.default_rng([seed, index]))

    with side_by_side() as pool:
        return list(pool.map(one, range(len(episodes))))


def encode_episode(
    pictures: dict[str, U8], encoder: FeatureEncoder, config: ClassifierConfig, generator: np.random.Generator
) -> EpisodeFeatures:
    """Features of one episode's policy images {camera: uint8 (N, H, W, 3)}."""
    versions, brightness = {}, {}
    for camera, images in pictures.items():
        found = [np.concatenate([encoder.encode(images[i : i + 1]) for i in range(len(images))])]
        for _ in range(config.copies - 1):
            moved = random_shift(images, config.augmentation_pad, generator)
            lit = relit(moved, config.brightness, config.colour, generator)
            found.append(_in_chunks(encoder, lit))
        versions[camera] = np.stack(found)
        brightness[camera] = images.mean(axis=(1, 2, 3))
    frames = zip(*pictures.values(), strict=True)
    return EpisodeFeatures(versions, brightness, frozenset(_digest(frame) for frame in frames))


def _in_chunks(encoder: FeatureEncoder, images: U8) -> F16:
    return np.concatenate([encoder.encode(images[i : i + _CHUNK]) for i in range(0, len(images), _CHUNK)])


def _digest(images: tuple[U8, ...]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for image in images:
        digest.update(np.ascontiguousarray(image))
    return digest.digest()


@contextmanager
def side_by_side() -> Iterator[ThreadPoolExecutor]:
    """One worker per core, each with one thread of torch.

    Small products are not worth being cut up between threads, and threads that wait for each other cost more
    than they bring; torch leaves the interpreter's lock. What was not begun when an error comes is not done.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
