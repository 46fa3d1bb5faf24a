"""Keyboard through pynput, with lerobot's keys."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from robot.errors import TeleopError
from robot.teleop.pending import PendingEvents
from robot.types import ArmState, Event, Operator

LOG = logging.getLogger(__name__)

TAKE_OVER = "space"
MOVES = {
    "up": (0, 1.0),
    "down": (0, -1.0),
    "left": (1, 1.0),
    "right": (1, -1.0),
    "shift_r": (2, 1.0),
    "shift": (2, -1.0),
    "ctrl": (3, -1.0),
    "ctrl_r": (3, 1.0),
}
"""Key: (action component, value). Opposite keys held together cancel."""
EVENTS = {
    "enter": Event.SUCCESS,
    "backspace": Event.FAILURE,
    "r": Event.DISCARD,
    "esc": Event.STOP,
}


class Keyboard:
    """A Teleop.

    Hold the space bar to take over; the policy acts while it is up. Up / down: x forward / back.
    Left / right: y. Right shift / left shift: z up / down. Left control closes, right control opens, both or
    neither: hold. Enter success, backspace failure, r discard (record again), escape stop. Holding a key
    is one press, also when the system repeats it.

    Keys count only while the window that had the keyboard when this was made has it (under X11): typing
    elsewhere moves nothing and judges nothing. Nothing is kept from other programs.
    """

    def __init__(self) -> None:
        keyboard = _pynput_keyboard()
        self._focus = _focus_reader()
        self._home = self._focus()
        self._warned = False
        self._closed = False
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._pending = PendingEvents()
        self._listener = keyboard.Listener(on_press=self._pressed, on_release=self._released)
        self._listener.start()
        self._listener.wait()

    def read(self, state: ArmState) -> Operator:
        """What the person says now. Raises TeleopError once keys can no longer be heard."""
        if self._closed:
            raise TeleopError("the keyboard is closed")
        if not self._listener.is_alive():
            raise TeleopError("the keyboard listener has ended: the display is gone")
        with self._lock:
            held = set(self._held)
        if TAKE_OVER not in held:
            return Operator(None, self._pending.pop())
        action = np.zeros(4, dtype=np.float32)
        for key in held & MOVES.keys():
            component, value = MOVES[key]
            action[component] += value
        return Operator(action, self._pending.pop())

    def reset(self, seed: int) -> None:
        """Forget pending events but a STOP."""
        self._pending.forget()

    def stop_asked(self) -> bool:
        """Whether escape was pressed and not yet read."""
        return self._pending.holds(Event.STOP)

    def close(self) -> None:
        """Stop listening. More than once is allowed."""
        self._closed = True
        # its thread ends with the next key event of the X server, so it is not waited for
        if self._listener.is_alive():
            self._listener.stop()

    def _pressed(self, key: object) -> None:
        name = _name(key)
        if name is None:
            return
        elsewhere = self._focus() != self._home
        if elsewhere and not self._warned:
            LOG.warning(
                "keys are ignored while another window than the one teleoperation started in has them"
            )
        self._warned = elsewhere
        with self._lock:
            repeat = name in self._held
            if not elsewhere:
                self._held.add(name)
        if name in EVENTS and not repeat and not elsewhere:
            self._pending.push(EVENTS[name])

    def _released(self, key: object) -> None:
        # heard wherever it happens, so that no key can stay down for ever
        name = _name(key)
        with self._lock:
            if name is not None:
                self._held.discard(name)


def _name(key: object) -> str | None:
    """Name of a key that means something here, else None."""
    name = getattr(key, "name", None) or getattr(key, "char", None)
    name = {"shift_l": "shift", "ctrl_l": "ctrl"}.get(str(name), str(name).lower())
    return name if name == TAKE_OVER or name in MOVES or name in EVENTS else None


def _pynput_keyboard() -> Any:  # noqa: ANN401 - an untyped module
    """Load pynput's keyboard module; raise TeleopError where it could hear nothing."""
    if sys.platform == "linux":
        if os.environ.get("XDG_SESSION_TYPE", "").lower() == "wayland" or os.environ.get("WAYLAND_DISPLAY"):
            raise TeleopError(
                "keys cannot be heard under Wayland: log in to an X11 session, or use a gamepad"
            )
        if not os.environ.get("DISPLAY"):
            raise TeleopError(
                "no display (DISPLAY is not set), so no keys can be heard: use an X11 session or a gamepad"
            )
    try:
        from pynput import keyboard
    except ImportError as error:
        display = os.environ.get("DISPLAY", "")
        raise TeleopError(f"keys cannot be heard on display {display!r}: {error}") from error
    return keyboard


def _focus_reader() -> Callable[[], object]:
    """A function that says which window has the keyboard; a constant where that cannot be told."""
    if sys.platform != "linux":
        return lambda: None
    from Xlib import display

    connection = display.Display()
    return lambda: connection.get_input_focus().focus
