"""Checks of the cameras by themselves: which ones they are, and what they deliver. No torque comes on.

Only the lock-step twin's camera belongs to its body; it is looked at through it. What is measured of a real
one is its source, before anything hides a bad picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from hilserl.body import camera_source
from hilserl.config import CameraConfig, TaskConfig
from hilserl.doctor.context import Context, Missing
from hilserl.doctor.findings import Finding, Status, judged
from hilserl.types import ACTION_SIZE
from robot.camera import CameraOptions, Source
from robot.camera_sources import DEVICE_FPS
from robot.devices import ID, camera_devices, resolve_camera
from robot.errors import CameraError, DeviceError
from robot.tearing import TearWatch
from robot.timing import RealClock
from robot.types import U8, Clock

SEED = 81_000_000
"""Where the seeds of the camera checks' resets start."""
WATCH_S = 2.0
START_S = 5.0
"""Longest wait for the first picture, as in `CameraOptions`: drivers open slowly."""
MAX_FAULTS = 3
RATE_SHARE = 0.98
SLOW_SHARE = 0.8
"""A device that gives fewer of the pictures it was asked for lengthens its exposure, or lacks bandwidth."""
SQUASHED = 0.02
"""Difference of the crop's proportions from the policy image's: 2.5 pixels of 128."""
STEPS, STILL_STEPS = 12, 4
REPEATED_SHARE = 0.2
MIN_CHANGE = 1.0
"""Of 255: by so much more than at rest, where only noise does it, a picture changes in a step of motion."""
FLAT_STD, STUCK_FRAMES = CameraOptions().flat_std, CameraOptions().stuck_frames


@dataclass(slots=True)
class Watched:
    """What a camera gave for a while.

    pictures: as it gave them. stamps_s: when each came. ages_s: how old the newest was, whenever that was
    looked at or at its oldest. faults: pictures that did not come, or came damaged, in words.
    """

    pictures: list[U8] = field(default_factory=list)
    stamps_s: list[float] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def bound(context: Context) -> list[Finding]:
    """Each camera is named by what it is, and is the one of the task record."""
    if context.twin:
        raise Missing("the lock-step twin renders its pictures, there is no device to find")
    taken: dict[str, str] = {}
    findings = []
    for name, camera in context.config.cameras.items():
        status, value, advice = _binding(name, camera, context.config.task.camera_ids[name], taken)
        findings.append(Finding(f"{name}_bound", status, value, "named by what it is, not by number", advice))
    return findings


def _binding(
    name: str, camera: CameraConfig, identity: str, taken: dict[str, str]
) -> tuple[Status, str, str]:
    """Status, value, advice. identity: of the task record. taken: {device: camera} so far, added to."""
    if camera.type == "zmq":
        return Status.OK, f"stream {name!r} of {camera.server_address}:{camera.port}", ""
    address, key = camera.index_or_path, f"cameras.{name}.index_or_path"
    try:
        device = _device(address)
        wanted = _device(identity if identity.startswith("/") else ID + identity) if identity else device
    except DeviceError as error:
        return Status.FAIL, str(error), "plug it in, or name one that there is"
    if device in taken:
        value = f"{address} is the camera {taken[device]!r} already"
        return Status.FAIL, value, f"give {key} a camera of its own"
    taken[device] = name
    if device != wanted:
        value = f"{address} is {device}; the task record's camera ({identity}) is {wanted}"
        return Status.FAIL, value, f"set {key} to {ID}{identity}, or the cameras have changed places"
    if address.startswith(ID):
        return Status.OK, f"{address} is {device}", ""
    names = [str(one) for one in camera_devices() if one.device == device]
    advice = f"numbers change when cables are pulled: set {key} to one of {names or 'its lasting names'}"
    return Status.WARN, f"{address}, by number", advice


def _device(address: str) -> str:
    found = resolve_camera(address)
    return os.path.realpath(f"/dev/video{found}" if found.isdigit() else found)


