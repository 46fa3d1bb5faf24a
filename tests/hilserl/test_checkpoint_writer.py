"""Checkpoints beside the loop: nothing waits, the newest and the best are written, errors come back."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.checkpoint_writer import CheckpointWriter, WritingFailed

PATIENCE_S = 20.0


class Disk:
    """What was written, in order; each write waits for its turn."""

    def __init__(self) -> None:
        self.written: list[tuple[int, bool]] = []
        self.busy = 0
        self._begun, self._turns = threading.Semaphore(0), threading.Semaphore(0)

    def write(self, snapshot: int, best: bool) -> None:
        assert self.busy == 0, "two at a time"
        self.busy += 1
        self._begun.release()
        assert self._turns.acquire(timeout=PATIENCE_S)
        self.written.append((snapshot, best))
        self.busy -= 1

    def wait_begun(self) -> None:
        assert self._begun.acquire(timeout=PATIENCE_S)

    def let(self, writes: int) -> None:
        self._turns.release(writes)


@settings(max_examples=50, deadline=None)
@given(rounds=st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_newest_and_the_best_are_always_written(rounds):
    """Each round: snapshots handed over while one is being written; then the disk gets on."""
    disk, number = Disk(), 0
    submitted: list[tuple[int, bool]] = []
    with CheckpointWriter(disk.write) as writer:
        for round_ in rounds:
            for index, best in enumerate(round_):
                submitted.append((number, best))
                writer.submit(number, best=best)
                number += 1
                if index == 0:
                    disk.wait_begun()
            disk.let(len(round_))
            while len(disk.written) == 0 or disk.written[-1][0] != number - 1:
                time.sleep(0.001)
            disk._turns, disk._begun = threading.Semaphore(0), threading.Semaphore(0)
    assert disk.written == sorted(disk.written), "in order"
    assert set(disk.written) <= set(submitted)
    assert disk.written[-1] == submitted[-1]
    bests = [number for number, best in submitted if best]
    if bests:
        assert [number for number, best in disk.written if best][-1] == bests[-1]
    assert len(disk.written) <= sum(min(3, len(round_)) for round_ in rounds), "those between are skipped"


def test_handing_over_does_not_wait_and_closing_does():
    disk = Disk()
    writer = CheckpointWriter(disk.write)
    for number in range(100):
        writer.submit(number, best=False)
        if number == 0:
            disk.wait_begun()
    assert disk.written == []
    disk.let(2)
    writer.close()
    assert disk.written == [(0, False), (99, False)]
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoints"]


def failing_writer() -> CheckpointWriter[int]:
    def write(snapshot: int, best: bool) -> None:
        raise OSError("no space left")

    writer = CheckpointWriter(write)
    writer.submit(1, best=False)
    while any(thread.name == "checkpoints" for thread in threading.enumerate()):
        time.sleep(0.001)
    return writer


def test_an_error_is_raised_at_every_later_occasion():
    for occasion in (
        lambda writer: writer.check(),
        lambda writer: writer.submit(2, best=True),
        lambda writer: writer.close(),
    ):
        with pytest.raises(WritingFailed, match="no space left") as told:
            occasion(failing_writer())
        assert isinstance(told.value.__cause__, OSError)
    with pytest.raises(WritingFailed), failing_writer():
        pass


def test_another_error_on_its_way_out_is_not_hidden():
    with pytest.raises(FloatingPointError), failing_writer():
        raise FloatingPointError("diverged")
