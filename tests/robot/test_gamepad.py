from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robot.errors import TeleopError
from robot.teleop.gamepad import STICK_AXES, TAKE_OVER, TRIGGER_AXES, Gamepad
from robot.twin.virtual_pad import VirtualPad
from robot.types import ArmState, Event

STATE = ArmState(np.zeros(6, np.float32), np.zeros(6, np.float32), 0.0)


@pytest.fixture
def plug():
    made: list[VirtualPad] = []

    def make(**shape) -> VirtualPad:
        made.append(VirtualPad(**shape))
        return made[-1]

    yield make
    for pad in made:
        pad.unplug()


@pytest.fixture
def opened(plug):
    pads: list[Gamepad] = []

    def make(*, axes: int = 4, buttons: int = 12, **settings) -> tuple[VirtualPad, Gamepad]:
        virtual = plug(axes=axes, buttons=buttons)
        pads.append(Gamepad(**settings))
        return virtual, pads[-1]

    yield make
    for pad in pads:
        pad.close()


def action_of(gamepad: Gamepad) -> np.ndarray:
    action = gamepad.read(STATE).action
    assert action is not None
    return action


@pytest.mark.parametrize(
    ("axes", "axis", "component"), [(4, 1, 0), (4, 0, 1), (4, 3, 2), (6, 1, 0), (6, 0, 1), (6, 4, 2)]
)
def test_sticks_have_lerobots_axes_and_signs(opened, axes, axis, component):
    virtual, gamepad = opened(axes=axes)
    virtual.press(TAKE_OVER)
    for value in (-1.0, 1.0):
        virtual.axis(axis, value)
        expected = np.zeros(4, np.float32)
        expected[component] = -value
        np.testing.assert_array_equal(action_of(gamepad), expected)


def test_the_layout_follows_the_number_of_axes_unless_given(opened):
    assert opened(axes=4)[1].axes == STICK_AXES
    assert opened(axes=6, device="1")[1].axes == TRIGGER_AXES
    given = Gamepad("1", axes=STICK_AXES)
    assert given.axes == STICK_AXES
    given.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(deadzone=st.floats(0.0, 0.9))
def test_the_deadzone_is_at_rest_and_continuous_at_its_edge(opened_once, deadzone):
    virtual, gamepad = opened_once
    gamepad._deadzone = deadzone
    last = None
    for value in np.linspace(-1.0, 1.0, 101):
        virtual.axis(1, float(value))
        x = float(action_of(gamepad)[0])
        if abs(value) <= deadzone - 1e-3:
            assert x == 0.0
        if last is not None:
            assert x <= last + 1e-6, "not monotonic"
            assert last - x <= 0.0201 / (1.0 - deadzone), "a jump"
        last = x
    assert last == -1.0


@pytest.fixture
def opened_once(opened):
    virtual, gamepad = opened()
    virtual.press(TAKE_OVER)
    return virtual, gamepad


def test_triggers_close_and_open_as_buttons_and_as_axes(opened):
    virtual, gamepad = opened(axes=6)
    virtual.press(TAKE_OVER)
    assert action_of(gamepad)[3] == 0.0
    for press, release in (
        (lambda b, _: virtual.press(b), lambda b, _: virtual.release(b)),
        (lambda _, a: virtual.axis(a, 1.0), lambda _, a: virtual.axis(a, -1.0)),
    ):
        press(6, 2)
        assert action_of(gamepad)[3] == -1.0
        press(7, 5)
        assert action_of(gamepad)[3] == 0.0
        release(6, 2)
        assert action_of(gamepad)[3] == 1.0
        release(7, 5)
        assert action_of(gamepad)[3] == 0.0


def test_axis_2_of_a_four_axis_pad_is_no_trigger(opened):
    virtual, gamepad = opened(axes=4)
    virtual.press(TAKE_OVER)
    virtual.axis(2, 1.0)
    np.testing.assert_array_equal(action_of(gamepad), np.zeros(4))


