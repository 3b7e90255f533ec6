"""A page in the system's Chromium, for tests of what a person sees.

Importing this skips the test where Chromium or Playwright is missing, and says so.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("playwright", reason="playwright is missing: pip install playwright")
from playwright.sync_api import Page, expect, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
if not CHROMIUM:
    pytest.skip("Chromium is missing: apt-get install chromium", allow_module_level=True)

# no sandbox, which a container can't give it, and no word to the network
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-quic", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
SECONDS = 120  # what takes longer fails, on a slow and busy machine too
expect.set_options(timeout=SECONDS * 1000)


@contextmanager
def open_page(width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A page of a browser that remembers nothing."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(SECONDS * 1000)
        yield page
        browser.close()