def crop(context: Context) -> list[Finding]:
    """The crop keeps the picture's proportions, and holds the pixels that the policy's picture needs."""
    task, findings = context.config.task, []
    height, width = task.resize_size
    for name, part in task.crop_params_dict.items():
        squash = (part.width / part.height) / (width / height)
        small = part.width < width or part.height < height
        value = f"{part.width}x{part.height} of {task.camera_width}x{task.camera_height} pixels, shrunk to "
        value += f"{width}x{height}; {_proportion(squash)}"
        status = Status.FAIL if abs(squash - 1) > SQUASHED else Status.WARN if small else Status.OK
        advice = (
            f"set task.crop_params_dict.{name} to the proportions of task.resize_size: what is round must "
            "look round, and an encoder trained on such pictures must see it so"
            if status is Status.FAIL
            else "it is enlarged, which adds no detail: crop less, or let the camera give larger pictures"
        )
        limit = f"proportions within {SQUASHED:.0%}, at least {width}x{height} pixels"
        findings.append(Finding(f"{name}_crop", status, value, limit, advice))
    return findings


def _proportion(squash: float) -> str:
    if abs(squash - 1) <= SQUASHED:
        return "proportions are kept"
    return f"squashed {max(squash, 1 / squash):.2f} times {'across' if squash > 1 else 'downwards'}"


def stream(context: Context) -> list[Finding]:
    """Size, rate, age, and whether pictures are flat, stuck or damaged."""
    config = context.config
    found: list[Finding] = []
    for name, camera in config.cameras.items():
        if context.twin:
            found += look_at(name, moving(context, name)[1], config.task, camera)
            continue
        source = camera_source(name, camera, (config.task.camera_width, config.task.camera_height))
        seen = watch(source, RealClock(), WATCH_S, START_S)
        found += look_at(name, seen, config.task, camera)
    return found


def watch(source: Source, clock: Clock, seconds: float, start_s: float) -> Watched:
    """Open a source and take every picture it gives for so long, after the first. It is closed again."""
    seen = Watched()
    end_s = clock.now_s() + start_s
    try:
        source.open()
        while clock.now_s() < end_s and len(seen.faults) < MAX_FAULTS:
            try:
                picture = source.read()
            except CameraError as error:
                seen.faults.append(str(error))
                continue
            if not seen.pictures:
                end_s = clock.now_s() + seconds
            seen.pictures.append(picture)
            seen.stamps_s.append(clock.now_s())
    except CameraError as error:
        seen.faults.append(str(error))
    finally:
        source.close()
    seen.ages_s = list(np.diff(seen.stamps_s))
    return seen


def moving(context: Context, name: str) -> tuple[Watched, Watched]:
    """What a camera shows in each step at rest, and then of a small motion to and fro."""
    env = context.body().env
    env.reset(SEED)
    both = []
    for steps, way in ((STILL_STEPS, 0.0), (STEPS, 0.5)):
        seen = Watched()
        for step in range(steps):
            action = np.zeros(ACTION_SIZE, np.float32)
            action[0] = way if step % 6 < 3 else -way
            try:
                env.step(action)
            except CameraError as error:
                seen.faults.append(str(error))
                continue
            frame = env.frames[name]
            seen.pictures.append(frame.rgb)
            seen.stamps_s.append(frame.stamp_s)
            seen.ages_s.append(max(0.0, env.state.stamp_s - frame.stamp_s))
        both.append(seen)
    return both[0], both[1]


