"""What the learner learns from: frames stored once, trunk features cached, demonstrations never evicted.

Not for several threads at once: the learner's one loop adds and samples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilserl.networks import DEGENERATE_STD
from hilserl.ring import ReplayError, Ring, free_memory
from hilserl.types import ACTION_SIZE, Episode, Role, Spec
from hilserl.vision import F16, random_shift
from robot.types import F32, U8

log = logging.getLogger(__name__)

Encode = Callable[[U8], F16]
_CHUNK = 8
"""Shifted pictures encoded at a time: what a CPU core does fastest."""


MIN_SPREAD = {"rad": 0.05, "rad_s": 0.3, "m": 0.01}
"""Smallest spread a state component of a unit is divided by."""


class ProtectedFull(ReplayError):
    """The store of demonstrations is full: it refuses rather than forget one."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B transitions; observations are stacked, oldest first.

    seen, next_seen: what the camera showed, as float16 features (B, n_obs, n_cam, C, h, w). state,
    next_state: (B, n_obs, S) in physical units. action: (B, 4). reward, discount: (B,): the value of a
    transition is reward + discount * value(next), with discount 0 where the future is worth nothing
    (success, failure) and the configured discount elsewhere, time-outs included. is_demo: bool (B,), True
    for demonstrations and interventions. All float32 but `seen` and `is_demo`.
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
        """The same batch on `device`."""
        if device.type == "cpu":
            return self
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class Replay:
    """Two rings: `online` (the newest episodes) and `protected` (demonstrations and interventions).

    feature_shape: (C, h, w) of what `encode` returns for a picture. capacity, protected_capacity: frames.
    copies: versions of each frame whose features are kept: one as it is, the rest randomly shifted by up to
    `pad` pixels; pad 0 (no augmentation) keeps one. store_images: keep the pictures too, which `refresh`
    needs. Raises ReplayError where the store, once full, would not fit the machine's free memory.

    A demonstration that does not fit the protected ring is refused with ProtectedFull; the intervened steps
    of an online episode that do not fit are counted, logged as a warning, and stay in the online ring only.
    """

    def __init__(
        self,
        spec: Spec,
        encode: Encode,
        *,
        feature_shape: tuple[int, int, int],
        capacity: int,
        protected_capacity: int,
        copies: int = 2,
        pad: int = 4,
        n_obs_steps: int = 1,
        discount: float = 0.97,
        seed: int = 0,
        store_images: bool = True,
    ) -> None:
        self.spec, self.n_obs_steps, self.pad, self.discount = spec, n_obs_steps, pad, discount
        self.copies = copies if pad else 1
        self.feature_shape = feature_shape
        self._encode = encode
        self.rng = np.random.default_rng(seed)
        self.refused_steps = 0
        self._announce(capacity, protected_capacity, store_images)
        self.online = Ring(spec, feature_shape, capacity, self.copies, store_images)
        self.protected = Ring(spec, feature_shape, protected_capacity, self.copies, store_images)

    def _announce(self, capacity: int, protected: int, images: bool) -> None:
        """Say what the full store will take, before any of it is taken; refuse what cannot fit."""
        frame = Ring(self.spec, self.feature_shape, 1, self.copies, images).nbytes
        needed, free = frame * (capacity + protected), free_memory()
        log.info(
            "replay: %d online + %d protected frames x %.1f kB = %.2f GB when full, %.2f GB free",
            capacity, protected, frame / 1e3, needed / 1e9, free / 1e9,
        )  # fmt: skip
        if needed > free:
            raise ReplayError(
                f"the replay needs {needed / 1e9:.2f} GB ({frame / 1e3:.1f} kB for each of {capacity} online "
                f"and {protected} protected frames) but {free / 1e9:.2f} GB are free: lower "
                f"online_buffer_capacity to {max(0, int(free * 0.9 / frame) - protected)}, "
                "or feature_channels, or feature_copies"
            )

    def add(self, episode: Episode) -> int:
        """Store an episode; the number of its steps that can now be sampled (0 if it was discarded).

        Raises ValueError for an evaluation episode or one that does not match the spec.
        """
        if not episode.end.stored:
            return 0
        self._check(episode)
        demo = episode.role is Role.DEMO
        wanted = np.ones(len(episode), np.bool_)
        if demo and not self._fits(episode):
            raise ProtectedFull(
                f"demonstration {episode.actor}/{episode.number} of {len(episode)} steps does not fit: "
                f"{self.protected.used} of {self.protected.capacity} frames are taken. "
                "Raise offline_buffer_capacity or give fewer demonstrations"
            )
        features = self.features_of(episode)
        if demo:
            self.protected.write(episode, self.spec, features, wanted)
            return len(episode)
        self.online.write(episode, self.spec, features, wanted)
        if episode.intervention.any():
            self._protect(episode, features)
        return len(episode)

    def _protect(self, episode: Episode, features: F16) -> None:
        if self._fits(episode):
            self.protected.write(episode, self.spec, features, episode.intervention)
            return
        refused = int(episode.intervention.sum())
        self.refused_steps += refused
        log.warning(
            "the protected store is full (%d of %d frames): %d interventions of episode %s/%d stay in the "
            "online store only, %d so far. Raise offline_buffer_capacity",
            self.protected.used, self.protected.capacity, refused, episode.actor, episode.number,
            self.refused_steps,
        )  # fmt: skip

    def _fits(self, episode: Episode) -> bool:
        return self.protected.used + len(episode) + 1 <= self.protected.capacity

    def _check(self, episode: Episode) -> None:
        if episode.role is Role.EVAL:
            raise ValueError(f"evaluation episode {episode.actor}/{episode.number} must never be trained on")
        if set(episode.images) != set(self.spec.cameras):
            raise ValueError(f"cameras must be {self.spec.cameras}, the episode has {tuple(episode.images)}")
        for name, images in episode.images.items():
            if images.shape[1:] != self.spec.image_shape:
                raise ValueError(f"images {name!r} must be {self.spec.image_shape}, got {images.shape[1:]}")
        if episode.state.shape[1] != self.spec.state_size:
            raise ValueError(
                f"state must have {self.spec.state_size} components, got {episode.state.shape[1]}"
            )

    def features_of(self, episode: Episode) -> F16:
        """Features float16 (T+1, n_cam, copies, C, h, w); copy 0 is of the picture as it is, as acted on."""
        frames = len(episode) + 1
        out = np.empty((frames, len(self.spec.cameras), self.copies, *self.feature_shape), np.float16)
        for camera, name in enumerate(self.spec.cameras):
            images = episode.images[name]
            # One by one, like the acting policy: batched convolutions round otherwise.
            out[:, camera, 0] = self._encoded(images, 1)
            for copy in range(1, self.copies):
                out[:, camera, copy] = self._encoded(self._shifted(images), _CHUNK)
        return out

    def _encoded(self, images: U8, chunk: int) -> F16:
        """Features (N, C, h, w), encoded `chunk` pictures at a time; refuses a wrong shape and infinities."""
        parts = [self._encode(images[i : i + chunk]) for i in range(0, len(images), chunk)]
        features = np.concatenate(parts)
        if features.shape != (len(images), *self.feature_shape) or features.dtype != np.float16:
            raise ReplayError(
                f"the encoder gave {features.dtype} {features.shape[1:]} for a picture of "
                f"{images.shape[1:]}, the replay was made for float16 {self.feature_shape}"
            )
        if not np.isfinite(features).all():
            raise ReplayError("the encoder gave features that are not finite: is the trunk's file intact?")
        return features

    def refresh(self) -> int:
        """Shift and encode the shifted copies of one random stored episode anew; the number of its frames.

        For idle time. 0 when there is nothing to refresh. Raises ReplayError without store_images.
        """
        if not len(self.online.images):
            raise ReplayError("refresh needs the pictures: make the replay with store_images=True")
        rings = [ring for ring in (self.online, self.protected) if ring.episodes]
        if self.copies == 1 or not rings:
            return 0
        ring = rings[self.rng.choice(len(rings), p=_shares([ring.used for ring in rings]))]
        first, frames = ring.episodes[self.rng.integers(len(ring.episodes))]
        slots = ring.slots(first, frames)
        for camera in range(len(self.spec.cameras)):
            images = ring.images[slots, camera]
            for copy in range(1, self.copies):
                ring.features[slots, camera, copy] = self._encoded(self._shifted(images), _CHUNK)
        return frames

    def _shifted(self, images: U8) -> U8:
        """Pictures (T+1, H, W, 3) of one episode, each shifted by itself, or alike if frames are stacked."""
        if self.n_obs_steps == 1:
            return random_shift(images, self.pad, self.rng)
        frames, height, width, _ = images.shape
        film = images.transpose(1, 2, 0, 3).reshape(1, height, width, -1)
        moved = random_shift(film, self.pad, self.rng)
        return np.ascontiguousarray(moved.reshape(height, width, frames, 3).transpose(2, 0, 1, 3))

    def sample(self, batch_size: int, demo_fraction: float) -> Batch:
        """A uniformly random batch, `demo_fraction` of it protected steps.

        While one store is empty the other fills the batch. Raises ReplayError while both are.
        """
        online, protected = len(self.online.samplable), len(self.protected.samplable)
        if online + protected == 0:
            raise ReplayError("nothing to sample: the replay holds no step yet")
        demos = round(batch_size * demo_fraction) if online and protected else batch_size * bool(protected)
        out = self._empty(batch_size)
        for ring, part in ((self.protected, slice(0, demos)), (self.online, slice(demos, batch_size))):
            size = part.stop - part.start
            if size:
                slots = ring.samplable[self.rng.integers(len(ring.samplable), size=size)]
                rows = {name: array[part] for name, array in out.items()}
                ring.take(slots, self.n_obs_steps, self.rng, rows)
        out["is_demo"][:demos] = True
        out["discount"] *= self.discount
        return Batch(**{name: torch.from_numpy(array) for name, array in out.items()})

    def _empty(self, batch: int) -> dict[str, NDArray[Any]]:
        features = (batch, self.n_obs_steps, len(self.spec.cameras), *self.feature_shape)
        state = (batch, self.n_obs_steps, self.spec.state_size)
        return {
            "seen": np.empty(features, np.float16),
            "next_seen": np.empty(features, np.float16),
            "state": np.empty(state, np.float32),
            "next_state": np.empty(state, np.float32),
            "action": np.empty((batch, ACTION_SIZE), np.float32),
            "reward": np.empty(batch, np.float32),
            "discount": np.empty(batch, np.float32),
            "is_demo": np.zeros(batch, np.bool_),
        }

    @property
    def transitions(self) -> int:
        """Transitions that can be sampled: both rings', an intervened step in both counted once in each."""
        return len(self.online.samplable) + len(self.protected.samplable)

    def state_statistics(self) -> tuple[F32, F32]:
        """Mean and spread (S,) of the protected frames' states; of the online ones if none.

        The spread is the standard deviation, but not below MIN_SPREAD of the component's unit: demonstrations
        that hardly move a component must not turn an ordinary motion into an input of 30. A component that
        never moves keeps its 0 and is dropped by the network.
        """
        ring = self.protected if self.protected.used else self.online
        if not ring.used:
            raise ReplayError("no state statistics: the replay holds no episode yet")
        states = np.concatenate([ring.state[ring.slots(*episode)] for episode in ring.episodes])
        exact = states.astype(np.float64)
        spread = exact.std(0)
        floor = np.array([MIN_SPREAD[_unit(name)] for name in self.spec.state_names])
        spread = np.where(spread < DEGENERATE_STD, 0.0, np.maximum(spread, floor))
        return exact.mean(0).astype(np.float32), spread.astype(np.float32)

    def metrics(self) -> dict[str, float]:
        """Sizes [steps], share of steps with a reward, full share of each ring, refused interventions."""
        rewards = self.online.reward[self.online.samplable]
        return {
            "replay/online_steps": float(len(self.online.samplable)),
            "replay/protected_steps": float(len(self.protected.samplable)),
            "replay/protected_refused_steps": float(self.refused_steps),
            "replay/protected_full_share": self.protected.used / self.protected.capacity,
            "replay/rewarded_share": float((rewards > 0).mean()) if len(rewards) else 0.0,
        }


def _shares(counts: list[int]) -> list[float]:
    return [count / sum(counts) for count in counts]


def _unit(state_name: str) -> str:
    """Unit at the end of a state component's name: `joint_vel.elbow_flex_rad_s` is in rad_s."""
    for unit in sorted(MIN_SPREAD, key=len, reverse=True):
        if state_name.endswith(f"_{unit}"):
            return unit
    raise ReplayError(f"state component {state_name!r} must end in one of the units {sorted(MIN_SPREAD)}")
