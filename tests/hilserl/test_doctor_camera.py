"""The doctor's look at the pictures: green on a healthy twin, and each planted fault found by its name."""

import dataclasses
import os
import threading
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hilserl.body import ManualScene
from hilserl.config import CameraConfig, Config, CropConfig, RobotConfig, SuccessConfig, TaskConfig
from hilserl.config_loading import load_config
from hilserl.demo import record_demonstrations
from hilserl.doctor import camera, demonstrations, golden, scene
from hilserl.doctor.checks import CHECKS
from hilserl.doctor.context import Context
from hilserl.doctor.findings import Finding, Status
from hilserl.doctor.preflight import run_checks
from hilserl.env import STATE_NAMES, policy_image
from hilserl.recording_files import Recording
from hilserl.vision import Trunk
from robot.devices import CameraDevice
from robot.errors import CameraError
from robot.timing import SimClock
from robot.twin.camera_server import CameraServer
from robot.twin.faults import CameraFault, Faults
from robot.twin.lockstep import LockstepCamera
from robot.types import Frame
from tests.fakes.classifiers import ALWAYS, NEVER, save_classifier
from tests.fakes.recordings import CAMERA, CONFIG, small_config
from tests.fakes.takes import random_take, record

torch.set_num_threads(1)
TRUNK = "--policy.vision_encoder_name=random:16:0"
MINE = [one for one in CHECKS if one.run.__module__.endswith((".camera", ".scene", ".golden"))]


def quiet(_: str) -> None:
    pass


def ignored(_: Finding) -> None:
    pass


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory) -> Config:
    """The twin's lift task, with four demonstrations."""
    folder = tmp_path_factory.mktemp("demos")
    config = load_config(CONFIG, [TRUNK, f"--output_dir={folder / 'outputs'}"])
    record_demonstrations(config, folder / "played", 4)
    return dataclasses.replace(config, demos=(str(folder / "played"),))


def changed(config: Config, **changes) -> Config:
    return dataclasses.replace(config, task=dataclasses.replace(config.task, **changes))


def findings(config: Config, folder, *runs) -> dict[str, Finding]:
    """{name: finding} of these checks, of all of them where none is named."""
    checks = [one for one in MINE if not runs or one.run in runs]
    with Context(config, folder, quiet, lambda _: True) as context:
        found = run_checks(context, checks, ignored).findings
    return {one.check: one for one in found}


def lines(found: dict[str, Finding], status: Status) -> list[str]:
    return [one.line() for one in found.values() if one.status is status]


def test_a_healthy_twin_is_green_and_its_pictures_are_shown(demonstrated, tmp_path):
    found = findings(demonstrated, tmp_path)
    assert not lines(found, Status.FAIL) and not lines(found, Status.WARN)
    skipped = {name for name, one in found.items() if one.status is Status.SKIPPED}
    assert skipped == {"camera_bound", "reward_classifier"}
    names = "crop size rate age flat stuck torn follows view place brightness colour footprint"
    assert {f"{CAMERA}_{name}" for name in names.split()} <= found.keys() - skipped
    assert {"golden_frame", "golden_stored", "reset_pose_live"} <= found.keys() - skipped
    for name in ("view", "footprint", "place"):
        for picture in found[f"{CAMERA}_{name}"].pictures:
            assert cv2.imdecode(np.frombuffer(picture.png, np.uint8), cv2.IMREAD_COLOR) is not None


def drifted(**drift):
    return lambda config: changed(config, scene=dataclasses.replace(config.task.scene, **drift))


def aside(config: Config) -> Config:
    """The crop is a corner of the picture."""
    return changed(config, crop_params_dict={CAMERA: CropConfig(0, 400, 240, 240)})


@pytest.mark.parametrize(
    ("change", "run", "name"),
    [
        (drifted(camera_turn=np.radians(-4.0)), scene.references, "place"),
        (drifted(light=0.6), scene.references, "brightness"),
        (drifted(cube_center_xy=(0.25, 0.15), cube_range_xy=0.05), scene.footprint, "footprint"),
        (aside, scene.footprint, "footprint"),
    ],
    ids=["turned", "dark", "object aside", "crop aside"],
)
def test_another_scene_is_found(demonstrated, tmp_path, change, run, name):
    found = findings(change(demonstrated), tmp_path, run)
    assert found[f"{CAMERA}_{name}"].status is Status.FAIL


