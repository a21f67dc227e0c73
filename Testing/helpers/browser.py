"""Headless Chromium for tests of HTML pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    not CHROMIUM or not DRIVER,
    reason="Chromium is not installed: apt-get install chromium chromium-driver",
)


@contextmanager
def browser(width: int = 1400, height: int = 1000, dark: bool = False) -> Iterator[Chrome]:
    """Yield a driver of headless Chromium, which resolves no host name except localhost.

    Args:
        width, height: size of the window in pixels.
        dark: True for the dark colour scheme.
    """
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    # Chromium's sandbox does not start for root (as in containers); the tests need none, since they
    # open only their own pages.
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
        f"--window-size={width},{height}",
        *(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "OFF"})
    # Chromium leaves files in the folder for temporary files.
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # Selenium downloads no driver if it is given the path of one.
        service = Service(executable_path=str(DRIVER), env={**os.environ, "TMPDIR": folder})
        driver = Chrome(options=options, service=service)
        try:
            driver.set_page_load_timeout(120)
            yield driver
        finally:
            driver.quit()
