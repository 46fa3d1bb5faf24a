"""A gamepad made of software: an SDL virtual joystick in this process, which pygame takes for a real one."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from robot.teleop.gamepad import start_pygame

_POINTER = ctypes.c_void_p


def _sdl() -> ctypes.CDLL:
    """The SDL library pygame has loaded (a second copy would know nothing of pygame's joysticks)."""
    start_pygame()
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split()[-1]
        if "libSDL2-2" in path:
            sdl = ctypes.CDLL(path)
            break
    else:
        raise RuntimeError("pygame has loaded no SDL2 library")
    sdl.SDL_JoystickOpen.restype = _POINTER
    sdl.SDL_JoystickSetVirtualButton.argtypes = [_POINTER, ctypes.c_int, ctypes.c_uint8]
    sdl.SDL_JoystickSetVirtualAxis.argtypes = [_POINTER, ctypes.c_int, ctypes.c_int16]
    sdl.SDL_JoystickInstanceID.argtypes = [_POINTER]
    sdl.SDL_JoystickClose.argtypes = [_POINTER]
    sdl.SDL_GetError.restype = ctypes.c_char_p
    return sdl


class VirtualPad:
    """Plugged in on construction, until `unplug`. Make it before the Gamepad; any thread may press and move.

    The default has lerobot's layout: 4 axes, 12 buttons. axes=6 is a pad whose triggers are axes 2 and 5,
    at rest at -1. Its name is "Virtual Joystick" or like it.
    """

    def __init__(self, axes: int = 4, buttons: int = 12) -> None:
        if not sys.platform.startswith("linux"):
            raise RuntimeError("VirtualPad finds SDL through /proc and works on Linux only")
        self._sdl = _sdl()
        index = self._sdl.SDL_JoystickAttachVirtual(0, axes, buttons, 0)
        if index < 0:
            raise RuntimeError(self._sdl.SDL_GetError().decode())
        self._pad: int | None = self._sdl.SDL_JoystickOpen(index)
        if axes >= 6:
            self.axis(2, -1.0)
            self.axis(5, -1.0)

    def press(self, button: int) -> None:
        self._sdl.SDL_JoystickSetVirtualButton(self._pad, button, 1)
        # without an update a press and a release in quick succession would leave no trace in SDL
        self._sdl.SDL_JoystickUpdate()

    def release(self, button: int) -> None:
        self._sdl.SDL_JoystickSetVirtualButton(self._pad, button, 0)
        self._sdl.SDL_JoystickUpdate()

    def axis(self, i: int, value: float) -> None:
        """Move axis i to value in [-1, 1], pygame's signs."""
        self._sdl.SDL_JoystickSetVirtualAxis(self._pad, i, max(-32768, min(32767, round(value * 32768))))
        self._sdl.SDL_JoystickUpdate()

    def unplug(self) -> None:
        """Take the pad away. More than once is allowed."""
        if self._pad is None:
            return
        mine = self._sdl.SDL_JoystickInstanceID(self._pad)
        for index in range(self._sdl.SDL_NumJoysticks()):
            if self._sdl.SDL_JoystickGetDeviceInstanceID(index) == mine:
                self._sdl.SDL_JoystickDetachVirtual(index)
                break
        self._sdl.SDL_JoystickClose(self._pad)
        self._pad = None
