"""A real browser, Debian's chromium driven by Playwright, for tests of the operator's page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

LIMIT_MS = 20_000.0  # a loaded machine draws a page in some seconds


def chromium() -> str:
    """Path of the browser; skips the test if there is none."""
    path = os.environ.get("RLFP_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium); RLFP_CHROMIUM=PATH names another one")
    return path


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser without a window."""
    path = chromium()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # root needs that
        yield started
        started.close()


def open_page(started: Browser, address: str, width: int = 1280, height: int = 800, dark: bool = False) -> Page:
    """Open the operator's page in a context of its own; errors in its scripts fail the test that waits for them."""
    context = started.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(LIMIT_MS)
    page.goto(address)
    return page
