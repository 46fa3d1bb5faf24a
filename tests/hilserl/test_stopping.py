"""One interrupt asks, a second one forces."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hilserl.stopping import FORCED, stop_on_interrupt

ROOT = Path(__file__).resolve().parents[2]
LOOP = """
import sys, time
from hilserl.stopping import stop_on_interrupt
with stop_on_interrupt() as stop:
    print("ready", flush=True)
    while not stop():
        time.sleep(0.01)
    print("asked", flush=True)
    if sys.argv[1] == "hang":
        time.sleep(120)
print("ended", flush=True)
"""


def start(mode: str) -> subprocess.Popen:
    command = [sys.executable, "-c", LOOP, mode]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_and_the_loop_ends_by_itself(number):
    process = start("end")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("asked\nended\n", 0)
    assert "interrupt again to force" in err


def test_a_second_interrupt_ends_a_process_that_hangs():
    process = start("hang")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("", FORCED)
    assert "forced" in err


def test_a_second_terminate_does_not_force():
    process = start("hang")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == FORCED


def test_what_handled_signals_before_does_so_again():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), stop_on_interrupt() as stop:
        assert signal.getsignal(signal.SIGINT) is not before[0]
        assert not stop()
        stop.ask()
        assert stop()
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
