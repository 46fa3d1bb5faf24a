"""Rendering where there is no display."""

from __future__ import annotations

import os
import sys


def render_off_screen() -> None:
    """Without a display the twin renders off screen. MuJoCo reads this when it is first imported."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
