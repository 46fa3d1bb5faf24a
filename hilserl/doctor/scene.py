"""Checks of what the cameras show after a reset: against the recorded data, the task, and the classifier."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import NDArray

from hilserl.config import CropConfig, TaskConfig
from hilserl.dataset_fit_live import (
    RESETS,
    SEED,
    Starts,
    as_policy_images,
    compare,
    recorded_task,
    starts_now,
    starts_of_episodes,
    starts_of_set,
)
from hilserl.dataset_import import import_for
from hilserl.dataset_schema import TASK_RECORD, DatasetError, is_dataset
from hilserl.doctor.camera import FLAT_STD
from hilserl.doctor.context import Context, Missing
from hilserl.doctor.findings import Finding, Picture, Status, judged
from hilserl.env import policy_image, reset_posture, reset_target
from hilserl.episode import EpisodeFileError
from hilserl.pages.preview_shown import png
from hilserl.recording_record import RecordingError
from hilserl.task_record import TaskMismatch
from robot.kinematics import F64, Kinematics, working_limits
from robot.pinhole import Pinhole
from robot.types import U8

PLACES = 9
"""Places of the object along each side of its area that are looked at."""
STARTS = 40
SEEN_SHARE = 0.99
"""Of the places, over random starts: what is left may be found by moving."""
SHOWN_PX = 200
"""Height of pictures that lie side by side on the page."""
LINE = (255, 160, 0)
_INK, _AREA, _SEEN = "#1c2430", "#c0392b", "#1a7f4b"


def looked(context: Context) -> Starts:
    """What the cameras show after resets, looked at once."""
    if context.seen is None:
        count = RESETS if context.twin else 1
        context.seen = starts_now(context.body().env, context.config.task, count)
    return context.seen


def references(context: Context) -> list[Finding]:
    """The camera is where it was when the configured data were recorded, in the same light."""
    config = context.config
    named = dict.fromkeys((*config.demos, *config.classifier.datasets))
    if not named:
        raise Missing("neither demos nor classifier.datasets name recordings to compare the pictures with")
    now, found = looked(context), []
    for name in named:
        try:
            then, seen = _recorded(context, Path(name), now)
        except (DatasetError, EpisodeFileError, RecordingError, TaskMismatch) as error:
            found.append(judged("camera_reference", False, f"{name}: {error}", "can be read", "record again"))
            continue
        found += [replace(one, value=f"{one.value} [{name}]") for one in compare(then, seen, config.task)]
    return found


def _recorded(context: Context, root: Path, now: Starts) -> tuple[Starts, Starts]:
    """What recordings begin with, and what is seen now, cropped as they are."""
    if is_dataset(root) and (root / TASK_RECORD).is_file():
        return starts_of_set(root), now
    if is_dataset(root):  # of another program
        root = import_for(context.config, root, context.say).folder
    return starts_of_episodes(root), as_policy_images(now, recorded_task(root))


def view(context: Context) -> list[Finding]:
    """What each camera sees, and what of it the policy gets."""
    task, findings = context.config.task, []
    for name, natives in looked(context).pictures.items():
        part = task.crop_params_dict[name]
        image = policy_image(natives[0], part, task.resize_size)
        contrast = float(image.std())
        share = part.width * part.height / (task.camera_width * task.camera_height)
        findings.append(
            judged(
                f"{name}_view",
                contrast >= FLAT_STD,
                f"the policy gets {share:.0%} of it; grey levels there deviate by {contrast:.1f} of 255",
                f"at least {FLAT_STD:g}",
                f"the crop shows nothing: correct task.crop_params_dict.{name}",
                pictures=(
                    Picture(
                        "what the camera sees; framed: the crop", png(_scaled(_framed(natives[0], part)))
                    ),
                    Picture("what the policy gets", png(_scaled(image))),
                ),
            )
        )
    return findings


def _framed(native: U8, part: CropConfig) -> U8:
    shown = native.copy()
    corners = (part.left, part.top), (part.left + part.width - 1, part.top + part.height - 1)
    cv2.rectangle(shown, *corners, LINE, 2)
    return shown


def _scaled(picture: U8) -> U8:
    height, width = picture.shape[:2]
    size = (round(width * SHOWN_PX / height), SHOWN_PX)
    way = cv2.INTER_AREA if height > SHOWN_PX else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, size, interpolation=way), np.uint8)


def footprint(context: Context) -> list[Finding]:
    """The object lies within what the policy sees at the start, wherever the task puts it."""
    body, task = context.body(), context.config.task
    if body.view is None:
        raise Missing(
            "where a pixel looks is known of the twin's camera only: put the object at the corners of its "
            "area and see in the preview whether each lies in the crop"
        )
    natives = looked(context).pictures  # the first reset also mounts the camera as task.scene says
    (name,) = natives
    part, kinematics = task.crop_params_dict[name], Kinematics(working_limits(body.arm.limits))

    def camera_at(hand_m: F64) -> Pinhole:
        assert body.view is not None
        return body.view(reset_posture(task, kinematics, hand_m))

    places = _places(task)
    nominal = camera_at(np.array(task.reset_xyz))
    others = [camera_at(reset_target(task, SEED + index)) for index in range(STARTS)]
    whole = float(_inside(nominal.pixels(places), part).mean())
    share = float(np.mean([_inside(one.pixels(places), part) for one in others]))
    status = Status.OK if share >= SEEN_SHARE else Status.WARN
    return [
        Finding(
            f"{name}_footprint",
            status if whole == 1 else Status.FAIL,
            f"{whole:.1%} of the object's places lie in view at the reset pose, {share:.1%} at random starts",
            f"100%, and {SEEN_SHARE:.0%} at random starts",
            "the policy cannot find what it does not see: raise task.reset_xyz, start less at random, turn "
            "the camera, crop less, or put the object into a smaller area",
            (
                Picture("the table from above: what the crop shows", _map(task, part, nominal, others)),
                Picture(
                    "framed: the crop; dots: where the object may lie",
                    png(_dotted(natives[name][0], part, camera_at(reset_target(task, SEED)), places)),
                ),
            ),
        )
    ]


def _places(task: TaskConfig) -> F64:
    """(N, 3) [m]: where the object's centre may lie."""
    scene, steps = task.scene, np.linspace(-1, 1, PLACES)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    height = np.full((len(grid), 1), (scene.cube_size_min + scene.cube_size_max) / 4)
    return np.hstack([np.array(scene.cube_center_xy) + scene.cube_range_xy * grid, height])


