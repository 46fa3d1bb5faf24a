"""Pictures for a page: each episode is decoded once, in a thread, and kept as JPEG in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from hilserl.dataset_schema import IMAGES, DatasetError, is_dataset, open_dataset
from hilserl.dataset_video import native_frames
from hilserl.episode import EpisodeFileError, load_episode, scan_episodes
from robot.types import U8

QUALITY = 92
"""Of the JPEG pictures, of 100."""
KEPT = 8
"""Episodes kept in memory; 300 frames of 640x480 are about 20 MB."""

Pictures = Iterator[tuple[str, int, U8]]
"""(camera, frame, picture uint8 RGB (H, W, 3)), each camera's frames ascending."""


class FramesError(Exception):
    """A picture that cannot be shown; says which and why."""


def pictures_of(root: Path) -> tuple[Callable[[str], Pictures], tuple[str, ...]]:
    """What a folder's pictures are read by, given an episode's name, and its cameras.

    Of a LeRobotDataset the native frames; of episode archives the policy images they hold.
    """
    if not is_dataset(root):
        first = load_episode(scan_episodes(root)[0].path)

        def archived(name: str) -> Pictures:
            for camera, images in load_episode(root / f"{name}.npz").images.items():
                for frame, image in enumerate(images):
                    yield camera, frame, image

        return archived, tuple(first.images)
    dataset = open_dataset(root)

    def recorded(name: str) -> Pictures:
        episode = dataset.episodes[int(name)]
        for key, shape in dataset.images.items():
            for frame, image in native_frames(episode, key, dataset.fps, np.arange(len(episode)), shape):
                yield key.removeprefix(IMAGES), frame, image

    return recorded, tuple(key.removeprefix(IMAGES) for key in dataset.images)


@dataclass(slots=True)
class _Job:
    """An episode that is, or was, decoded. wanted: when somebody last asked; 0 for one decoded ahead."""

    source: Pictures
    wanted: int = 0
    done: bool = False
    error: str = ""
    jpegs: dict[tuple[str, int], bytes] = field(default_factory=dict)


class FrameStore:
    """JPEG pictures of episodes. The episode asked for last is decoded first, picture by picture.

    with FrameStore(read) as frames:
        frames.ahead("1")
        jpeg = frames.get("0", "gripper_cam", 12)
    """

    def __init__(self, read: Callable[[str], Pictures]) -> None:
        self._read = read
        self._jobs: dict[str, _Job] = {}
        self._clock = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="frames", daemon=True)
        self._thread.start()

    def __enter__(self) -> FrameStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread; whoever waits gets FramesError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def ahead(self, name: str) -> None:
        """Decode an episode when nothing else is to do."""
        with self._changed:
            self._job(name)
            self._changed.notify_all()

    def get(self, name: str, camera: str, frame: int) -> bytes:
        """A picture as JPEG; waits until it is decoded. Raises FramesError where it cannot be."""
        with self._changed:
            job = self._job(name)
            self._clock += 1
            job.wanted = self._clock
            self._changed.notify_all()
            self._changed.wait_for(lambda: (camera, frame) in job.jpegs or job.done or self._closed)
            if (camera, frame) in job.jpegs:
                return job.jpegs[camera, frame]
            raise FramesError(job.error or f"frame {frame} of {camera} is not in episode {name}")

    def _job(self, name: str) -> _Job:
        if name not in self._jobs:
            idle = sorted((job.wanted, key) for key, job in self._jobs.items() if job.done)
            for _, key in idle[: max(0, len(self._jobs) + 1 - KEPT)]:
                del self._jobs[key]
            self._jobs[name] = _Job(self._read(name))
        return self._jobs[name]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None)
                job = self._next()
                if self._closed or job is None:
                    return
            self._advance(job)

    def _next(self) -> _Job | None:
        left = [job for job in self._jobs.values() if not job.done]
        return max(left, key=lambda job: job.wanted, default=None)

    def _advance(self, job: _Job) -> None:
        """One picture more."""
        error = ""
        try:
            found = next(job.source, None)
            jpeg = None if found is None else _to_jpeg(found[2])
        except (DatasetError, EpisodeFileError, ValueError) as failed:
            found, jpeg, error = None, None, str(failed)
        with self._changed:
            if found is None or jpeg is None:
                job.done, job.error = True, error
            else:
                job.jpegs[found[0], found[1]] = jpeg
            self._changed.notify_all()


def _to_jpeg(rgb: U8) -> bytes:
    done, jpeg = cv2.imencode(
        ".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    if not done:
        raise ValueError(f"a picture of shape {rgb.shape} cannot be encoded")
    return jpeg.tobytes()
