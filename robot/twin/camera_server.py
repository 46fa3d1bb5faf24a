"""The twin's camera over lerobot's ZMQ camera protocol: {"timestamps": {name: s}, "images": {name: jpeg}}."""

from __future__ import annotations

import base64
import json
import threading
import time

import cv2
import numpy as np
import zmq

from robot.errors import CameraError
from robot.twin.faults import Faults
from robot.types import U8

JPEG_QUALITY = 90
NOISE_LEVELS = 1
"""A sensor's picture of a still scene is never twice the same: so many grey levels (of 255) up or down."""


class CameraServer:
    """Publishes pictures on tcp. `offer` never waits: only the newest picture is sent.

    As in lerobot, RGB goes into the JPEG coder as if it were BGR and comes out of the client's decoder as
    RGB again; a client must not swap channels.
    """

    def __init__(self, name: str, faults: Faults, host: str = "127.0.0.1", port: int = 0) -> None:
        """Serve on `port`; 0 takes a free one. Raises CameraError when the port is taken."""
        self._name, self._faults = name, faults
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 2)
        try:
            self._socket.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            self._socket.close()
            self._context.term()
            raise CameraError(
                f"cannot serve the camera on {host}:{port} ({error}); choose another port, or 0 for any"
            ) from error
        self.host = host
        self.port = int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rsplit(":", 1)[1])
        self.sent = 0
        self._newest: U8 | None = None
        self._rng = np.random.default_rng(0)
        self._noise: U8 | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="twin-camera", daemon=True)
        self._thread.start()

    def offer(self, rgb: U8) -> None:
        """Send `rgb` (H, W, 3) soon; a picture not sent yet is replaced."""
        with self._changed:
            self._newest = rgb
            self._changed.notify()

    def close(self) -> None:
        """Stop publishing. More than once is allowed."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._socket.close()
        self._context.term()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._newest is not None)
                if self._closed:
                    return
                rgb, self._newest = self._newest, None
            picture = None if rgb is None else self._faults.on_picture(self._with_noise(rgb))
            if picture is None:
                continue
            _, jpeg = cv2.imencode(".jpg", picture, [int(cv2.IMWRITE_JPEG_QUALITY), JPEG_QUALITY])
            message = {
                "timestamps": {self._name: time.time()},
                "images": {self._name: base64.b64encode(jpeg.tobytes()).decode()},
            }
            self._socket.send_string(json.dumps(message))
            self.sent += 1

    def _with_noise(self, rgb: U8) -> U8:
        """As a sensor sees it. The noise is drawn once and moved about: it must cost nothing."""
        if self._noise is None or self._noise.shape != rgb.shape:
            self._noise = self._rng.integers(0, 2 * NOISE_LEVELS + 1, rgb.shape, dtype=np.uint8)
        noise = np.roll(self._noise, int(self._rng.integers(1, self._noise.size)))
        return np.asarray(cv2.subtract(cv2.add(rgb, noise), NOISE_LEVELS * np.ones_like(rgb)), np.uint8)
