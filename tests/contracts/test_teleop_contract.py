"""What every teleoperation device promises, whatever it is made of.

A device joins with a Hands class: how a person holds, moves and presses it. `read` returns once the device
has heard of what was done last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robot.teleop.gamepad import CLOSE_BUTTON, OPEN_BUTTON, TAKE_OVER, Gamepad
from robot.teleop.keyboard import Keyboard
from robot.twin.virtual_pad import VirtualPad
from robot.types import ArmState, Event, Operator, Teleop
from tests.fakes.xserver import MISSING, XServer

STATE = ArmState(np.zeros(6, np.float32), np.zeros(6, np.float32), 0.0)


NAMES = {
    "Up": "up",
    "Down": "down",
    "Left": "left",
    "Right": "right",
    "space": "space",
    "Control_L": "ctrl",
    "Control_R": "ctrl_r",
    "Shift_L": "shift",
    "Shift_R": "shift_r",
}
"""X name of a key: its name here."""


class Hands(Protocol):
    """A person at a device. move: components in [-1, 1], as far as the device can say them."""

    device: Teleop

    def take_over(self, on: bool) -> None: ...

    def move(self, xyz: tuple[float, float, float]) -> None: ...

    def grip(self, close: bool, open: bool) -> None: ...

    def tap(self, event: Event) -> None: ...

    def settle(self) -> None:
        """Return when the device has heard everything done so far."""


class PadHands:
    BUTTONS = {Event.SUCCESS: 3, Event.FAILURE: 1, Event.DISCARD: 0, Event.STOP: 2}

    def __init__(self) -> None:
        self._pad = VirtualPad()
        self.device: Teleop = Gamepad()

    def take_over(self, on: bool) -> None:
        (self._pad.press if on else self._pad.release)(TAKE_OVER)

    def move(self, xyz: tuple[float, float, float]) -> None:
        for axis, value in zip((1, 0, 3), xyz, strict=True):
            self._pad.axis(axis, -value)

    def grip(self, close: bool, open: bool) -> None:
        (self._pad.press if close else self._pad.release)(CLOSE_BUTTON)
        (self._pad.press if open else self._pad.release)(OPEN_BUTTON)

    def tap(self, event: Event) -> None:
        self._pad.press(self.BUTTONS[event])
        self._pad.release(self.BUTTONS[event])

    def settle(self) -> None:
        """SDL hears at once."""

    def close(self) -> None:
        self.device.close()
        self._pad.unplug()


class KeyHands:
    KEYS = {Event.SUCCESS: "Return", Event.FAILURE: "BackSpace", Event.DISCARD: "r", Event.STOP: "Escape"}
    MOVES = (("Up", "Down"), ("Left", "Right"), ("Shift_R", "Shift_L"))

    def __init__(self, server: XServer) -> None:
        self._server = server
        self._keyboard = Keyboard()
        self.device: Teleop = self._keyboard
        self._down: set[str] = set()

    def _hold(self, key: str, on: bool) -> None:
        if on != (key in self._down):
            (self._server.press if on else self._server.release)(key)
            (self._down.add if on else self._down.discard)(key)

    def take_over(self, on: bool) -> None:
        self._hold("space", on)

    def move(self, xyz: tuple[float, float, float]) -> None:
        for (plus, minus), value in zip(self.MOVES, xyz, strict=True):
            self._hold(plus, value > 0.5)
            self._hold(minus, value < -0.5)

    def grip(self, close: bool, open: bool) -> None:
        self._hold("Control_L", close)
        self._hold("Control_R", open)

    def tap(self, event: Event) -> None:
        self._server.press(self.KEYS[event])
        self._server.release(self.KEYS[event])

    def settle(self) -> None:
        """Key events travel through a server and a thread: wait until the held keys are the ones held."""
        wanted = {NAMES[key] for key in self._down}
        deadline = time.monotonic() + 10.0
        while self._keyboard._held != wanted:
            assert time.monotonic() < deadline, f"held {wanted}, heard {self._keyboard._held}"
            time.sleep(0.002)

    def close(self) -> None:
        for key in list(self._down):
            self._hold(key, False)
        self.settle()
        self.device.close()


@pytest.fixture(scope="module")
def x_server() -> Iterator[XServer | None]:
    server = None if MISSING else XServer()
    yield server
    if server is not None:
        server.close()


@pytest.fixture(params=["gamepad", "keyboard"])
def hands(
    request: pytest.FixtureRequest, x_server: XServer | None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PadHands | KeyHands]:
    made: PadHands | KeyHands
    if request.param == "gamepad":
        made = PadHands()
    else:
        if x_server is None:
            pytest.skip(f"not installed: {', '.join(MISSING)}")
        monkeypatch.setenv("DISPLAY", x_server.display)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        monkeypatch.delenv("XDG_SESSION_TYPE", raising=False)
        made = KeyHands(x_server)
    made.device.reset(0)
    yield made
    made.close()


def said(hands: Hands) -> Operator:
    hands.settle()
    return hands.device.read(STATE)


def events_of(hands: Hands, enough: Callable[[list[Event]], bool]) -> list[Event]:
    """Every event reported until there are enough, and in some reads after."""
    heard: list[Event] = []
    deadline, after = time.monotonic() + 10.0, 5
    while after and time.monotonic() < deadline:
        after -= enough(heard)
        event = said(hands).event
        if event is not None:
            heard.append(event)
    return heard


def test_the_policy_acts_until_the_person_takes_over_and_in_the_very_step_he_lets_go(hands):
    for _ in range(3):
        hands.move((1.0, 0.0, 0.0))
        assert said(hands).action is None
        hands.take_over(True)
        action = said(hands).action
        assert action is not None and action[0] == 1.0
        hands.take_over(False)
        assert said(hands).action is None
        hands.move((0.0, 0.0, 0.0))


def test_taking_over_without_moving_asks_for_nothing(hands):
    hands.take_over(True)
    np.testing.assert_array_equal(said(hands).action, np.zeros(4, np.float32))


@pytest.mark.parametrize(
    ("close", "open", "grip"),
    [(False, False, 0.0), (True, False, -1.0), (False, True, 1.0), (True, True, 0.0)],
)
def test_minus_one_closes_zero_holds_one_opens(hands, close, open, grip):
    hands.take_over(True)
    hands.grip(close, open)
    np.testing.assert_array_equal(said(hands).action, [0.0, 0.0, 0.0, grip])
    hands.grip(False, False)
    assert said(hands).action[3] == 0.0


@pytest.mark.parametrize("component", [0, 1, 2])
@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_full_deflection_is_one_component_at_its_end(hands, component, value):
    hands.take_over(True)
    xyz = [0.0, 0.0, 0.0]
    xyz[component] = value
    hands.move(tuple(xyz))
    np.testing.assert_array_equal(said(hands).action, [*xyz, 0.0])


@pytest.mark.parametrize("event", list(Event))
def test_a_tap_between_two_reads_is_one_event(hands, event):
    hands.tap(event)
    assert events_of(hands, bool) == [event]


def test_no_tap_of_many_is_lost_and_their_order_is_kept(hands):
    order = [Event.SUCCESS, Event.FAILURE, Event.SUCCESS, Event.DISCARD, Event.STOP, Event.FAILURE]
    for event in order:
        hands.tap(event)
    assert events_of(hands, lambda heard: len(heard) >= len(order)) == order


def test_events_arrive_with_and_without_the_hand_on_the_arm(hands):
    hands.take_over(True)
    said(hands)
    hands.tap(Event.SUCCESS)
    assert events_of(hands, bool) == [Event.SUCCESS]


def test_a_new_episode_forgets_verdicts_on_the_old_one_but_never_a_stop(hands):
    for event in (Event.SUCCESS, Event.STOP, Event.DISCARD):
        hands.tap(event)
    said(hands)  # SUCCESS; it also waits for the rest
    time.sleep(0.1)
    hands.device.reset(1)
    assert events_of(hands, bool) == [Event.STOP]
    hands.tap(Event.FAILURE)
    time.sleep(0.1)
    hands.device.reset(2)
    assert said(hands).event is None


AXIS = st.floats(-1.0, 1.0)


@pytest.mark.parametrize("held", [True, False])
def test_every_action_is_four_float32_within_one(hands, held):
    """Random sticks and triggers (keys: their nearest), the shape, type and range of what comes out."""
    hands.take_over(held)

    @settings(
        max_examples=10 if isinstance(hands, KeyHands) else 200,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(xyz=st.tuples(AXIS, AXIS, AXIS), close=st.booleans(), open=st.booleans())
    def law(xyz, close, open):
        hands.move(xyz)
        hands.grip(close, open)
        action = said(hands).action
        assert (action is not None) == held
        if action is not None:
            assert action.dtype == np.float32 and action.shape == (4,)
            assert np.isfinite(action).all() and np.abs(action).max() <= 1.0
            assert action[3] == float(open) - float(close)
            assert not (np.sign(action[:3]) * np.sign(xyz) < 0).any(), "a component has the wrong sign"

    law()
    hands.move((0.0, 0.0, 0.0))
    hands.grip(False, False)
