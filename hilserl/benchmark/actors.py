"""What taking episodes in costs the learner as the number of actors grows: real gRPC on loopback."""

from __future__ import annotations

import multiprocessing
import queue
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hilserl.config import ServiceConfig, TaskConfig
from hilserl.episode import EpisodeHeader, load_episode, save_episode
from hilserl.task_record import task_hash, task_json
from hilserl.types import Episode, Obs, Role, Spec, Step
from hilserl.wire import ActorLink, LearnerService

_PATIENCE_S = 120.0


def episode_obs(episode: Episode, index: int) -> Obs:
    """The episode's observation number `index`."""
    return Obs({name: images[index] for name, images in episode.images.items()}, episode.state[index])


def steps_of(episode: Episode) -> list[Step]:
    """The episode's steps as an actor hands them to its link."""
    return [
        Step(
            episode.action[i],
            float(episode.reward[i]),
            bool(episode.intervention[i]),
            episode_obs(episode, i + 1),
            None,
        )
        for i in range(len(episode))
    ]


def ingest(spec: Spec, episode: Episode, counts: Sequence[int], episodes: int) -> list[dict[str, float]]:
    """Cost per transition of receiving `episodes` copies of `episode` in all, from each number of actors.

    The actors are processes of their own. Counted from the moment they may send until the last episode is on
    the learner's disk: wall time, and the learner process's CPU time (receiving, checking, compressing,
    fsync). Encoding is not part of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = save_episode(Path(folder) / "source", episode)
        return [_measure(spec, path, count, episodes // count, len(episode)) for count in counts]


def _measure(spec: Spec, path: Path, count: int, each: int, steps: int) -> dict[str, float]:
    task = TaskConfig()
    inbox: queue.Queue[Episode] = queue.Queue()
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "episodes"
        config = ServiceConfig(learner_port=0)
        service = LearnerService(
            config, spec, task_hash(task), task_json(task), lambda e: save_episode(archive, e), inbox, {}
        )
        service.start()
        context = multiprocessing.get_context("spawn")
        go = context.Barrier(count + 1)
        arguments = (spec.cameras, service.port, path, Path(folder), each, go)
        actors = [context.Process(target=_act, args=(f"actor{i}", *arguments)) for i in range(count)]
        try:
            for actor in actors:
                actor.start()
            go.wait(_PATIENCE_S)
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            for _ in range(count * each):
                inbox.get(timeout=_PATIENCE_S)
            wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        finally:
            for actor in actors:
                actor.join(_PATIENCE_S)
                if actor.is_alive():
                    actor.kill()
            service.stop()
    transitions = count * each * steps
    return {
        "actors": count,
        "transitions": transitions,
        "wall_ms": 1e3 * wall_s / transitions,
        "learner_cpu_ms": 1e3 * cpu_s / transitions,
    }


def _act(
    name: str,
    cameras: tuple[str, ...],
    port: int,
    path: Path,
    folder: Path,
    each: int,
    go: Any,  # noqa: ANN401
) -> None:
    """One actor's process: join, wait for the others, send the episode `each` times as fast as it goes."""
    from hilserl.env import task_spec

    task = TaskConfig()
    spec = replace(task_spec(task), cameras=cameras)
    source = load_episode(path)
    steps = steps_of(source)
    link = ActorLink(ServiceConfig(learner_port=port), name, folder / name)
    link.connect(spec, task_hash(task), task_json(task), _PATIENCE_S)
    go.wait(_PATIENCE_S)
    for _ in range(each):
        header = EpisodeHeader(name, link.next_episode_number, Role.TRAIN, 0, 0, task_hash(task))
        link.begin(header, episode_obs(source, 0))
        for step in steps:
            link.step(step)
        link.end(source.end)
    link.close(_PATIENCE_S)
