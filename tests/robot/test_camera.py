from __future__ import annotations

import base64
import json
import threading
import time

import cv2
import numpy as np
import pytest
import zmq
from lerobot.cameras.zmq import ZMQCamera, ZMQCameraConfig
from lerobot.cameras.zmq.image_server import encode_image

from robot.camera import CameraOptions, CameraThread
from robot.camera_sources import OpenCVSource, ZMQSource
from robot.errors import CameraError
from tests.fakes.arm import HandClock
from tests.fakes.camera import SIZE, FakeSource, noise

QUICK = CameraOptions(max_age_s=10.0, start_timeout_s=20.0, backoff_s=0.001, max_backoff_s=0.002)
"""Patient with a busy machine; tests of age say their own limit."""


def until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def error_of(camera: CameraThread) -> str:
    try:
        camera.latest()
    except CameraError as error:
        return str(error)
    return ""


def start(source, size=SIZE, options=QUICK, **more) -> CameraThread:
    return CameraThread(source, name="gripper_cam", size=size, options=options, **more)


def test_rgb_stays_and_bgr_is_turned_exactly_once():
    for order in ("rgb", "bgr"):
        camera = start(FakeSource(order=order))
        frame = camera.latest()
        camera.close()
        made = noise(frame.index)
        np.testing.assert_array_equal(frame.rgb, made if order == "rgb" else made[..., ::-1])
        with pytest.raises(ValueError, match="read-only"):
            frame.rgb[0, 0, 0] = 0


def test_the_index_grows_and_close_ends_the_thread_and_the_source():
    before = threading.active_count()
    source = FakeSource()
    camera = start(source)
    first = camera.latest().index
    until(lambda: camera.latest().index > first)
    camera.close()
    camera.close()
    assert threading.active_count() == before and source.opened == source.closed == 1


def test_a_stale_picture_is_an_error_that_tells_age_limit_and_key():
    clock = HandClock()
    source = FakeSource(lambda n: noise(n) if n < 3 else None)
    camera = start(source, clock=clock, options=CameraOptions(start_timeout_s=20.0))
    until(lambda: camera.latest().index == 2)
    clock.t_s += 0.19
    camera.latest()
    clock.t_s += 0.02
    assert "0.210 s old, allowed 0.2 s (cameras.gripper_cam.max_age_s)" in error_of(camera)
    source.release.set()
    camera.close()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_picture_is_an_error_and_black_first_pictures_are_waited_for(level):
    flat = np.full((SIZE[1], SIZE[0], 3), level, np.uint8)
    switch = threading.Event()
    camera = start(FakeSource(lambda n: flat if n < 5 or switch.is_set() else noise(n)))
    assert camera.latest().index >= 5
    switch.set()
    until(lambda: "flat" in error_of(camera))
    switch.clear()
    until(lambda: error_of(camera) == "")
    camera.close()


def test_a_stuck_picture_is_an_error_unless_allowed():
    stuck = noise(1)
    options = CameraOptions(stuck_frames=5, backoff_s=0.001, max_backoff_s=0.001, attempts=10**6)
    camera = start(FakeSource(lambda n: noise(n) if n < 3 else stuck.copy()), options=options)
    until(lambda: "identical pictures in a row" in error_of(camera))
    camera.close()
    still = start(FakeSource(lambda n: stuck.copy()), options=CameraOptions(stuck_frames=0, max_age_s=10.0))
    until(lambda: still.latest().index > 100)
    still.close()


def test_a_picture_of_another_size_is_refused_at_once_with_both_sizes_and_the_keys():
    with pytest.raises(CameraError, match=r"got 64x48, the task record says 32x24.*task\.camera_width"):
        start(FakeSource(lambda n: noise(n, (64, 48))))
    with pytest.raises(CameraError, match=r"uint8 \(H, W, 3\).*\(24, 32\)"):
        start(FakeSource(lambda n: noise(n)[..., 0]))


def test_a_lost_camera_is_opened_again():
    lost = threading.Event()
    source = FakeSource(lambda n: CameraError("unplugged") if lost.is_set() else noise(n))
    camera = start(
        source, options=CameraOptions(max_age_s=0.1, backoff_s=0.001, max_backoff_s=0.001, attempts=10**6)
    )
    lost.set()
    until(lambda: "old" in error_of(camera) and "unplugged" in error_of(camera))
    lost.clear()
    until(lambda: error_of(camera) == "")
    assert source.opened > 1
    camera.close()
    assert source.opened == source.closed


def test_reconnecting_is_bounded_and_the_error_says_so():
    before = threading.active_count()
    source = FakeSource(lambda n: noise(n) if n < 3 else CameraError("unplugged"))
    camera = start(
        source, options=CameraOptions(max_age_s=0.05, backoff_s=0.001, max_backoff_s=0.002, attempts=4)
    )
    until(lambda: "unplugged; gave up after 4 attempts in a row" in error_of(camera))
    assert source.opened == 4 and threading.active_count() == before
    camera.close()


def test_only_failures_in_a_row_count_towards_giving_up():
    source = FakeSource(lambda n: CameraError("a glitch") if n % 3 == 2 else noise(n))
    camera = start(
        source, options=CameraOptions(max_age_s=10.0, backoff_s=0.001, max_backoff_s=0.001, attempts=2)
    )
    until(lambda: source.opened > 10)
    camera.latest()
    camera.close()


