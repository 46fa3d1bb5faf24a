"""The parts of the preview: what is scored is what is shown, and every verdict is the one rule's."""

from __future__ import annotations

import json
import re
import threading
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from datetime import UTC, datetime

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.classifier.decision import Decision, success_frame
from hilserl.classifier.model import RewardClassifier
from hilserl.classifier.model_files import CONFIG_FILE, ClassifierError
from hilserl.classifier.sources import SourceError, open_source
from hilserl.config import CropConfig
from hilserl.config_loading import load_config
from hilserl.env import policy_image
from hilserl.episode import TASK_FILE, save_episode
from hilserl.labels import Label, LabelError, change_labels, labels_file
from hilserl.pages.preview_cameras import PlayedTwin, SteadyCamera
from hilserl.pages.preview_decision import BY_HAND, DecisionDesk, write_decision
from hilserl.pages.preview_live import LiveScorer
from hilserl.pages.preview_plot import HEIGHT, WIDTH, plot
from hilserl.pages.preview_recorded import RecordedPlayer, position_of
from hilserl.pages.preview_recorder import FrameRecorder
from hilserl.pages.preview_shown import Point
from hilserl.recording_files import Recording
from hilserl.task_record import task_json
from hilserl.types import End
from robot.camera import CameraOptions, CameraThread
from robot.errors import CameraError
from robot.types import Frame
from tests.fakes.browser import wait_for
from tests.fakes.camera import SIZE, FakeSource, noise
from tests.fakes.classifiers import save_classifier
from tests.fakes.episodes import short_episode
from tests.fakes.recordings import CONFIG as TWIN
from tests.fakes.recordings import small_config
from tests.fakes.takes import random_take, record

CAMERA = "gripper_cam"
WIDE, HIGH = 96, 64


def config_of(*cameras: str, fps: float = 10.0):
    """The lift task with small pictures of these cameras."""
    config = load_config(TWIN)
    task = replace(
        config.task,
        camera_width=WIDE,
        camera_height=HIGH,
        camera_ids=dict.fromkeys(cameras, ""),
        crop_params_dict={name: CropConfig(0, 8 * k, HIGH, HIGH) for k, name in enumerate(cameras)},
        resize_size=(32, 32),
        fps=fps,
    )
    return replace(config, task=task)


def slide(seed: int):
    """A picture no other seed gives, which survives JPEG and video."""
    coarse = np.random.default_rng(seed).integers(20, 236, (4, 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (WIDE, HIGH), interpolation=cv2.INTER_CUBIC), np.uint8)


def decoded(data: bytes):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def decided(folder, config, decision: Decision) -> RewardClassifier:
    """A classifier nobody trained that is sure of itself, now here, now there."""
    save_classifier(folder / "soft", config, decision)
    model = RewardClassifier.load(str(folder / "soft"), config.task)
    model.network.out.weight.mul_(4)
    return RewardClassifier(model.network, model.encoder, model.about)


class Slides:
    """A Camera: give(n) is the picture of its n-th look, or an error."""

    def __init__(self, give) -> None:
        self._give, self.looks = give, 0

    def latest(self) -> Frame:
        got = self._give(self.looks)
        self.looks += 1
        if isinstance(got, CameraError):
            raise got
        return Frame(got, time.monotonic(), self.looks - 1)

    def close(self) -> None:
        """Nothing to release."""


