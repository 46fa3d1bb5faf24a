"""Without a display the twin renders off screen; MuJoCo reads this when it is first imported."""

import os

if not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")
