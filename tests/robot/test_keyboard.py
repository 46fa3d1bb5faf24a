from __future__ import annotations

import time

import numpy as np
import pytest

from robot.errors import TeleopError
from robot.teleop.keyboard import Keyboard
from robot.types import ArmState, Event, Operator
from tests.fakes.xserver import MISSING, XServer

STATE = ArmState(np.zeros(6, np.float32), np.zeros(6, np.float32), 0.0)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def server():
    server = XServer()
    yield server
    server.close()


@pytest.fixture
def keyboard(server, monkeypatch):
    monkeypatch.setenv("DISPLAY", server.display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("XDG_SESSION_TYPE", raising=False)
    keyboard = Keyboard()
    yield keyboard
    keyboard.close()


def read_until(keyboard: Keyboard, wanted) -> Operator:
    """Key events travel through a server and a thread: read until `wanted` holds."""
    deadline = time.monotonic() + 10.0
    while not wanted(said := keyboard.read(STATE)):
        assert time.monotonic() < deadline, f"never came; last {said}"
        time.sleep(0.005)
    return said


def taken_over(said: Operator) -> bool:
    return said.action is not None


@pytest.mark.parametrize(
    ("key", "component", "value"),
    [
        ("Up", 0, 1.0),
        ("Down", 0, -1.0),
        ("Left", 1, 1.0),
        ("Right", 1, -1.0),
        ("Shift_R", 2, 1.0),
        ("Shift_L", 2, -1.0),
        ("Control_L", 3, -1.0),
        ("Control_R", 3, 1.0),
    ],
)
def test_keys_move_while_the_space_bar_is_held(keyboard, server, key, component, value):
    server.press(key)
    assert keyboard.read(STATE).action is None
    server.press("space")
    said = read_until(keyboard, lambda o: taken_over(o) and np.any(o.action))
    expected = np.zeros(4, np.float32)
    expected[component] = value
    np.testing.assert_array_equal(said.action, expected)
    server.release(key)
    read_until(keyboard, lambda o: taken_over(o) and not np.any(o.action))
    server.release("space")
    read_until(keyboard, lambda o: not taken_over(o))


def test_opposite_keys_cancel_and_others_add_up(keyboard, server):
    for key in ("space", "Up", "Left", "Control_L", "Control_R"):
        server.press(key)
    said = read_until(keyboard, lambda o: taken_over(o) and np.count_nonzero(o.action) == 2)
    np.testing.assert_array_equal(said.action, [1.0, 1.0, 0.0, 0.0])
    for key in ("space", "Up", "Left", "Control_L", "Control_R"):
        server.release(key)


@pytest.mark.parametrize(
    ("key", "event"),
    [
        ("Return", Event.SUCCESS),
        ("BackSpace", Event.FAILURE),
        ("r", Event.DISCARD),
        ("Escape", Event.STOP),
    ],
)
def test_a_press_is_one_event_even_when_the_system_repeats_it(keyboard, server, key, event):
    assert not keyboard.stop_asked()
    deadline = time.monotonic() + 10.0
    server.press(key)
    while event is Event.STOP and not keyboard.stop_asked():
        assert time.monotonic() < deadline, "the stop was never noticed"
        time.sleep(0.005)
    assert read_until(keyboard, lambda o: o.event is not None).event is event
    assert not keyboard.stop_asked()
    time.sleep(0.9)  # the server's automatic repeat begins after 0.66 s
    server.release(key)
    server.press("space")
    heard = []
    read_until(keyboard, lambda o: heard.append(o.event) or taken_over(o))
    server.release("space")
    assert set(heard) == {None}


def test_keys_typed_into_another_window_neither_steer_nor_judge(keyboard, server, monkeypatch):
    from Xlib import X, display

    connection = display.Display(server.display)
    window = connection.screen().root.create_window(0, 0, 50, 50, 0, X.CopyFromParent)
    window.map()
    connection.sync()
    time.sleep(0.1)
    home = connection.get_input_focus()
    window.set_input_focus(X.RevertToPointerRoot, X.CurrentTime)
    connection.sync()
    server.press("Return")
    server.release("Return")
    server.press("space")
    time.sleep(0.2)
    said = keyboard.read(STATE)
    assert said.action is None and said.event is None
    server.release("space")
    connection.set_input_focus(home.focus, X.RevertToPointerRoot, X.CurrentTime)
    connection.sync()
    server.press("space")
    read_until(keyboard, taken_over)
    window.set_input_focus(X.RevertToPointerRoot, X.CurrentTime)
    connection.sync()
    server.release("space")
    read_until(keyboard, lambda o: not taken_over(o))
    window.destroy()
    connection.close()


def test_a_closed_keyboard_is_an_error(keyboard):
    keyboard.close()
    keyboard.close()
    with pytest.raises(TeleopError, match="is closed"):
        keyboard.read(STATE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_losing_the_display_is_an_error_not_a_held_key(monkeypatch):
    server = XServer()
    monkeypatch.setenv("DISPLAY", server.display)
    keyboard = Keyboard()
    server.press("space")
    read_until(keyboard, taken_over)
    server.close()
    deadline = time.monotonic() + 10.0
    with pytest.raises(TeleopError, match="the display is gone"):
        while time.monotonic() < deadline:
            keyboard.read(STATE)
            time.sleep(0.01)
    keyboard.close()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("DISPLAY", "", "DISPLAY is not set"), ("WAYLAND_DISPLAY", "wayland-0", "Wayland")],
)
def test_where_keys_cannot_be_heard_it_says_so(monkeypatch, name, value, message):
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(TeleopError, match=message):
        Keyboard()
