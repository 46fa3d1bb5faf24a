"""What the learner learns from: frames stored once, trunk features cached, demonstrations never evicted.

One loop writes and samples; `features_of` and `sync` may be called from any other thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilserl.frame_features import Encode, FrameFeatures
from hilserl.refreshing import PicturesOf, Refresher
from hilserl.replay_size import announce
from hilserl.ring import MemoryStorage, Ring, Storage
from hilserl.ring_files import FileStorage
from hilserl.ring_journal import Key, ReplayError
from hilserl.ring_layout import Kept, LayoutChanged, delete_ring, row_bytes
from hilserl.sampling import Batch, Sampler, View
from hilserl.state_statistics import state_statistics
from hilserl.types import Episode, Role, Spec
from hilserl.vision import F16
from robot.types import F32

__all__ = [
    "Batch",
    "Key",
    "LayoutChanged",
    "PicturesOf",
    "ProtectedFull",
    "Replay",
    "ReplayError",
    "delete_ring",
]

log = logging.getLogger(__name__)


class ProtectedFull(ReplayError):
    """The store of demonstrations is full: it refuses rather than forget one."""


class Replay:
    """Two rings: `online` (the newest episodes) and `protected` (demonstrations and interventions).

    feature_shape: (C, h, w) of what `encode` returns for a picture. capacity, protected_capacity: frames.
    copies: versions of each frame whose features are kept: one as it is, the rest randomly shifted by up to
    `pad` pixels; pad 0 (no augmentation) keeps one. cache_features False: the pictures are kept instead,
    `encode` is not used, and every picture is shifted when it is sampled. n_step: steps of reward before the
    value takes over. fps: control steps per second, for saying hours.

    folder: where the rings are files that survive the process (needs encoder_hash, of what `encode` is);
    None: in memory. Raises LayoutChanged where the files were made for something else (`delete_ring` its
    folder and fill it again from the archive), ReplayError where the store, once full, would not fit the disk
    or the machine's free memory: on disk too, updates read all of it at random.

    An episode is stored once: adding it again changes nothing. A demonstration that does not fit the
    protected ring is refused with ProtectedFull; the intervened steps of an online episode that do not fit
    are counted, logged as a warning, and stay in the online ring only.
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
        n_step: int = 1,
        discount: float = 0.97,
        seed: int = 0,
        cache_features: bool = True,
        folder: Path | None = None,
        encoder_hash: str = "",
        fps: float | None = None,
    ) -> None:
        if folder is not None and cache_features and not encoder_hash:
            raise ValueError("a replay on disk needs encoder_hash: features of another encoder mean nothing")
        self.spec, self.feature_shape, self.cache_features = spec, feature_shape, cache_features
        self.copies = copies if pad and cache_features else 1
        self._features = FrameFeatures(
            spec.cameras, encode, feature_shape, self.copies, pad, alike=n_obs_steps > 1, seed=seed
        )
        self.rng = np.random.default_rng(seed)
        kept = Kept(spec, feature_shape if cache_features else None, self.copies, pad, n_obs_steps > 1)
        announce(row_bytes(kept.shapes()), (capacity, protected_capacity), fps, folder)
        storages: list[Storage] = []
        try:
            for name, slots in (("online", capacity), ("protected", protected_capacity)):
                if folder is None:
                    storages.append(MemoryStorage(kept.shapes(), slots))
                else:
                    meaning = kept.meaning(encoder_hash)
                    storages.append(FileStorage(folder / name, kept.shapes(), slots, meaning))
        except ReplayError:
            for storage in storages:
                storage.close()
            raise
        self.online, self.protected = Ring(storages[0], evicts=True), Ring(storages[1], evicts=False)
        rings = (self.online, self.protected)
        view = View(n_obs_steps, n_step, discount, pad)
        self._samplers = [
            Sampler(ring, spec, view, self.copies if cache_features else None) for ring in rings
        ]
        self._refresher = Refresher(rings, self._features)

    def add(self, episode: Episode) -> int:
        """Encode and store an episode; see `write`. Nothing is encoded that is not stored."""
        if not self._wanted(episode):
            return 0
        return self.write(episode, self.features_of(episode))

    def features_of(self, episode: Episode) -> F16 | None:
        """Features float16 (T+1, n_cam, copies, C, h, w); None where pictures are kept.

        A pure function of the pictures, the seed and the episode's identity, for any thread.
        """
        self._check(episode)
        return self._features.of(episode.images, Key.of(episode)) if self.cache_features else None

    def write(self, episode: Episode, features: F16 | None) -> int:
        """Store an episode and its `features_of`; the number of its steps that can now be sampled.

        0 for one that was discarded or is held already. Raises ValueError for an evaluation episode or one
        that does not match the spec, ReplayError for one that is too long or that the disk does not take.
        """
        if not self._wanted(episode):
            return 0
        large = self._large_rows(episode, features)
        key, steps = Key.of(episode), len(episode)
        if episode.role is Role.DEMO:
            self.protected.write(episode, large, np.ones(steps, np.bool_))
            return steps
        if episode.intervention.any() and not self.protected.holds(key):
            self._protect(episode, large)
        if self.online.holds(key):
            return 0
        self.online.write(episode, large, np.ones(steps, np.bool_))
        return steps

    def _wanted(self, episode: Episode) -> bool:
        """Whether there is something to store. Raises for what must not be, or does not fit."""
        if not episode.end.stored:
            return False
        self._check(episode)
        if self.holds(Key.of(episode)):
            return False
        if episode.role is Role.TRAIN and not self.online.fits(len(episode) + 1):
            raise ReplayError(
                f"{Key.of(episode)} of {len(episode) + 1} frames does not fit a store of "
                f"{self.online.capacity}. Raise online_buffer_capacity"
            )
        if episode.role is Role.DEMO and not self.protected.fits(len(episode) + 1):
            raise ProtectedFull(
                f"demonstration {episode.actor}/{episode.number} of {len(episode)} steps does not fit: "
                f"{self.protected.used} of {self.protected.capacity} frames are taken. "
                "Raise offline_buffer_capacity or give fewer demonstrations"
            )
        return True

    def _large_rows(self, episode: Episode, features: F16 | None) -> dict[str, NDArray[Any]]:
        """The columns of what is kept of the pictures."""
        frames, cameras = len(episode) + 1, len(self.spec.cameras)
        if not self.cache_features:
            return {"images": np.stack([episode.images[name] for name in self.spec.cameras], 1)}
        shape = (frames, cameras, self.copies, *self.feature_shape)
        if features is None or features.shape != shape or features.dtype != np.float16:
            found = "none" if features is None else f"{features.dtype} {features.shape}"
            raise ReplayError(f"the features of {Key.of(episode)} must be float16 {shape}, got {found}")
        return {"features": features}

    def _protect(self, episode: Episode, large: Mapping[str, NDArray[Any]]) -> None:
        if self.protected.fits(len(episode) + 1):
            self.protected.write(episode, large, episode.intervention)
            return
        refused = int(episode.intervention.sum())
        log.warning(
            "the protected store is full (%d of %d frames): %d interventions of episode %s/%d stay in the "
            "online store only, %d so far. Raise offline_buffer_capacity",
            self.protected.used, self.protected.capacity, refused, episode.actor, episode.number,
            self.protected.refuse(Key.of(episode), refused),
        )  # fmt: skip

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

    def holds(self, key: Key) -> bool:
        """Whether an episode need not be added (again): all of it is stored, evicted, refused or excluded."""
        if key.role is Role.DEMO:
            return self.protected.holds(key)
        helped = self.online.storage.contents.taken.get(key, False)
        return self.online.holds(key) and (not helped or self.protected.holds(key))

    def exclude(self, keys: Iterable[Key]) -> None:
        """Never sample these episodes again, now, after reopening, or when they are added again."""
        keys = list(keys)
        for ring in (self.online, self.protected):
            ring.exclude(keys)

    def sample(self, batch_size: int, demo_fraction: float) -> Batch:
        """A random batch, `demo_fraction` of it protected steps; every step of a ring is equally likely.

        While one store is empty the other fills the batch. Raises ReplayError while both are.
        """
        online, protected = len(self.online.samplable), len(self.protected.samplable)
        if online + protected == 0:
            raise ReplayError("nothing to sample: the replay holds no step yet")
        demos = round(batch_size * demo_fraction) if online and protected else batch_size * bool(protected)
        out = self._samplers[0].empty(batch_size)
        for sampler, part in zip(self._samplers, (slice(demos, batch_size), slice(0, demos)), strict=True):
            if part.stop > part.start:
                rows = {name: tensor[part] for name, tensor in out.items()}
                sampler.fill(part.stop - part.start, self.rng, rows)
        out["is_demo"][:demos] = True
        return Batch(**out)

    def refresh(self, pictures_of: PicturesOf, pictures: int = 8) -> int:
        """Shift and encode some stored frames anew; the number of frames, 0 when there is nothing to do.

        A slice of work for idle time: about `pictures` shifted pictures are encoded. pictures_of gives those
        of a stored episode, once for all its slices; None when they are not at hand, and then it waits for
        the next round.
        """
        return self._refresher.refresh(pictures_of, pictures) if self.copies > 1 else 0

    @property
    def transitions(self) -> int:
        """Transitions that can be sampled: both rings', an intervened step in both counted once in each."""
        return len(self.online.samplable) + len(self.protected.samplable)

    def state_statistics(self) -> tuple[F32, F32]:
        """Mean and spread (S,) of the protected frames' states; of the online ones if none."""
        ring = self.protected if self.protected.used else self.online
        if not ring.used:
            raise ReplayError("no state statistics: the replay holds no episode yet")
        slots = np.concatenate([ring.slots(entry.first, entry.frames) for entry in ring.entries])
        return state_statistics(ring.arrays["state"][slots], self.spec.state_names)

    def metrics(self) -> dict[str, float]:
        """Sizes [steps], share of steps with a reward, full share of each ring, refused interventions."""
        rewards = self.online.arrays["reward"][self.online.samplable]
        return {
            "replay/online_steps": float(len(self.online.samplable)),
            "replay/protected_steps": float(len(self.protected.samplable)),
            "replay/protected_refused_steps": float(self.protected.refused_steps),
            "replay/protected_full_share": self.protected.used / self.protected.capacity,
            "replay/rewarded_share": float((rewards > 0).mean()) if len(rewards) else 0.0,
        }

    def sync(self) -> None:
        """Bring all that was written so far to the disk; for any thread. It survives a power cut then."""
        self.online.storage.sync()
        self.protected.storage.sync()

    def close(self) -> None:
        """Sync and close the files, if any. More than once is allowed."""
        self.online.storage.close()
        self.protected.storage.close()
