"""A real browser for the tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_S = 60
"""Longest wait for what a page is to show; nothing fails by being slow."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Give a headless Chromium with a profile of its own."""
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("the tests of the pages open them in Chromium: apt-get install chromium", pytrace=False)
    expect.set_options(timeout=1000 * WAIT_S)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS], timeout=1000 * WAIT_S)
        try:
            yield browser
        finally:
            browser.close()


class Watch:
    """What a page asks for and complains about. `allowed` are parts of complaints that a test provokes."""

    def __init__(self, page: Page, url: str) -> None:
        self.url = url
        self.asked: list[str] = []
        self.complaints: list[str] = []
        # Tests read single pixels of canvases, which Chromium has something to say about.
        self.allowed: tuple[str, ...] = ("willReadFrequently",)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))

    def check(self) -> None:
        """Check that nothing was asked of others, and that nothing unexpected was complained about."""
        assert [url for url in self.asked if not url.startswith((f"{self.url}/", f"blob:{self.url}/"))] == []
        assert [said for said in self.complaints if not any(part in said for part in self.allowed)] == []


@contextmanager
def opened_page(browser: Browser, url: str, **options: Any) -> Iterator[tuple[Page, Watch]]:  # noqa: ANN401
    """Open the page of a service in a window of its own, and check at the end what it asked for."""
    context = browser.new_context(**options)
    try:
        page = context.new_page()
        page.set_default_timeout(1000 * WAIT_S)
        watch = Watch(page, url)
        page.goto(f"{url}/")
        yield page, watch
        watch.check()
    finally:
        context.close()
