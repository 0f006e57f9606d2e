"""Chromium without a window, driven through its own driver; nothing of a user's profile, and no network."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


def program() -> str | None:
    """The installed browser."""
    return next((found for name in CHROMIUM if (found := shutil.which(name))), None)


def missing() -> str:
    """What is not installed; empty when a page can be opened."""
    if program() is None:
        return "needs Chromium: apt-get install chromium chromium-driver"
    if shutil.which("chromedriver") is None:
        return "needs Chromium's driver: apt-get install chromium-driver"
    try:
        import selenium.webdriver
    except ImportError as error:
        return f"needs selenium ({error}): pip install selenium"
    assert selenium
    return ""


def log(driver: Any, kind: str) -> list[dict[str, Any]]:
    """What the browser logged since the last call: `browser`, its console; `performance`, its requests."""
    return list(driver.get_log(kind))


@contextmanager
def started(width: int, height: int, *, dark: bool = False) -> Iterator[Chrome]:
    """A browser of its own, with a window of that many pixels."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = program() or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
            yield driver
        finally:
            driver.quit()
