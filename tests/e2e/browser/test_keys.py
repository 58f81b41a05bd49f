"""A daemon with keys: the page asks for them, and sends them everywhere."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from support.browser import Watched
from support.daemon import running_daemon

pytestmark = pytest.mark.clients

KEY, ADMIN = "key-of-the-page-1", "key-of-the-admin-2"


def enter(page: Page, key: str) -> None:
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Use this key").click()


def test_the_page_asks_for_the_key_and_the_admins(watch: Callable[..., Watched], tmp_path: Path) -> None:
    environment = {"FLEXQUANT_API_KEY": KEY, "FLEXQUANT_ADMIN_KEY": ADMIN}
    with running_daemon(tmp_path, environment=environment) as daemon:
        watched = watch()
        page = watched.page
        page.goto(daemon.url)
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("This daemon asks for a key")
        expect(page.locator("#position")).to_have_text("…")

        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(page.locator("#banner")).to_contain_text("those who have a key")
        page.get_by_role("button", name="Enter the key").click()
        enter(page, "wrong")
        expect(dialog).to_contain_text("does not know this key")
        enter(page, KEY)
        expect(page.locator("#link-word")).to_have_text("live")
        expect(page.locator("#position")).not_to_have_text("…")

        page.get_by_role("slider").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("admin key")
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#control-outcome")).to_contain_text("Nothing was changed")
        page.get_by_role("slider").focus()
        page.keyboard.press("Enter")
        enter(page, ADMIN)
        expect(page.locator("#control-outcome")).to_contain_text("Pinned to")

        page.get_by_label("Your message").fill("What is a trait?")
        page.keyboard.press("Enter")
        expect(page.locator(".message.answer small")).to_contain_text("token")

        page.reload()
        expect(page.locator("#link-word")).to_have_text("live")
        assert not [request for request in watched.asked if KEY in request.url or ADMIN in request.url]
        assert KEY not in daemon.log()
