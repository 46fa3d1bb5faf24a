"""Headless Chromium, and pages served by commands of `hilserl` in processes of their own.

In a test module: `from tests.fakes.browser import browser  # noqa: F401`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
SIZE = (1280, 900)
PATIENCE_S = 60.0
"""How long something that must happen may take before the test fails: a slow core is no fault."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A selenium driver of headless Chromium, shared by a module. Skips where Chromium is missing."""
    driver = _start()
    yield driver
    driver.quit()


def _start() -> Any:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium with chromedriver here (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-proxy-server",
        f"--window-size={SIZE[0]},{SIZE[1]}",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False},
    )
    return driver


@contextmanager
def page(*words: str) -> Iterator[str]:
    """The address of the page that `hilserl WORDS` serves; the command must end well when interrupted."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"}
    environment.pop("NICEGUI_SCREEN_TEST_PORT", None)
    environment.pop("PYTEST_CURRENT_TEST", None)  # NiceGUI behaves otherwise under pytest
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "hilserl", *words],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

        def told() -> str:
            log.seek(0)
            return log.read()

        try:
            address = wait_for(
                lambda: re.search(r"http://127\.0\.0\.1:\d+/", told()) or process.poll() is not None, told
            )
            assert isinstance(address, re.Match), f"hilserl {' '.join(words)} ended:\n{told()}"
            yield address[0]
            assert process.poll() is None, f"the page ended by itself:\n{told()}"
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0, told()
            assert "Traceback" not in told(), told()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def wait_for[T](look: Callable[[], T], told: Callable[[], object] = lambda: "") -> T:
    """What `look` returns once that is true. An exception of it counts as not yet. told: for the message."""
    end = time.monotonic() + PATIENCE_S
    error: Exception | None = None
    while time.monotonic() < end:
        try:
            if found := look():
                return found
            error = None
        except Exception as latest:  # noqa: BLE001
            error = latest
        time.sleep(0.03)
    raise AssertionError(f"waited in vain: {error or ''} {told()}")


def page_errors(driver: Any) -> list[str]:
    """What the page's scripts complained of since the last call."""
    return [line["message"] for line in driver.get_log("browser") if line["level"] == "SEVERE"]