def test_a_camera_that_never_delivers_fails_construction_and_leaves_no_thread():
    before = threading.active_count()
    source = FakeSource(lambda n: CameraError("no signal"))
    options = CameraOptions(start_timeout_s=0.2, backoff_s=0.001, max_backoff_s=0.01)
    with pytest.raises(CameraError, match="'gripper_cam' gave no picture in 0.2 s.*no signal"):
        start(source, options=options)
    assert threading.active_count() == before


def test_opencv_plays_a_file_in_its_colours(tmp_path):
    path = str(tmp_path / "red.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 100.0, (64, 48))
    for n in range(60):
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[..., 2] = 200  # red, to OpenCV
        picture[:, : n + 1, 0] = 100
        writer.write(picture)
    writer.release()
    options = CameraOptions(attempts=1, max_age_s=1.0)
    camera = start(OpenCVSource(path, (64, 48)), size=(64, 48), options=options)
    until(lambda: camera.latest().index >= 10)
    rgb = camera.latest().rgb[:, -8:].mean(axis=(0, 1))
    assert rgb[0] > 180 and rgb[1] < 30 and rgb[2] < 30
    until(lambda: "end of a file" in error_of(camera))
    camera.close()


@pytest.mark.parametrize(
    ("address", "message"), [("", "set index_or_path"), ("63", "'63'.*plugged in"), ("/dev/no", "'/dev/no'")]
)
def test_opencv_names_a_camera_that_cannot_be_opened(address, message):
    with pytest.raises(CameraError, match=message):
        OpenCVSource(address, SIZE).open()


class Publisher:
    """Sends lerobot's camera messages: images() gives {name: base64 JPEG} or raw text, every few ms."""

    def __init__(self, images):
        self._images = images
        self._socket = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        n = 0
        while not self._stop.wait(0.005):
            got = self._images(n)
            n += 1
            if isinstance(got, dict):
                got = json.dumps({"timestamps": dict.fromkeys(got, time.time()), "images": got})
            self._socket.send_string(got)

    def close(self):
        self._stop.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def publish():
    made = []

    def make(images) -> Publisher:
        made.append(Publisher(images))
        return made[-1]

    yield make
    for publisher in made:
        publisher.close()


def red(n: int):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[..., 0] = 200
    picture[:, : 1 + n % 32, 1] = 100
    return picture


def test_zmq_gives_what_lerobots_server_encodes_in_rgb_as_lerobots_client_does(publish):
    publisher = publish(lambda n: {"wrist": encode_image(red(0))})
    source = ZMQSource("127.0.0.1", publisher.port, "wrist", timeout_s=5.0)
    source.open()
    ours = source.read()
    source.close()
    theirs = ZMQCamera(
        ZMQCameraConfig("127.0.0.1", publisher.port, "wrist", width=64, height=48, fps=30, warmup_s=1)
    )
    theirs.connect(warmup=False)
    frame = theirs.async_read(timeout_ms=5000)
    theirs.disconnect()
    np.testing.assert_array_equal(ours, frame)
    camera = start(
        ZMQSource("127.0.0.1", publisher.port, "wrist"),
        (64, 48),
        CameraOptions(stuck_frames=0, max_age_s=10.0),
    )
    rgb = camera.latest().rgb[:, -8:].mean(axis=(0, 1))
    camera.close()
    assert rgb[0] > 180 and rgb[1] < 30 and rgb[2] < 30


def test_zmq_never_takes_another_cameras_picture(publish):
    blue = encode_image(np.ascontiguousarray(red(0)[..., ::-1]))
    mixed = publish(lambda n: {"side": blue} if n % 3 else {"side": blue, "wrist": encode_image(red(n))})
    source = ZMQSource("127.0.0.1", mixed.port, "wrist", timeout_s=5.0)
    source.open()
    for _ in range(5):
        assert source.read()[:, -8:, 0].mean() > 180
    source.close()
    wrong = ZMQSource("127.0.0.1", mixed.port, "wirst", timeout_s=0.3)
    wrong.open()
    with pytest.raises(CameraError, match=r"'wirst'.*it sends \['side', 'wrist'\]"):
        wrong.read()
    wrong.close()


@pytest.mark.parametrize(
    "torn",
    [
        "not json",
        '{"images": 3}',
        '{"frames": {}}',
        '{"images": {"wrist": "####"}}',
        '{"images": {"wrist": ""}}',
        '{"images": {"wrist": 5}}',
        json.dumps({"images": {"wrist": base64.b64encode(b"no jpeg at all").decode()}}),
    ],
)
def test_torn_messages_are_errors_and_the_stream_recovers(publish, torn):
    bad = threading.Event()
    publisher = publish(lambda n: torn if bad.is_set() else {"wrist": encode_image(noise(n))})
    source = ZMQSource("127.0.0.1", publisher.port, "wrist", timeout_s=1.0)
    options = CameraOptions(max_age_s=0.1, backoff_s=0.01, max_backoff_s=0.02, attempts=10**6)
    camera = start(source, options=options)
    bad.set()
    until(lambda: "last trouble" in error_of(camera))
    bad.clear()
    until(lambda: error_of(camera) == "")
    camera.close()


def test_zmq_without_a_server_says_what_to_check():
    source = ZMQSource("127.0.0.1", 9, "wrist", timeout_s=0.1)
    source.open()
    with pytest.raises(CameraError, match="'wrist' from tcp://127.0.0.1:9 for 0.1 s: is the server running"):
        source.read()
    source.close()
