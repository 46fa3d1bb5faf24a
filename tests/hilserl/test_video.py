from dataclasses import replace

import av
import cv2
import numpy as np
import pytest

from hilserl.learning_curve import learning_curve_png, rolling_mean
from hilserl.types import End
from hilserl.video import Overlay, VideoError, VideoWriter, compose_frame

PLAIN = Overlay(
    step=3, max_steps=100, reward=0.0, total=0.0, action=np.zeros(4, np.float32), intervention=False
)
RNG = np.random.default_rng(0)
SIDE = RNG.integers(0, 256, (480, 640, 3)).astype(np.uint8)
WRIST = RNG.integers(0, 256, (128, 128, 3)).astype(np.uint8)
VIEWS = {"side": SIDE, "wrist": WRIST}


def read_video(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, stream.codec_context.name, stream.codec_context.pix_fmt, float(stream.average_rate)


def test_a_video_reads_back_with_every_frame_at_its_rate(tmp_path):
    path = tmp_path / "new" / "a.mp4"
    levels = [40, 120, 200, 90]
    with VideoWriter(path, fps=10) as video:
        for level in levels:
            video.add(np.full((48, 64, 3), (level, 30, 255 - level), np.uint8))
        assert not path.exists()
    frames, codec, pixels, rate = read_video(path)
    assert (codec, pixels, rate) == ("h264", "yuv420p", 10.0)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 4
    for level, frame in zip(levels, frames, strict=True):
        # red stays red: RGB in, RGB out
        assert np.abs(frame.mean((0, 1)) - (level, 30, 255 - level)).max() < 8
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("frames", [0, 2])
def test_a_broken_off_video_leaves_nothing(tmp_path, frames):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4", 10) as video:
        for _ in range(frames):
            video.add(np.zeros((16, 16, 3), np.uint8))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_empty_video_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(VideoError, match="no frame"), VideoWriter(tmp_path / "a.mp4", 10):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((16, 18, 3), np.uint8),
        np.zeros((16, 16, 3), np.float32),
        np.zeros((16, 16), np.uint8),
    ],
)
def test_a_frame_of_another_kind_is_refused(tmp_path, frame):
    with pytest.raises(VideoError, match=r"a\.mp4"), VideoWriter(tmp_path / "a.mp4", 10) as video:
        video.add(np.zeros((16, 16, 3), np.uint8))
        video.add(frame)


def test_odd_sizes_are_refused(tmp_path):
    with pytest.raises(VideoError, match="even"), VideoWriter(tmp_path / "a.mp4", 10) as video:
        video.add(np.zeros((15, 16, 3), np.uint8))


@pytest.mark.parametrize("shape", [(480, 640, 3), (1080, 1920, 3), (301, 640, 3), (128, 128, 3)])
def test_any_view_becomes_an_even_frame_and_stays_as_it_was(shape):
    view = RNG.integers(0, 256, shape).astype(np.uint8)
    before = view.copy()
    frame = compose_frame({"side": view, "wrist": WRIST}, PLAIN)
    assert frame.dtype == np.uint8 and frame.shape[1] == 640
    assert frame.shape[0] % 2 == 0
    np.testing.assert_array_equal(view, before)
    np.testing.assert_array_equal(frame, compose_frame({"side": view, "wrist": WRIST}, PLAIN))


@pytest.mark.parametrize(
    "change",
    [
        {"step": 4},
        {"reward": 1.0},
        {"total": 1.0},
        {"intervention": True},
        {"end": End.SUCCESS},
        {"end": End.TIMEOUT},
        {"policy_version": 3},
        {"seed": 5},
        *({"action": np.eye(4, dtype=np.float32)[i] * sign} for i in range(4) for sign in (-1, 1)),
    ],
)
def test_everything_in_the_overlay_can_be_seen(change):
    assert (compose_frame(VIEWS, PLAIN) != compose_frame(VIEWS, replace(PLAIN, **change))).any()


def test_what_the_policy_sees_is_inset_pixel_by_pixel():
    frame = compose_frame(VIEWS, PLAIN)
    inset = cv2.resize(WRIST, (192, 192), interpolation=cv2.INTER_NEAREST)
    # the lowest rows carry its name
    np.testing.assert_array_equal(frame[11:170, 439:629], inset[1:160, 1:191])
    np.testing.assert_array_equal(frame[230:400, 100:500], SIDE[230:400, 100:500])


def test_bars_point_the_way_of_the_action():
    def blue(x: float) -> tuple[int, int]:
        frame = compose_frame({"side": SIDE}, replace(PLAIN, action=np.array([x, 0, 0, 0], np.float32)))
        row = frame[480 + 17].astype(int)
        filled = (row == (86, 160, 255)).all(1)
        middle = (370 + 570) // 2
        return int(filled[370:middle].sum()), int(filled[middle + 1 : 571].sum())

    left, right = blue(-0.5)
    assert left == pytest.approx(50, abs=2) and right == 0
    left, right = blue(1.0)
    assert left == 0 and right == pytest.approx(100, abs=2)


def test_too_many_insets_and_no_view_are_refused():
    with pytest.raises(VideoError, match="room"):
        compose_frame({"side": SIDE, **{f"w{i}": WRIST for i in range(4)}}, PLAIN)
    with pytest.raises(VideoError, match="view"):
        compose_frame({}, PLAIN)


def rows(episodes: int) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    for i in range(episodes):
        share = max(0.0, 0.5 - i / 40)
        found.append({"episode/success": i % 2, "episode/intervention_share": share, "time/minutes": i * 0.1})
        if i % 10 == 9:
            rate = {"eval/success_rate": 0.8, "eval/low95": 0.7, "eval/high95": 0.9}
            found.append({**rate, "time/minutes": i * 0.1})
    return found


def test_the_learning_curve_is_a_picture_that_depends_on_the_baselines(tmp_path):
    path = tmp_path / "curve.png"
    pictures = []
    for baselines in ({"cloning": 0.4}, {"cloning": 0.1}):
        learning_curve_png(path, rows(30), baselines)
        pictures.append(cv2.imread(str(path)))
    assert pictures[0].shape[1] > 1000 and pictures[0].std() > 10
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize("data", [rows(1), [r for r in rows(10) if "eval/low95" in r]])
def test_the_learning_curve_needs_little(tmp_path, data):
    learning_curve_png(tmp_path / "curve.png", data)
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]


def test_a_curve_without_data_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        learning_curve_png(tmp_path / "a.png", [{"train/critic_loss": 1.0}])
    assert not (tmp_path / "a.png").exists()


def test_rolling_mean_is_the_mean_of_a_window():
    values = RNG.random(50)
    for window in (1, 7, 60):
        slow = [values[max(0, i + 1 - window) : i + 1].mean() for i in range(50)]
        np.testing.assert_allclose(rolling_mean(values, window), slow)
