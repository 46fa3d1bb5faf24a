"""Gamepad through pygame, with lerobot's button layout."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from robot.errors import TeleopError
from robot.teleop.pending import PendingEvents
from robot.types import F32, ArmState, Event, Operator

TAKE_OVER = 5
"""Right bumper: hold to take over."""
CLOSE_BUTTON, OPEN_BUTTON = 6, 7
EVENT_BUTTONS = {
    3: Event.SUCCESS,
    1: Event.FAILURE,
    0: Event.DISCARD,
    2: Event.STOP,
    8: Event.STOP,
}
TRIGGER_PRESSED = 0.5
"""An analog trigger rests at -1 and ends at +1; some drivers report 0 until it is first moved."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Axis numbers. x forward, y left, z up: each is minus the stick's value. Triggers: None when buttons."""

    x: int = 1
    y: int = 0
    z: int = 3
    close: int | None = None
    open: int | None = None


STICK_AXES = Axes()
"""Pads of fewer than six axes (lerobot's own assumption): two sticks, the triggers are buttons 6 and 7."""
TRIGGER_AXES = Axes(z=4, close=2, open=5)
"""Pads of six axes or more (Xbox, PlayStation): 2 and 5 are triggers, so the right stick is 3 and 4."""


class Gamepad:
    """A Teleop. Make and read it in one thread; one per process, for it drains SDL's event queue.

    Hold the right bumper (button 5) to take over; the policy acts while it is up.
    Left stick: x (forward) and y (left). Right stick, vertical: z (up).
    Left trigger closes, right trigger opens; both or neither: hold. Buttons 6 and 7 always count as
    triggers, and so do axes 2 and 5 on a pad of six axes or more (TRIGGER_AXES, else STICK_AXES).
    Button 3 success, 1 failure, 0 discard, 2 or 8 stop. A press is one event, also when it is released
    before the next `read`; of several presses each `read` returns one, in order.

    device: index ("0") or part of the name, any case. deadzone: share of a stick's way that counts as
    rest; what lies beyond is stretched to the full range, without a jump.
    """

    def __init__(self, device: str = "0", deadzone: float = 0.1, axes: Axes | None = None) -> None:
        if not 0.0 <= deadzone < 1.0:
            raise ValueError(f"deadzone must lie in [0, 1), got {deadzone}")
        self._device = device
        self._deadzone = deadzone
        self._wanted_axes = axes
        self._pending = PendingEvents()
        self._closed = False
        self._lost = ""
        self._pygame = start_pygame()
        self._open()

    def read(self, state: ArmState) -> Operator:
        """What the person says now. Raises TeleopError once the pad is gone, never a frozen stick."""
        self._take_events()
        if self._lost:
            raise TeleopError(self._lost)
        action = self._action() if self._pad.get_button(TAKE_OVER) else None
        return Operator(action, self._pending.pop())

    def reset(self, seed: int) -> None:
        """Forget pending events but a STOP; look again for a pad that was unplugged."""
        self._take_events()
        self._pending.forget()
        if self._lost and not self._closed:
            self._open()

    def stop_asked(self) -> bool:
        """Whether a stop button was pressed and not yet read."""
        self._take_events()
        return self._pending.holds(Event.STOP)

    def close(self) -> None:
        """Release the pad. More than once is allowed."""
        if not self._closed:
            self._closed = True
            self._lost = "the gamepad is closed"
            self._pad.quit()

    def _open(self) -> None:
        pygame = self._pygame
        pads = [pygame.joystick.Joystick(i) for i in range(pygame.joystick.get_count())]
        self._pad = pads[_choose(self._device, [pad.get_name() for pad in pads])]
        self._id = self._pad.get_instance_id()
        self._name = self._pad.get_name()
        count = self._pad.get_numaxes()
        self.axes = self._wanted_axes or (TRIGGER_AXES if count >= 6 else STICK_AXES)
        needed = max(n for n in (self.axes.x, self.axes.y, self.axes.z, self.axes.close, self.axes.open) if n)
        buttons = self._pad.get_numbuttons()
        if count <= needed or buttons <= TAKE_OVER:
            raise TeleopError(
                f"gamepad {self._name!r} has {count} axes and {buttons} buttons; "
                f"needed are {needed + 1} axes and {TAKE_OVER + 1} buttons"
            )
        pygame.event.get()
        self._lost = ""

    def _take_events(self) -> None:
        pygame = self._pygame
        for event in pygame.event.get():
            if event.type == pygame.JOYDEVICEREMOVED and event.instance_id == self._id:
                self._lost = f"gamepad {self._name!r} was unplugged: plug it in again"
            elif event.type == pygame.JOYBUTTONDOWN and event.instance_id == self._id:
                verdict = EVENT_BUTTONS.get(event.button)
                if verdict is not None:
                    self._pending.push(verdict)

    def _action(self) -> F32:
        axes = self.axes
        close = self._trigger(CLOSE_BUTTON, axes.close)
        grip = float(self._trigger(OPEN_BUTTON, axes.open)) - float(close)
        sticks = (-self._stick(axis) for axis in (axes.x, axes.y, axes.z))
        return np.array([*sticks, grip], dtype=np.float32)

    def _stick(self, axis: int) -> float:
        # SDL counts -32768..32767 and pygame divides by 32768, which makes full deflection uneven
        value = min(1.0, max(-1.0, float(self._pad.get_axis(axis)) * 32768 / 32767))
        beyond = max(0.0, abs(value) - self._deadzone) / (1.0 - self._deadzone)
        return beyond if value > 0.0 else -beyond

    def _trigger(self, button: int, axis: int | None) -> bool:
        if button < self._pad.get_numbuttons() and self._pad.get_button(button):
            return True
        return axis is not None and float(self._pad.get_axis(axis)) > TRIGGER_PRESSED


def start_pygame() -> ModuleType:
    """Start pygame with joysticks on; no window, and no sound, signal handler or greeting of its own."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")
    headless = sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if headless:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pygame
    try:
        # SDL's event queue belongs to its video part
        pygame.display.init()
        pygame.joystick.init()
    except pygame.error as error:
        raise TeleopError(f"cannot start SDL for the gamepad: {error}") from error
    module: ModuleType = pygame
    return module


def _choose(device: str, names: list[str]) -> int:
    """Index of the pad called `device`, or TeleopError that says which there are."""
    if device.isdigit():
        found = [int(device)] if int(device) < len(names) else []
    else:
        found = [i for i, name in enumerate(names) if device.lower() in name.lower()]
    if len(found) == 1:
        return found[0]
    connected = ", ".join(f"{i}: {name!r}" for i, name in enumerate(names)) or "none"
    fits = "more than one gamepad fits" if found else "no gamepad fits"
    raise TeleopError(f"{fits} {device!r} (an index or part of a name); connected: {connected}")
