"""A real Chromium, and what a page in it did: for tests of the dashboard and for its pictures."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS: Final = 30_000
"""After which something is broken, on whatever machine this runs."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium without a window, as the system's packages install it.

    Raises:
        LookupError: There is none.
    """
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise LookupError(f"none of {', '.join(NAMES)} is installed: install Debian's package chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page, and all that it complained about and asked for.

    Args:
        browser: Opens it, in a context of its own.
        options: Of the context, such as `color_scheme`.
    """

    def __init__(self, browser: Browser, **options: Any) -> None:
        self._context = browser.new_context(**options)
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.asked: list[Request] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on("request", lambda request: self.asked.append(request))

    @property
    def hosts(self) -> set[str]:
        """Where requests went to: hosts with ports."""
        return {urlsplit(request.url).netloc for request in self.asked}

    def open(self, url: str) -> Page:
        """Load the dashboard of the daemon at `url`, and wait until it is connected."""
        self.page.goto(url)
        expect(self.page.locator("#link-word")).to_have_text("live")
        expect(self.page.locator("#position")).not_to_have_text("…")
        return self.page

    def close(self) -> None:
        """Close the page."""
        self._context.close()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")
