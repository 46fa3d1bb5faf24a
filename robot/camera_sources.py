"""Where pictures come from: OpenCV devices, video files, lerobot's camera stream. Each is a camera.Source."""

from __future__ import annotations

import base64
import json
import sys
import time
from typing import Literal

import cv2
import numpy as np
import zmq

from robot.devices import resolve_camera
from robot.errors import CameraError, DeviceError
from robot.types import U8

DEVICE_FPS = 30.0
"""What a camera of this machine is asked for: what most give at every size."""


class OpenCVSource:
    """A camera of this machine (V4L2 on Linux), or a video file, through OpenCV.

    index_or_path: an index ("0"), a device path ("id:NAME" finds the camera with that name
    under /dev/v4l wherever it is plugged in), or a video file, which is played once at its own rate.
    """

    order: Literal["rgb", "bgr"] = "bgr"

    def __init__(self, index_or_path: str, size: tuple[int, int], fps: float = DEVICE_FPS) -> None:
        self._address = index_or_path
        self._size = size
        self._fps = fps
        self._capture: cv2.VideoCapture | None = None
        self._pause_s = 0.0

    def open(self) -> None:
        if not self._address:
            raise CameraError("no camera named: set index_or_path to an index, a device path or a video file")
        try:
            found = resolve_camera(self._address)
        except DeviceError as error:
            raise CameraError(str(error)) from error
        device = found.isdigit() or found.startswith("/dev/")
        address = int(found) if found.isdigit() else found
        api = cv2.CAP_V4L2 if device and sys.platform == "linux" else cv2.CAP_ANY
        capture = cv2.VideoCapture(address, api)
        if not capture.isOpened():
            raise CameraError(
                f"cannot open camera {self._address!r}: is it plugged in, and is no other program using it?"
            )
        self._capture = capture
        if device:
            # MJPG fits the USB bus; a buffer of one, so that what is read is what is seen now
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[1])
            capture.set(cv2.CAP_PROP_FPS, self._fps)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        else:
            self._pause_s = 1.0 / (capture.get(cv2.CAP_PROP_FPS) or self._fps)

    def read(self) -> U8:
        if self._capture is None:
            raise CameraError(f"camera {self._address!r} is not open")
        time.sleep(self._pause_s)
        good, picture = self._capture.read()
        if not good:
            raise CameraError(f"camera {self._address!r} gives no picture (unplugged, or the end of a file)")
        return np.asarray(picture, dtype=np.uint8)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None


class ZMQSource:
    """A camera stream in the format of lerobot's image server: JSON with base64 JPEGs by camera name.

    That server hands RGB arrays to an encoder that expects BGR, and its client decodes them the same way,
    so what comes out of the decoder is RGB. Unlike lerobot's own client this one never takes the picture of
    another camera when a message lacks ours.
    """

    order: Literal["rgb", "bgr"] = "rgb"

    def __init__(self, server_address: str, port: int, camera_name: str, timeout_s: float = 1.0) -> None:
        self._url = f"tcp://{server_address}:{port}"
        self._name = camera_name
        self._timeout_s = timeout_s
        self._socket: zmq.Socket[bytes] | None = None

    def open(self) -> None:
        self.close()
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.setsockopt(zmq.CONFLATE, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(self._url)

    def read(self) -> U8:
        deadline_s = time.monotonic() + self._timeout_s
        seen: set[str] = set()
        while (left_s := deadline_s - time.monotonic()) > 0.0:
            images = self._receive(left_s)
            if self._name in images:
                return self._decode(images[self._name])
            seen.update(images)
        offer = (
            f"it sends {sorted(seen)}" if seen else "is the server running, and are address and port right?"
        )
        raise CameraError(f"no picture of {self._name!r} from {self._url} for {self._timeout_s:g} s: {offer}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _receive(self, timeout_s: float) -> dict[str, str]:
        """{camera: base64 JPEG} of the newest message; empty when none came in time."""
        if self._socket is None:
            raise CameraError(f"{self._url} is not open")
        if not self._socket.poll(max(1, int(timeout_s * 1000))):
            return {}
        try:
            images = json.loads(self._socket.recv())["images"]
        except (ValueError, KeyError, TypeError) as error:
            raise CameraError(f"{self._url} does not speak lerobot's camera format: {error!r}") from error
        if not isinstance(images, dict):
            raise CameraError(f"{self._url} does not speak lerobot's camera format: 'images' is no object")
        return images

    def _decode(self, text: str) -> U8:
        try:
            jpeg = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
            picture = cv2.imdecode(jpeg, cv2.IMREAD_COLOR) if jpeg.size else None
        except (ValueError, TypeError, cv2.error) as error:
            raise CameraError(f"a picture of {self._name!r} from {self._url} is torn: {error}") from error
        if picture is None:
            raise CameraError(f"a picture of {self._name!r} from {self._url} is torn: not a JPEG")
        return np.asarray(picture, dtype=np.uint8)