def test_the_turn_is_told_with_its_way(demonstrated, tmp_path):
    found = findings(drifted(camera_turn=np.radians(4.0))(demonstrated), tmp_path, scene.references)
    told = found[f"{CAMERA}_place"]
    assert 3.0 < float(told.value.split()[1]) < 5.0
    assert "counter-clockwise" in told.advice


def test_another_reset_pose_is_found(demonstrated, tmp_path):
    x, y, z = demonstrated.task.reset_xyz
    higher = changed(demonstrated, reset_xyz=(x, y, z + 0.03))
    with Context(higher, tmp_path, quiet, bool) as context:
        # the arm misses by 3 cm, and does not know
        seen = scene.looked(context)
        missed = dataclasses.replace(seen, target_m=seen.target_m - [0.0, 0.0, 0.03])
        context.seen = missed
        found = {one.check: one for one in scene.references(context)}
    assert found["reset_pose_live"].status is Status.FAIL


def test_recordings_that_cannot_be_read_are_named_and_the_others_compared(demonstrated, tmp_path):
    (tmp_path / "empty").mkdir()
    both = dataclasses.replace(demonstrated, demos=(str(tmp_path / "empty"), *demonstrated.demos))
    found = findings(both, tmp_path, scene.references)
    assert str(tmp_path / "empty") in found["camera_reference"].value
    assert found[f"{CAMERA}_place"].status is Status.OK


def test_without_recordings_there_is_nothing_to_compare_with(demonstrated, tmp_path):
    none = dataclasses.replace(demonstrated, demos=())
    found = findings(none, tmp_path, scene.references, golden.stored)
    assert {one.status for one in found.values()} == {Status.SKIPPED} and len(found) == 2


CROPS = {
    "squashed": (CropConfig(0, 0, 480, 640), Status.FAIL),
    "squashed a little": (CropConfig(0, 80, 480, 500), Status.FAIL),
    "small": (CropConfig(0, 0, 100, 100), Status.WARN),
    "right": (CropConfig(20, 30, 400, 400), Status.OK),
}


@pytest.mark.parametrize("case", CROPS)
def test_a_squashed_or_small_crop_is_found(demonstrated, tmp_path, case):
    crop, status = CROPS[case]
    wrong = changed(demonstrated, crop_params_dict={CAMERA: crop})
    assert findings(wrong, tmp_path, camera.crop)[f"{CAMERA}_crop"].status is status


def test_a_crop_that_shows_nothing_is_found(demonstrated, tmp_path, monkeypatch):
    right = LockstepCamera.latest

    def covered(self) -> Frame:
        frame = right(self)
        rgb = frame.rgb.copy()
        rgb[:, 80:560] = 90
        return dataclasses.replace(frame, rgb=rgb)

    monkeypatch.setattr(LockstepCamera, "latest", covered)
    assert findings(demonstrated, tmp_path, scene.view)[f"{CAMERA}_view"].status is Status.FAIL


# --- what comes from the camera ----------------------------------------------------------------------------


def frozen(right):
    first = []

    def latest(self) -> Frame:
        first.append(right(self))
        return dataclasses.replace(first[-1], rgb=first[0].rgb)

    return latest


def black(right):
    def latest(self) -> Frame:
        frame = right(self)
        return dataclasses.replace(frame, rgb=np.zeros_like(frame.rgb))

    return latest


def of_another_arm(right):
    """A picture that only flickers."""
    rng, first = np.random.default_rng(0), []

    def latest(self) -> Frame:
        first.append(right(self))
        noisy = first[0].rgb.astype(np.int16) + rng.integers(-3, 4, first[0].rgb.shape)
        return dataclasses.replace(first[-1], rgb=np.clip(noisy, 0, 255).astype(np.uint8))

    return latest


def losing(right):
    count = iter(range(10**6))

    def latest(self) -> Frame:
        if next(count) % 5 == 4:
            raise CameraError("a picture is torn")
        return right(self)

    return latest