def look_at(name: str, seen: Watched, task: TaskConfig, camera: CameraConfig) -> Iterator[Finding]:
    """Findings on what camera `name` gave."""
    if not seen.pictures:
        value = "; ".join(dict.fromkeys(seen.faults)) or "no picture came"
        yield judged(f"{name}_opens", False, value, "pictures come", "plug it in again; end other programs")
        return
    tears = TearWatch()
    lines = sum(tears.update(*one) for one in zip(seen.pictures, seen.stamps_s, strict=True))
    damage = "".join(f"; {one}" for one in dict.fromkeys(seen.faults))
    yield judged(
        f"{name}_torn",
        not seen.faults and not lines,
        f"of {len(seen.faults) + len(seen.pictures)} pictures {len(seen.faults)} came damaged or not at all, "
        f"{lines} lack a line{damage}",
        "none",
        "each costs an episode: another cable or USB port, a smaller picture, a nearer server",
    )
    sizes = sorted({f"{one.shape[1]}x{one.shape[0]}" for one in seen.pictures})
    wanted = f"{task.camera_width}x{task.camera_height}"
    advice = "set task.camera_width and camera_height (and the crop with them) to what the camera can give"
    yield judged(f"{name}_size", sizes == [wanted], f"{', '.join(sizes)} pixels", wanted, advice)
    yield _rate(name, seen, task, camera)
    advice = "the camera hangs for a moment now and then: end other programs, try another USB port"
    age, limit = 1000 * max(seen.ages_s, default=0.0), 1000 * camera.max_age_s
    value = f"the newest picture is at most {age:.0f} ms old"
    yield judged(f"{name}_age", bool(seen.ages_s) and age < limit, value, f"{limit:.0f} ms", advice)
    settled = seen.pictures[len(seen.pictures) // 2 :]  # the exposure settles
    contrast = min(float(one[::4, ::4].std()) for one in settled)
    advice = "covered, dark, or not delivering: take the cap off, switch the lamp on, plug it in again"
    value = f"grey levels deviate by {contrast:.1f} of 255"
    yield judged(f"{name}_flat", contrast >= FLAT_STD, value, f"at least {FLAT_STD:g}", advice)
    yield _stuck(name, seen.pictures)


def _rate(name: str, seen: Watched, task: TaskConfig, camera: CameraConfig) -> Finding:
    asked = DEVICE_FPS if camera.type == "opencv" else task.fps
    lasted = seen.stamps_s[-1] - seen.stamps_s[0]
    rate = (len(seen.pictures) - 1) / lasted if lasted > 0 else 0.0
    status = Status.OK if rate >= SLOW_SHARE * asked else Status.WARN
    return Finding(
        f"{name}_rate",
        status if rate >= RATE_SHARE * task.fps else Status.FAIL,
        f"{rate:.1f} pictures/s" + (f", asked for {asked:g}" if camera.type == "opencv" else ""),
        f"at least one for each of {task.fps:g} steps/s",
        "more light (a dark picture is exposed longer), another USB port, a smaller picture",
    )


def _stuck(name: str, pictures: Sequence[U8]) -> Finding:
    """Longest run of identical pictures."""
    run = longest = 1
    for one, other in zip(pictures, pictures[1:], strict=False):
        run = run + 1 if np.array_equal(one, other) else 1
        longest = max(longest, run)
    good = longest < min(STUCK_FRAMES, max(2, len(pictures)))
    advice = "a sensor's pictures are never the same twice: plug the camera in again"
    value = f"at most {longest} identical in a row, of {len(pictures)}"
    return judged(f"{name}_stuck", good, value, f"fewer than {STUCK_FRAMES}", advice)


def follows(context: Context) -> list[Finding]:
    """While the arm moves its pictures change, and more than they do at rest."""
    findings = []
    limit = f"at most {REPEATED_SHARE:.0%} repeat, and {MIN_CHANGE:g} of 255 more than at rest"
    advice = "the stream is frozen, or it is another arm's camera: plug it in again, check its address"
    for name in context.config.cameras:
        rest, motion = moving(context, name)
        changes = _changes(motion.pictures)
        if not changes:
            value = "; ".join(dict.fromkeys(motion.faults))
            findings.append(judged(f"{name}_follows", False, value, limit, advice))
            continue
        same = sum(change == 0 for change in changes)
        noise, change = float(np.mean(_changes(rest.pictures) or [0.0])), float(np.mean(changes))
        findings.append(
            judged(
                f"{name}_follows",
                same <= REPEATED_SHARE * len(changes) and change >= noise + MIN_CHANGE,
                f"{same} of {len(changes)} pictures repeat the last while the arm moves; they change by "
                f"{change:.1f} of 255 a step, at rest by {noise:.1f}",
                limit,
                advice,
            )
        )
    return findings


def _changes(pictures: Sequence[U8]) -> list[float]:
    """Mean difference, of 255, of each picture to the one before."""
    pairs = zip(pictures, pictures[1:], strict=False)
    return [float(np.abs(one.astype(np.int16) - other).mean()) for one, other in pairs]
