"""A throw-away X server and a typist, for keyboard tests with real key events."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

MISSING = [program for program in ("Xvfb", "xdotool") if shutil.which(program) is None]
KEYCODES = {"Shift_R": "62", "Control_R": "105"}
"""By name xdotool would press the left modifier as well."""


class XServer:
    """Xvfb on a free display."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["Xvfb", "-displayfd", "1", "-screen", "0", "320x240x24", "-nolisten", "tcp"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.display = f":{self._process.stdout.readline().strip()}"

    def _type(self, *words: str) -> None:
        environment = {**os.environ, "DISPLAY": self.display}
        subprocess.run(["xdotool", *words], check=True, env=environment)

    def press(self, key: str) -> None:
        self._type("keydown", KEYCODES.get(key, key))

    def release(self, key: str) -> None:
        self._type("keyup", KEYCODES.get(key, key))

    def close(self) -> None:
        # a listener that was told to stop ends with the next key, and must not outlive its display
        self._type("key", "a")
        time.sleep(0.1)
        self._process.terminate()
        self._process.wait(5.0)
        if self._process.stdout is not None:
            self._process.stdout.close()