@pytest.mark.parametrize(
    ("button", "event"),
    [(3, Event.SUCCESS), (1, Event.FAILURE), (0, Event.DISCARD), (2, Event.STOP), (8, Event.STOP)],
)
def test_face_buttons(opened, button, event):
    virtual, gamepad = opened()
    virtual.press(button)
    virtual.release(button)
    for _ in range(2):  # asking takes nothing away
        assert gamepad.stop_asked() == (event is Event.STOP)
    assert [gamepad.read(STATE).event for _ in range(3)] == [event, None, None]
    assert not gamepad.stop_asked()


def test_presses_of_another_thread_are_all_reported_in_order(opened):
    virtual, gamepad = opened()
    order = [3, 1, 0, 2] * 25

    def play():
        for button in order:
            virtual.press(button)
            virtual.release(button)

    thread = threading.Thread(target=play)
    thread.start()
    heard = []
    while thread.is_alive() or (heard and heard[-1] is not None):
        heard.append(gamepad.read(STATE).event)
    heard += [gamepad.read(STATE).event for _ in range(len(order))]
    names = {3: Event.SUCCESS, 1: Event.FAILURE, 0: Event.DISCARD, 2: Event.STOP}
    assert [event for event in heard if event] == [names[b] for b in order]


def test_unplugging_during_take_over_is_an_error_and_replugging_works_at_the_next_episode(opened, plug):
    virtual, gamepad = opened()
    virtual.press(TAKE_OVER)
    virtual.axis(1, -1.0)
    assert action_of(gamepad)[0] == 1.0
    virtual.unplug()
    for _ in range(3):
        with pytest.raises(TeleopError, match="'.*Virtual.*' was unplugged"):
            gamepad.read(STATE)
    with pytest.raises(TeleopError, match="connected: none"):
        gamepad.reset(1)
    again = plug()
    gamepad.reset(2)
    assert gamepad.read(STATE).action is None
    again.press(TAKE_OVER)
    np.testing.assert_array_equal(action_of(gamepad), np.zeros(4))


def test_another_pad_neither_steers_nor_judges_nor_ends(opened, plug):
    _, gamepad = opened()
    other = plug()
    other.press(TAKE_OVER)
    other.press(3)
    other.axis(1, 1.0)
    assert gamepad.read(STATE).action is None
    other.unplug()
    said = gamepad.read(STATE)
    assert said.action is None and said.event is None


def test_a_missing_pad_error_says_what_is_connected(plug):
    with pytest.raises(TeleopError, match="no gamepad fits '0'.*connected: none"):
        Gamepad()
    plug()
    with pytest.raises(TeleopError, match="no gamepad fits 'Xbox'.*0: '.*Virtual"):
        Gamepad("Xbox")
    with pytest.raises(TeleopError, match="no gamepad fits '3'"):
        Gamepad("3")
    Gamepad("virtual").close()
    plug()
    with pytest.raises(TeleopError, match="more than one gamepad fits 'virtual'"):
        Gamepad("virtual")


def test_a_device_with_too_few_controls_is_refused(plug):
    plug(axes=2)
    with pytest.raises(TeleopError, match="has 2 axes and 12 buttons; needed are 4 axes"):
        Gamepad()


def test_a_closed_pad_says_so(opened):
    _, gamepad = opened()
    gamepad.close()
    gamepad.close()
    with pytest.raises(TeleopError, match="closed"):
        gamepad.read(STATE)


@pytest.mark.parametrize("deadzone", [-0.1, 1.0, float("nan")])
def test_a_senseless_deadzone_is_refused(deadzone):
    with pytest.raises(ValueError, match="deadzone"):
        Gamepad(deadzone=deadzone)


def test_the_process_keeps_its_signals_and_prints_nothing():
    """SDL would turn SIGTERM into an event nobody reads, and the program could not be ended."""
    code = (  # a suite started in the background hands down an ignored SIGINT
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from robot.twin.virtual_pad import VirtualPad\n"
        "from robot.teleop.gamepad import Gamepad\n"
        "import sys, time\n"
        "pad = VirtualPad(); gamepad = Gamepad()\n"
        "print('ready', flush=True)\n"
        "time.sleep(30)\n"
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SDL", "PYGAME"))
    }
    for ending, code_out in ((signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, -signal.SIGINT)):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(ending)
        assert process.wait(10.0) in (code_out, 1)
        process.stdout.close()