def _inside(pixels: F64, part: CropConfig) -> NDArray[np.bool_]:
    """Which pixels (N, 2) lie in the crop; nan does not."""
    low, high = (part.left, part.top), (part.left + part.width, part.top + part.height)
    return np.asarray(((pixels >= low) & (pixels <= high)).all(axis=1), np.bool_)


def _border(part: CropConfig) -> F64:
    """(N, 2): pixels along the crop's edge, so that what lies above the horizon can be left out."""
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]) * (part.width, part.height)
    sides = [np.linspace(one, other, 40, endpoint=False) for one, other in pairwise(corners)]
    return np.asarray(np.concatenate(sides) + (part.left, part.top), np.float64)


def _map(task: TaskConfig, part: CropConfig, nominal: Pinhole, others: list[Pinhole]) -> bytes:
    """PNG of the table seen from above, the arm at the bottom, x away from it, y to its left."""
    figure = Figure(figsize=(6.4, 5.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()

    def outline(camera: Pinhole) -> F64:
        met = camera.on_table(_border(part))
        return met[np.isfinite(met).all(axis=1)][:, ::-1]

    axes.add_patch(Polygon(outline(nominal), facecolor=_SEEN, alpha=0.18, edgecolor="none"))
    for camera in others[:8]:
        axes.add_patch(Polygon(outline(camera), fill=False, edgecolor=_SEEN, lw=0.5, alpha=0.5))
    label = "crop, at the reset pose"
    axes.add_patch(Polygon(outline(nominal), fill=False, edgecolor=_SEEN, lw=2, label=label))
    low, high = np.array(task.workspace_min), np.array(task.workspace_max)
    box = Rectangle((low[1], low[0]), high[1] - low[1], high[0] - low[0], fill=False, edgecolor=_INK, ls="--")
    box.set_label("box of the hand")
    axes.add_patch(box)
    (x, y), reach = task.scene.cube_center_xy, task.scene.cube_range_xy
    area = Rectangle((y - reach, x - reach), 2 * reach, 2 * reach, facecolor=_AREA, alpha=0.35)
    area.set_label("where the object may lie")
    axes.add_patch(area)
    axes.plot(task.reset_xyz[1], task.reset_xyz[0], "+", color=_INK, ms=12, label="hand at the reset pose")
    axes.plot(0, 0, "s", color=_INK, ms=8, label="base of the arm")
    axes.set_xlim(0.3, -0.3)
    axes.set_ylim(-0.03, 0.45)
    axes.set_aspect("equal")
    axes.set_xlabel("y [m]")
    axes.set_ylabel("x [m]")
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _dotted(native: U8, part: CropConfig, camera: Pinhole, places: F64) -> U8:
    shown = _framed(native, part)
    for right, down in camera.pixels(places):
        if np.isfinite(right):
            cv2.circle(shown, (round(right), round(down)), 3, LINE, -1, cv2.LINE_AA)
    return shown


def classifier(context: Context) -> list[Finding]:
    """The reward classifier fits the task, and sees neither success nor another light after resets."""
    config = context.config
    kind, model = config.task.success.kind, config.classifier.model
    if kind != "classifier":
        raise Missing(f'task.success.kind is "{kind}": nothing but a classifier judges pictures')
    if not model:
        raise Missing('classifier.model is "": train one (hilserl classifier train) and give its folder')
    from hilserl.classifier.model import ClassifierError, RewardClassifier
    from hilserl.vision import VisionError

    advice = "give the classifier trained for this task record and encoder, or train it again"
    try:
        judge = RewardClassifier.load(
            model,
            config.task,
            config.allow_task_difference,
            trunk=config.policy.vision_encoder_name,
            device=config.policy.device,
        )
    except (ClassifierError, TaskMismatch, VisionError) as error:
        return [judged("classifier_fits", False, str(error), "task, encoder and cameras are its own", advice)]
    seen = as_policy_images(looked(context), config.task).pictures
    moments = [dict(zip(seen, images, strict=True)) for images in zip(*seen.values(), strict=True)]
    highest = max(judge.probability(moment) for moment in moments)
    strange = [text for moment in moments if (text := judge.out_of_range(moment))]
    threshold = judge.decision.threshold
    value = f"{model} ({judge.hash[:16]}), threshold {threshold:.2f}"
    return [
        judged("classifier_fits", True, value, "task, encoder and cameras are its own", advice),
        judged(
            "classifier_scene",
            highest < threshold,
            f"probability of success at most {highest:.3f} on {len(moments)} pictures after resets",
            f"below its threshold {threshold:.2f}",
            "it calls success where nothing is done yet: record failures that look like this, train it again",
        ),
        judged(
            "classifier_light",
            not strange,
            f"{len(strange)} of {len(moments)} pictures outside{': ' + strange[0] if strange else ''}",
            "as bright as in its training",
            "set lamp, blinds and exposure back, or record episodes in this light and train it again",
        ),
    ]
