"""What a fault campaign asks of the data: nothing finished is lost, nothing is stored twice or wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from hilserl.benchmark.campaign_judge import Found, Span, Trace, in_time
from hilserl.episode import EpisodeFileError, load_episode, scan_episodes
from hilserl.types import Episode
from robot.types import U8

FRAME_AGE_S: Final = 0.4
"""A frame may be cameras.max_age_s old (0.2 s), and some time on its way to the step that is told of."""
STALLED_AGE_S: Final = 1.0
"""Where the machine stood still it is this: the simulated camera stood still with it."""
STATE_AGE_S: Final = 0.4
STATE_RAD: Final = 0.03
"""Each stored angle was its joint's within STATE_AGE_S, to this: some servo counts, and a tick's motion. A
servo that did not answer is asked again, so that the joints of one reading are not of one moment."""


@dataclass(slots=True)
class Played:
    """One episode as its program told of it. step_s: monotonic time of each step [s]; end "" when cut off."""

    begin_s: float
    number: int = 0
    end: str = ""
    end_s: float = 0.0
    step_s: list[float] = field(default_factory=list)
    actions: list[list[float]] = field(default_factory=list)
    helped: list[bool] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether it is over and was to be kept."""
        return self.end not in ("", "discarded")

    @property
    def span(self) -> Span:
        """When it was played [s]."""
        return self.begin_s, self.end_s or max([self.begin_s, *self.step_s])


def episodes_of(facts: Iterable[dict[str, Any]]) -> list[Played]:
    """The episodes in what one program told, in order."""
    found: list[Played] = []
    for fact in facts:
        if fact["what"] == "begin":
            found.append(Played(fact["t_s"]))
        elif fact["what"] == "step" and found:
            found[-1].step_s.append(fact["t_s"])
            found[-1].actions.append(fact["action"])
            found[-1].helped.append(fact["helped"])
        elif fact["what"] == "end" and found and not found[-1].end:
            found[-1].number, found[-1].end, found[-1].end_s = fact["number"], fact["end"], fact["t_s"]
    return found


def judge_store(
    folder: Path,
    told: Sequence[Played],
    frame_wrong: Callable[[U8, float], str],
    trace: Trace,
) -> tuple[Found, int]:
    """What is wrong with the stored episodes of `folder`, and how many finished steps are lost.

    told: every episode played into it. frame_wrong(image, step time): why a frame must not be stored.
    """
    try:
        stored = {info.number: info for info in scan_episodes(folder)}
    except EpisodeFileError as error:  # two files of one episode
        return [(0.0, str(error))], 0
    found, lost = [], 0
    for played in told:
        info = stored.get(played.number) if played.end else None
        if played.finished and info is None:
            lost += len(played.step_s)
            found.append((played.end_s, f"episode {played.number} was finished and is not stored"))
        if played.end == "discarded" and info is not None:
            found.append((played.end_s, f"episode {played.number} was discarded and is stored"))
    finished = {played.number: played for played in told if played.finished}
    for number, info in stored.items():
        try:
            episode = load_episode(info.path)
        except EpisodeFileError as error:
            found.append((0.0, str(error)))
            continue
        # One that was killed before it could tell of an episode has it on disk all the same.
        if number in finished:
            found += judge_episode(episode, finished[number], frame_wrong, trace)
    return found, lost


def judge_episode(
    episode: Episode, played: Played, frame_wrong: Callable[[U8, float], str], trace: Trace
) -> Found:
    """What of a stored episode is not what was played."""
    name, end_s = f"episode {episode.number}", played.end_s
    if len(episode) != len(played.step_s) or episode.end.value != played.end:
        told = f"{len(played.step_s)} steps, {played.end}"
        return [(end_s, f"{name} has {len(episode)} steps, {episode.end.value}; played were {told}")]
    found: Found = []
    if not np.array_equal(episode.action, np.array(played.actions, np.float32)):
        found.append((end_s, f"{name}: stored actions are not the ones that were played"))
    if episode.intervention.tolist() != played.helped:
        found.append((end_s, f"{name}: stored interventions are not the ones that were played"))
    times = [played.begin_s, *played.step_s]
    for images in episode.images.values():
        wrong = [(t_s, frame_wrong(image, t_s)) for image, t_s in zip(images, times, strict=True)]
        found += [(t_s, f"{name}: {why}") for t_s, why in wrong if why][:1]
    for state, t_s in zip(episode.state, times, strict=True):
        seen = trace.between(t_s - STATE_AGE_S, t_s).q_rad
        off = np.abs(seen - state[:6]).min(axis=0).max() if len(seen) else np.inf
        if off > STATE_RAD:
            found.append((t_s, f"{name}: a stored pose is {off:.3f} rad from every real one"))
            break
    return found


def frame_judge(
    taken_s: Sequence[float], read: Callable[[U8], tuple[int, int]], trace: Trace
) -> Callable[[U8, float], str]:
    """Why a policy image must not be stored, "" where it may: torn, without its number, or stale.

    taken_s: when each numbered picture was taken. read: the numbers at its top and bottom. trace: tells when
    the twin kept real time.
    """
    stalls_s = trace.t_s[~in_time(trace)]

    def wrong(image: U8, t_s: float) -> str:
        top, bottom = read(image)
        if top != bottom:
            return f"a torn frame is stored (top of picture {top}, bottom of picture {bottom})"
        if not 0 <= top < len(taken_s):
            return "a frame without its number is stored: flat, or not of this camera"
        age_s = t_s - taken_s[top]
        begin, end = np.searchsorted(stalls_s, [taken_s[top], t_s])
        allowed_s = STALLED_AGE_S if end > begin else FRAME_AGE_S
        return f"a frame {age_s:.2f} s old is stored" if age_s > allowed_s else ""

    return wrong