TWO = config_of("left", "right", fps=100.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return decided(tmp_path_factory.mktemp("two"), TWO, Decision(0.5, 2, 3))


def moments(scorer: LiveScorer, until) -> list:
    """What it showed until until(shown) is true."""
    found, number = [], 0
    end = time.monotonic() + 30.0
    while time.monotonic() < end:
        got = scorer.newest.get(number, 1.0)
        if got is not None:
            number, shown = got
            found.append(shown)
            if until(shown):
                return found
    raise AssertionError("in vain")


# --- live ----------------------------------------------------------------------------------------------


def test_what_is_scored_is_the_policy_image_of_the_frame_on_show(model, tmp_path):
    task, seeds = TWO.task, {"left": 0, "right": 1000}
    cameras = {name: Slides(lambda n, first=first: slide(first + n)) for name, first in seeds.items()}
    with LiveScorer(task, model, cameras, DecisionDesk(model.decision, None), tmp_path) as scorer:
        found = moments(scorer, lambda shown: shown.number >= 25)
    assert len({shown.number for shown in found}) == len(found) > 3
    for shown in found:
        received = {name: decoded(view.policy) for name, view in shown.views.items()}
        assert shown.probability == model.probability(received)
        for name, first in seeds.items():
            native = slide(first + shown.number - 1)
            expected = policy_image(native, task.crop_params_dict[name], task.resize_size)
            np.testing.assert_array_equal(received[name], expected)
            assert np.abs(decoded(shown.views[name].native).astype(int) - native).mean() < 4


def brute_force(points, decision: Decision):
    """(held, called) after each point, from the points alone."""
    found, run, steps = [], 0, 0
    for point in points:
        if point.probability is None:
            run, steps = 0, 0
            found.append((0, False))
            continue
        steps += 1
        run = run + 1 if point.probability >= decision.threshold else 0
        found.append((run, run >= decision.hold_frames and steps >= decision.min_frames))
    return found


def test_every_verdict_is_that_of_the_decision_in_force_from_the_start(model, tmp_path):
    """Whatever was changed meanwhile, and wherever a camera gave nothing."""
    rng = np.random.default_rng(3)
    lost = set(rng.choice(np.arange(10, 150), 4, replace=False).tolist())
    give = {"left": lambda n: CameraError("lost") if n in lost else slide(n), "right": slide}
    desk = DecisionDesk(model.decision, None)
    seen = set()

    def change(shown) -> bool:
        told = brute_force(shown.points, shown.decision)
        assert [point.called for point in shown.points] == [called for _, called in told]
        assert (shown.held, shown.called) == told[-1]
        seen.update((shown.decision, point.called) for point in shown.points)
        if shown.number % 7 == 0:
            given = [point.probability for point in shown.points if point.probability is not None]
            threshold = float(np.quantile(given, rng.uniform())) if given else 0.5
            desk.present = Decision(threshold, int(rng.integers(1, 5)), int(rng.integers(9)))
        return shown.number > 160

    cameras = {name: Slides(pictures) for name, pictures in give.items()}
    with LiveScorer(TWO.task, model, cameras, desk, tmp_path) as scorer:
        found = moments(scorer, change)
    assert len({decision for decision, _ in seen}) > 5
    assert {called for _, called in seen} == {True, False}
    errors = [shown for shown in found if shown.trouble]
    assert all(shown.trouble == "lost" and shown.probability is None for shown in errors)
    assert all(shown.views["right"].policy for shown in errors)


def test_a_new_episode_forgets_what_was_held(model, tmp_path):
    desk = DecisionDesk(Decision(1e-5, 1, 10**6), None)
    cameras = {name: Slides(slide) for name in ("left", "right")}
    with LiveScorer(TWO.task, model, cameras, desk, tmp_path) as scorer:
        moments(scorer, lambda shown: shown.held > 8)
        scorer.reset()
        after = moments(scorer, lambda shown: shown.held <= 8)[-1]
        assert len(after.points) == after.held
        moments(scorer, lambda shown: shown.held > after.held)


def test_a_broken_network_is_trouble_and_not_a_failure(model, tmp_path):
    broken = RewardClassifier(model.network, model.encoder, model.about)
    broken.probability = lambda images: float("nan")
    cameras = {name: Slides(slide) for name in ("left", "right")}
    with LiveScorer(TWO.task, broken, cameras, DecisionDesk(model.decision, None), tmp_path) as scorer:
        shown = moments(scorer, lambda shown: shown.number > 3)[-1]
    assert "nan" in shown.trouble and shown.probability is None and not shown.called


def test_a_recording_gives_the_same_probabilities_and_never_replaces_another(model, tmp_path):
    task = TWO.task
    cameras = {name: Slides(slide) for name in ("left", "right")}
    with LiveScorer(task, model, cameras, DecisionDesk(model.decision, None), tmp_path / "p") as scorer:
        for _ in range(2):
            scorer.toggle_recording()
            wait_for(lambda: scorer.recorder is not None and scorer.recorder.count > 4)
            scorer.toggle_recording()
            wait_for(lambda: scorer.recorder is None)
    folders = sorted((tmp_path / "p").iterdir())
    assert len(folders) == 2
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
        assert [line["frame"] for line in lines] == list(range(len(lines))) and len(lines) > 4
        assert lines[0]["time_s"] == 0.0 and {line["decision"]["hold_frames"] for line in lines} == {2}
        for line in lines:
            images = {}
            for name, crop in task.crop_params_dict.items():
                native = decoded((folder / name / f"{line['frame']:06d}.png").read_bytes())
                images[name] = policy_image(native, crop, task.resize_size)
            assert model.probability(images) == line["probability"]
        assert json.loads((folder / "about.json").read_text())["model_hash"] == model.hash
    now = datetime.now(UTC)
    made = [FrameRecorder.create(tmp_path / "p", now, task, model.hash).folder for _ in range(3)]
    assert len({*made, *folders}) == 5


def test_a_disk_that_takes_nothing_ends_the_recording_and_nothing_else(model, tmp_path):
    (tmp_path / "p").write_text("not a folder")
    cameras = {name: Slides(slide) for name in ("left", "right")}
    with LiveScorer(TWO.task, model, cameras, DecisionDesk(model.decision, None), tmp_path / "p") as scorer:
        scorer.toggle_recording()
        wait_for(lambda: "not recording" in scorer.message)
        assert scorer.recorder is None
        moments(scorer, lambda shown: shown.number > 5)


# --- cameras -------------------------------------------------------------------------------------------


def test_a_camera_comes_back_whenever_it_can():
    """Not there at first, there, dead for longer than its own attempts, there again."""
    state = {"up": False}
    sources = []

    def picture(n: int):
        return noise(n) if state["up"] else CameraError("unplugged")

    def opened() -> CameraThread:
        sources.append(FakeSource(picture))
        options = CameraOptions(max_age_s=5.0, start_timeout_s=0.2, attempts=2, backoff_s=0.005)
        return CameraThread(sources[-1], name="c", size=SIZE, options=options)

    def error_of() -> str:
        try:
            camera.latest()
        except CameraError as error:
            return str(error)
        return ""

    camera = SteadyCamera(opened, "c", look_s=0.01, reopen_s=0.1)
    try:
        wait_for(lambda: "unplugged" in error_of())
        state["up"] = True
        wait_for(camera.latest)
        before = len(sources)
        state["up"] = False
        wait_for(lambda: "unplugged" in error_of() and len(sources) > before)
        state["up"] = True
        wait_for(camera.latest)
    finally:
        camera.close()
    assert not any(thread.name in ("steady-c", "camera-c") for thread in threading.enumerate())
    assert all(source.closed >= source.opened for source in sources)


@pytest.mark.parametrize(("teleop", "moves"), [("scripted", True), ("gamepad", False)])
def test_the_twin_rehearses_only_where_the_operator_is_scripted(teleop, moves):
    config = small_config()
    twin = PlayedTwin(replace(config, teleop=replace(config.teleop, type=teleop)))
    try:
        wait_for(lambda: twin.latest(CAMERA).index >= 2)
        first = twin.latest(CAMERA)
        wait_for(lambda: twin.latest(CAMERA).index >= first.index + 6)
        changed = np.abs(twin.latest(CAMERA).rgb.astype(int) - first.rgb).mean()
    finally:
        twin.close()
    assert (changed > 1.0) == moves
    with pytest.raises(CameraError, match="closed"):
        twin.latest(CAMERA)


# --- the decision --------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-150, 150), st.integers(-9, 9)), max_size=12))
@settings(max_examples=50, deadline=None)
def test_keys_only_lead_to_decisions_that_can_be(moves):
    desk = DecisionDesk(Decision(0.637, 3, 5, 2), None)
    for steps, frames in moves:
        desk.move_threshold(steps)
        desk.move_hold(frames)
        assert (desk.present.min_frames, desk.present.takeover_frames) == (5, 2)
    assert desk.changed == (desk.present != desk.kept)
    before = desk.present
    if 0.1 <= before.threshold <= 0.9:
        desk.move_threshold(3)
        assert desk.present.threshold == pytest.approx(before.threshold + 0.03)
        desk.move_threshold(-3)
        assert desk.present == before


def test_a_written_decision_is_all_that_changes(model, tmp_path):
    model.save(tmp_path / "m")
    path = tmp_path / "m" / CONFIG_FILE
    before = json.loads(path.read_text())
    desk = DecisionDesk(model.decision, tmp_path / "m")
    assert "already" in desk.write() and json.loads(path.read_text()) == before
    desk.move_threshold(7)
    desk.move_hold(2)
    said = desk.write()
    assert "threshold 0.5," in said and "threshold 0.57," in said and not desk.changed
    after = json.loads(path.read_text())
    assert {name for name in before if before[name] != after[name]} == {"decision", "trust"}
    assert after["trust"].startswith(before["trust"] + BY_HAND)
    loaded = RewardClassifier.load(str(tmp_path / "m"), TWO.task)
    assert loaded.decision == Decision(0.57, 4, 3) and loaded.hash == model.hash
    write_decision(tmp_path / "m", Decision(0.4, 1, 3))
    assert json.loads(path.read_text())["trust"].count(BY_HAND) == 1


@pytest.mark.parametrize("content", ["{", "{}", '{"decision": {"threshold": 3}, "trust": ""}'])
def test_a_damaged_model_is_not_written(content, tmp_path):
    (tmp_path / CONFIG_FILE).write_text(content)
    with pytest.raises(ClassifierError, match=re.escape(str(tmp_path / CONFIG_FILE))):
        write_decision(tmp_path, Decision(0.5, 1, 1))
    assert (tmp_path / CONFIG_FILE).read_text() == content
    with pytest.raises(ClassifierError, match="hub"):
        DecisionDesk(Decision(0.5, 1, 1), None).write()


# --- recordings ----------------------------------------------------------------------------------------

ONE = config_of(CAMERA)
LENGTHS = (30, 12, 21, 16)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return decided(tmp_path_factory.mktemp("one"), ONE, Decision(0.5, 2, 3))


@pytest.fixture
def recording(tmp_path):
    """Episodes whose ground truth is their last two frames; nobody knows of the last episode."""
    root = tmp_path / "set"
    with Recording.create(root, ONE.task) as made:
        for index, steps in enumerate(LENGTHS):
            take = random_take(ONE.task, index, steps, End.FAILURE if index % 2 else End.SUCCESS)
            frames = {CAMERA: [slide(100 * index + frame) for frame in range(steps + 1)]}
            achieved = None if index == len(LENGTHS) - 1 else take.achieved
            take = replace(take, frames=frames, achieved=achieved)
            made.append(take, record(take, ONE.task, role="reward"))
    return root


def shown_at(player: RecordedPlayer, now_s: float = 0.0):
    return wait_for(lambda: player.shown(now_s))


def test_a_recorded_frame_is_judged_as_the_actor_would(one, recording):
    source = open_source(recording, ONE.task)
    desk = DecisionDesk(Decision(0.5, 2, 3), None)
    with RecordedPlayer(ONE.task, one, source, desk) as player:
        for index in (0, 2):
            player.choose(index)
            pictures = source.pictures(source.episodes[index])[CAMERA]
            for frame in (0, 5, LENGTHS[index]):
                player.seek(frame)
                shown = shown_at(player)
                view = shown.views[CAMERA]
                np.testing.assert_array_equal(decoded(view.policy), pictures[frame])
                assert shown.probability == one.probability({CAMERA: pictures[frame]})
                native = slide(100 * index + frame)
                assert np.abs(decoded(view.native).astype(int) - native).mean() < 8
            scores = one.probabilities({CAMERA: pictures})
            for steps in (-30, 10, 15, 2):
                desk.move_threshold(steps)
                player.seek(LENGTHS[index])
                shown = shown_at(player)
                first = success_frame(desk.present, scores, player.episode.helped)
                flags = [point.called for point in shown.points]
                assert (flags.index(True) if any(flags) else None) == first
                assert player.times.called(player.episode) == first
                assert shown.called == flags[-1]


def test_frames_of_a_take_over_count_as_they_do_for_the_actor(one, tmp_path):
    """Archives know who played, and hold no native frames."""
    steps, helped = 30, np.arange(30) % 7 < 3
    images = [slide(frame) for frame in range(steps + 1)]
    crop, size = ONE.task.crop_params_dict[CAMERA], ONE.task.resize_size
    policy = {CAMERA: np.stack([policy_image(image, crop, size) for image in images])}
    save_episode(tmp_path, replace(short_episode(steps, intervention=helped), images=policy))
    (tmp_path / TASK_FILE).write_text(task_json(ONE.task))
    scores = one.probabilities(policy)
    fresh = np.arange(steps) % 7 < 2
    desk = DecisionDesk(Decision(0.6, 1, 0, takeover_frames=2), None)
    with RecordedPlayer(ONE.task, one, open_source(tmp_path, ONE.task), desk) as player:
        for frame in range(steps + 1):
            player.seek(frame)
            shown = shown_at(player)
            assert shown.called == (frame > 0 and scores[frame] >= 0.6 and not fresh[frame - 1])
            assert shown.views[CAMERA].native == b""
            np.testing.assert_array_equal(decoded(shown.views[CAMERA].policy), policy[CAMERA][frame])


def test_playing_follows_the_clock_and_stops_at_the_end(one, recording):
    with RecordedPlayer(
        ONE.task, one, open_source(recording, ONE.task), DecisionDesk(one.decision, None)
    ) as player:
        shown_at(player)
        player.toggle_playing(100.0)
        for now_s, frame in ((100.0, 0), (100.5, 5), (101.21, 12), (102.9, 29), (108.0, 30)):
            player.shown(now_s)
            assert player.frame == frame
        assert not player.playing
        player.toggle_playing(200.0)  # from the start again
        player.shown(200.3)
        assert (player.frame, player.playing) == (3, True)
        player.toggle_playing(200.4)
        player.shown(300.0)
        assert player.frame == 3
        player.seek(-5)
        assert player.frame == 0
        player.choose(-1)
        player.choose(99)
        assert player.index == 0


def test_the_table_compares_truth_with_the_rule_and_a_label_beats_ground_truth(one, recording):
    frames = LENGTHS[1] + 1
    change_labels(recording, {"1": Label(frames, ((4, 6),), "operator")})
    source = open_source(recording, ONE.task)
    desk = DecisionDesk(Decision(0.5, 1, 0), None)
    with RecordedPlayer(ONE.task, one, source, desk) as player:
        assert {row.verdict for row in player.times.rows()[2:]} == {"not scored yet"}
        player.want_table()
        wait_for(lambda: player.times.done == len(LENGTHS))
        for threshold in (0.5, 0.2, 0.95):
            desk.present = replace(desk.present, threshold=threshold)
            rows = player.times.rows()
            assert [row.true for row in rows] == [LENGTHS[0] - 1, 4, LENGTHS[2] - 1, None]
            for row, episode in zip(rows, source.episodes, strict=True):
                scores = one.probabilities(source.pictures(episode))
                assert row.called == success_frame(desk.present, scores, episode.helped)
            assert rows[3].verdict == "not labelled" and rows[3].good is None
    labels_file(recording).unlink()
    change_labels(recording, {"1": Label(frames + 1, (), "operator")})
    with pytest.raises(LabelError, match="episode 1 was labelled when it had"):
        RecordedPlayer(ONE.task, one, source, desk)


def test_an_episode_that_cannot_be_read_leaves_the_others(one, recording):
    source = open_source(recording, ONE.task)
    next(recording.glob("videos/*/*/file-001.mp4")).write_bytes(b"no video")
    with RecordedPlayer(ONE.task, one, source, DecisionDesk(one.decision, None), 1) as player:
        assert "file-001.mp4" in shown_at(player).trouble
        player.want_table()
        player.choose(2)
        assert wait_for(lambda: (shown := player.shown(0.0)) is not None and not shown.trouble)
        wait_for(lambda: player.times.done == len(LENGTHS))
        assert "file-001.mp4" in player.times.rows()[1].verdict
    with pytest.raises(SourceError, match="0 to 3"):
        position_of(source, 4)


# --- drawing -------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.none() | st.floats(0, 1), st.booleans()), max_size=40),
    st.floats(0.01, 1),
    st.integers(0, 60),
)
@settings(max_examples=60, deadline=None)
def test_the_drawing_stays_in_its_frame(values, threshold, extra):
    points = [Point(0.1 * k, probability, called) for k, (probability, called) in enumerate(values)]
    truth = np.array([called for _, called in values], np.bool_)
    span = (0.0, 0.1 * (len(points) + extra))
    root = ElementTree.fromstring(
        plot(points, threshold, span, truth=truth, now_s=span[1], first_called_s=span[0])
    )
    assert sum(len(line.get("points").split()) for line in root.iter("polyline")) == sum(
        probability is not None for probability, _ in values
    )
    for part in root.iter():
        for name, limit in (("x", WIDTH), ("x1", WIDTH), ("x2", WIDTH), ("y", HEIGHT), ("y1", HEIGHT)):
            assert 0 <= float(part.get(name, 0)) <= limit
        for pair in part.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
