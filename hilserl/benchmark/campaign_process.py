"""A program of a fault campaign: started, spoken to, heard, ended; everything it said with its time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

PATIENCE_S: Final = 90.0


class Program:
    """`python -m MODULE WORDS...`, in a session of its own.

    lines: (monotonic time [s], line) of what a person reads. facts: what it told the judge.
    """

    def __init__(self, module: str, words: Sequence[str], log: Path) -> None:
        """log: a file everything it says is added to."""
        self.lines: list[tuple[float, str]] = []
        self.facts: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"COLUMNS": "200", "SDL_VIDEODRIVER": "dummy"},
        )
        self._heard, self._over = threading.Condition(), False
        self._log = log
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, line: str) -> None:
        """Write a line to its stdin; nobody may be there any more."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def wait(self, ready: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
        """Wait until `ready` after a line it said, or until nobody can say one. Whether it is."""
        with self._heard:
            self._heard.wait_for(lambda: ready() or self._over, timeout_s)
            return ready()

    def wait_fact(self, what: str, after_s: float = 0.0, timeout_s: float = PATIENCE_S) -> bool:
        """Wait for a fact told after `after_s`."""
        return self.wait(lambda: self.fact(what, after_s) is not None, timeout_s)

    def wait_line(self, pattern: str, timeout_s: float = PATIENCE_S) -> bool:
        """Wait for a line that matches."""
        return self.wait(lambda: any(re.search(pattern, line) for _, line in self.lines), timeout_s)

    def fact(self, what: str, after_s: float = 0.0) -> dict[str, Any] | None:
        """The first fact of this kind after `after_s`."""
        return next((f for f in list(self.facts) if f["what"] == what and f["t_s"] > after_s), None)

    @property
    def alive(self) -> bool:
        """Whether the program itself runs; its watchdog may live on."""
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send it to the program alone."""
        if self.alive:
            os.kill(self.process.pid, number)

    def await_end(self, timeout_s: float = PATIENCE_S) -> bool:
        """Wait until it and its watchdog are gone (both have its output open). False when time is up."""
        self._reader.join(timeout_s)
        if self._reader.is_alive():
            return False
        self.process.wait(timeout_s)
        return True

    def close(self) -> None:
        """End it whatever it does."""
        if self.alive:
            self.signal(signal.SIGCONT)
            self.process.kill()
        self.await_end()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self._log.open("a") as log:
            for line in self.process.stdout:
                t_s = time.monotonic()
                log.write(f"{t_s:.3f} {line}")
                log.flush()
                with self._heard:
                    if line.startswith("@"):
                        self.facts.append(json.loads(line[1:]))
                    else:
                        self.lines.append((t_s, line.rstrip("\n")))
                    self._heard.notify_all()
        with self._heard:
            self._over = True
            self._heard.notify_all()