@pytest.mark.parametrize(
    ("spoiled", "names"),
    [
        (frozen, {"stuck", "follows"}),
        (black, {"flat", "stuck", "follows"}),
        (of_another_arm, {"follows"}),
        (losing, {"torn"}),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_camera_that_shows_no_motion_is_found(demonstrated, tmp_path, monkeypatch, spoiled, names):
    monkeypatch.setattr(LockstepCamera, "latest", spoiled(LockstepCamera.latest))
    found = findings(demonstrated, tmp_path, camera.stream, camera.follows)
    red = {name for name, one in found.items() if one.status is Status.FAIL}
    assert {f"{CAMERA}_{name}" for name in names} <= red
    assert f"{CAMERA}_size" not in red


class Film:
    """A source in simulated time: noise, every `period_s`. spoil: what becomes of picture number n."""

    order = "rgb"

    def __init__(self, period_s: float = 0.03, size=(64, 48), spoil=lambda _, picture: picture) -> None:
        self.clock = SimClock(lambda _: None)
        self._period_s, self._size, self._spoil = period_s, size, spoil
        self._rng, self._count = np.random.default_rng(0), -1
        self.closed = False

    def open(self) -> None:
        pass

    def read(self) -> np.ndarray:
        self._count += 1
        self.clock.sleep_until(self.clock.now_s() + self._period_s)
        width, height = self._size
        picture = self._rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        return self._spoil(self._count, picture)

    def close(self) -> None:
        self.closed = True


TASK = TaskConfig(camera_width=64, camera_height=48)
DEVICE = CameraConfig(type="opencv", index_or_path="/dev/video0")


def film(source: Film) -> dict[str, Finding]:
    seen = camera.watch(source, source.clock, 2.0, 5.0)
    assert source.closed
    return {one.check: one for one in camera.look_at("c", seen, TASK, DEVICE)}


@given(st.floats(0.01, 0.5))
def test_rate_and_age_are_measured_against_what_a_step_needs(period_s):
    found = film(Film(period_s))
    rate = float(found["c_rate"].value.split()[0])
    assert rate == pytest.approx(1 / period_s, abs=0.06)
    assert (found["c_rate"].status is Status.FAIL) == (1 / period_s < camera.RATE_SHARE * TASK.fps)
    assert (found["c_rate"].status is Status.OK) == (1 / period_s >= camera.SLOW_SHARE * camera.DEVICE_FPS)
    assert (found["c_age"].status is Status.OK) == (period_s < DEVICE.max_age_s)


def torn(count, picture):
    if count % 10 == 9:
        raise CameraError("not a JPEG")
    return picture


def lost(count, picture):
    raise CameraError("unplugged")


LONG = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
"""Something to look at, that flickers a little."""


def sideways(count, picture):
    seen = np.clip(LONG.astype(int) + picture // 32, 0, 255).astype(np.uint8)
    if count % 20 == 19:
        seen[24:] = np.roll(seen[24:], 21, axis=1)
    return seen


FILMS = {
    "well": (Film(), set()),
    "size": (Film(size=(80, 60)), {"size"}),
    "black": (Film(spoil=lambda _, p: p * 0), {"flat", "stuck"}),
    "stuck": (Film(spoil=lambda n, p: p * 0 + np.arange(64, dtype=np.uint8)[:, None]), {"stuck"}),
    "torn": (Film(spoil=torn), {"torn"}),
    "lacks a line": (Film(spoil=sideways), {"torn"}),
    "none": (Film(spoil=lost), {"opens"}),
    "hangs once": (Film(period_s=0.3), {"rate", "age"}),
}


@pytest.mark.parametrize("case", FILMS)
def test_what_a_device_delivers_is_judged_by_name(case):
    source, names = FILMS[case]
    found = film(source)
    assert {name for name, one in found.items() if one.status is Status.FAIL} == {f"c_{n}" for n in names}


def test_pictures_black_while_the_exposure_settles_are_forgiven():
    found = film(Film(spoil=lambda n, p: p * 0 if n < 10 else p))
    assert {one.status for one in found.values()} == {Status.OK}


@contextmanager
def streaming(faults: Faults):
    """A camera stream as the wire-level twin's, of noise; gives its port."""
    server, stop = CameraServer(CAMERA, faults), threading.Event()
    rng = np.random.default_rng(0)

    def offer() -> None:
        while not stop.wait(0.03):
            server.offer(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))

    thread = threading.Thread(target=offer)
    thread.start()
    try:
        yield server.port
    finally:
        stop.set()
        thread.join()
        server.close()


def real(config: Config, task: TaskConfig, port: int) -> Config:
    cameras = {CAMERA: CameraConfig(type="zmq", port=port)}
    return dataclasses.replace(config, task=task, robot=RobotConfig(type="so101"), cameras=cameras)


def test_a_real_stream_is_looked_at_without_its_arm(demonstrated, tmp_path):
    faults = Faults()
    with streaming(faults) as port:
        config = real(demonstrated, TASK, port)
        found = findings(config, tmp_path, camera.bound, camera.stream)
        assert not lines(found, Status.FAIL), found
        faults.camera = CameraFault.BLACK
        assert findings(config, tmp_path, camera.stream)[f"{CAMERA}_flat"].status is Status.FAIL


def test_a_camera_that_is_away_is_said_to_be(demonstrated, tmp_path, monkeypatch):
    monkeypatch.setattr(camera, "START_S", 0.2)
    found = findings(real(demonstrated, TASK, 1), tmp_path, camera.stream)
    assert found[f"{CAMERA}_opens"].status is Status.FAIL


# --- which camera it is ------------------------------------------------------------------------------------

THERE = [
    CameraDevice("/dev/video0", ("usb-Maker_A_1",), ("pci-usb-0:1",)),
    CameraDevice("/dev/video2", ("usb-Maker_B_2",), ("pci-usb-0:2",)),
]
BINDINGS = {
    "by name": (("id:usb-Maker_A_1",), "", Status.OK),
    "by number": (("0",), "", Status.WARN),
    "by device": (("/dev/video2",), "", Status.WARN),
    "away": (("id:usb-Maker_C_3",), "", Status.FAIL),
    "the record's": (("id:usb-Maker_A_1",), "usb-Maker_A_1", Status.OK),
    "the record's, by its port": (("id:usb-Maker_A_1",), "pci-usb-0:1", Status.OK),
    "another than the record's": (("id:usb-Maker_B_2",), "usb-Maker_A_1", Status.FAIL),
    "one for two": (("id:usb-Maker_A_1", "0"), "", Status.FAIL),
    "two": (("id:usb-Maker_A_1", "id:usb-Maker_B_2"), "", Status.OK),
}


@pytest.mark.parametrize("case", BINDINGS)
def test_a_camera_is_bound_by_what_it_is(demonstrated, tmp_path, monkeypatch, case):
    addresses, identity, status = BINDINGS[case]
    monkeypatch.setattr("robot.devices.camera_devices", lambda: THERE)
    monkeypatch.setattr(camera, "camera_devices", lambda: THERE)
    monkeypatch.setattr(os.path, "realpath", str)
    cameras = {f"c{i}": CameraConfig("opencv", index_or_path=one) for i, one in enumerate(addresses)}
    config = changed(demonstrated, camera_ids=dict.fromkeys(cameras, identity))
    config = dataclasses.replace(config, cameras=cameras, robot=RobotConfig(type="so101"))
    with Context(config, tmp_path, quiet, bool) as context:
        found = camera.bound(context)
    assert found[-1].status is status, found[-1].line()
    if status is Status.WARN:
        assert "usb-Maker" in found[-1].advice


# --- the golden frame --------------------------------------------------------------------------------------


def moved_crop(frame, crop, size):
    return policy_image(frame, dataclasses.replace(crop, left=crop.left + 1), size)


def other_channels(frame, crop, size):
    return np.ascontiguousarray(policy_image(frame, crop, size)[..., ::-1])


@pytest.mark.parametrize("second", [moved_crop, other_channels])
def test_a_second_home_of_crop_or_resize_is_found(demonstrated, tmp_path, monkeypatch, second):
    monkeypatch.setattr("hilserl.env.policy_image", second)
    found = findings(demonstrated, tmp_path, golden.live)
    assert found["golden_frame"].status is Status.FAIL
    for place in ("replay", "training", "actor", "inference"):
        assert place in found["golden_frame"].value


def test_pictures_scaled_twice_are_found(demonstrated, tmp_path, monkeypatch):
    right = Trunk.forward
    monkeypatch.setattr(Trunk, "forward", lambda trunk, images: right(trunk, images // 255))
    found = findings(demonstrated, tmp_path, golden.live, golden.stored)
    assert {one.status for one in found.values()} == {Status.FAIL}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Config:
    """A recorded dataset of the small task; its classifier is of random weights."""
    folder, config = tmp_path_factory.mktemp("recorded"), small_config()
    config = changed(config, success=SuccessConfig(kind="classifier"))
    config = dataclasses.replace(
        config,
        policy=dataclasses.replace(config.policy, vision_encoder_name="random:16:0"),
        classifier=dataclasses.replace(
            config.classifier, model=str(folder / "best"), datasets=(str(folder / "set"),)
        ),
        output_dir=str(folder / "outputs"),
    )
    with Recording.create(folder / "set", config.task) as recording:
        take = random_take(config.task, 0, 4)
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (len(take) + 1, 15, 20, 3), dtype=np.uint8)
        frames = [cv2.resize(one, (160, 120), interpolation=cv2.INTER_CUBIC) for one in coarse]
        take = dataclasses.replace(take, frames={CAMERA: frames})
        recording.append(take, record(take, config.task))
    save_classifier(folder / "best", config)
    return config


def test_a_dataset_read_otherwise_than_defined_is_found(recorded, tmp_path, monkeypatch):
    assert findings(recorded, tmp_path, golden.stored)["golden_stored"].status is Status.OK
    monkeypatch.setattr("hilserl.dataset_video.policy_image", moved_crop)
    assert findings(recorded, tmp_path, golden.stored)["golden_stored"].status is Status.FAIL


def test_the_preview_is_looked_at_where_a_classifier_judges(recorded, tmp_path, monkeypatch):
    found = findings(recorded, tmp_path, golden.live)["golden_frame"]
    assert found.status is Status.OK and "preview" in found.value
    monkeypatch.setattr("hilserl.pages.preview_live.policy_image", moved_crop)
    found = findings(recorded, tmp_path, golden.live)["golden_frame"]
    assert found.status is Status.FAIL and "preview" in found.value and "actor" not in found.value


# --- the classifier ----------------------------------------------------------------------------------------


def with_model(config: Config, folder, **how) -> Config:
    model = save_classifier(folder / "model", config, **how)
    return dataclasses.replace(config, classifier=dataclasses.replace(config.classifier, model=str(model)))


CLASSIFIERS = {
    "well": ({"decision": NEVER}, lambda config: config, set()),
    "calls success": ({"decision": ALWAYS}, lambda config: config, {"classifier_scene"}),
    "other light": ({"look": (200.0, 255.0)}, lambda config: config, {"classifier_light"}),
    "untrusted": ({"trusted": False}, lambda config: config, {"classifier_fits"}),
    "other task": ({}, lambda config: changed(config, reset_gripper=0.5), {"classifier_fits"}),
    "other encoder": (
        {},
        lambda config: dataclasses.replace(
            config, policy=dataclasses.replace(config.policy, vision_encoder_name="random:16:1")
        ),
        {"classifier_fits"},
    ),
}


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_a_classifier_that_must_not_judge_is_found(recorded, tmp_path, case):
    how, change, red = CLASSIFIERS[case]
    config = change(with_model(recorded, tmp_path, **how))
    found = findings(config, tmp_path, scene.classifier)
    assert {name for name, one in found.items() if one.status is Status.FAIL} == red
    if case == "other task":
        assert "reset_gripper" in found["classifier_fits"].value


def test_without_a_classifier_the_check_is_skipped_and_says_why(demonstrated, recorded, tmp_path):
    assert "oracle" in findings(demonstrated, tmp_path, scene.classifier)["reward_classifier"].value
    none = dataclasses.replace(recorded, classifier=dataclasses.replace(recorded.classifier, model=""))
    found = findings(none, tmp_path, scene.classifier)["reward_classifier"]
    assert found.status is Status.SKIPPED and "classifier train" in found.value


# --- beside the pictures -----------------------------------------------------------------------------------


def test_one_degenerate_number_makes_the_policy_blind_to_all_others(demonstrated, tmp_path, monkeypatch):
    """Field report, H1: at the mean of the data nothing shows of it."""
    right, pitch = demonstrations.state_statistics, STATE_NAMES.index("ee_euler.y_rad")

    def typed_in(states, names):
        mean, spread = right(states, names)
        mean[pitch], spread[pitch] = 0.5, 1e-8  # as if this one had never moved
        return mean, spread

    with Context(demonstrated, tmp_path, quiet, bool) as context:
        well = {one.check: one for one in demonstrations.inputs(context)}
        monkeypatch.setattr(demonstrations, "state_statistics", typed_in)
        monkeypatch.setattr("hilserl.networks.DEGENERATE_STD", 1e-9)
        blind = {one.check: one for one in demonstrations.inputs(context)}
    assert well["state_reaches_policy"].status is Status.OK
    assert blind["state_reaches_policy"].status is Status.FAIL
    assert "joint_pos.shoulder_pan_rad" in blind["state_reaches_policy"].value


def test_nobody_is_asked_to_place_an_object_where_no_time_is_given():
    said: list[str] = []
    clock = SimClock(lambda _: None)
    ManualScene(clock, 0.0, said.append).arrange(0)
    assert not said and clock.now_s() == 0.0
    ManualScene(clock, 2.0, said.append).arrange(0)
    assert len(said) == 1 and clock.now_s() == pytest.approx(2.0)
