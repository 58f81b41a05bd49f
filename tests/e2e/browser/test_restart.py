"""The page survives a restart of the daemon."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from support.browser import Watched
from support.daemon import running_daemon

pytestmark = pytest.mark.clients


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_page_says_that_the_daemon_is_gone_and_comes_back_with_it(
    watch: Callable[..., Watched], tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    port = f"--port={free_port()}"
    with running_daemon(first, port) as daemon:
        page = watch().open(daemon.url)
        expect(page.locator("#banner")).to_be_hidden()
        daemon.stop()
        expect(page.locator("#link-word")).to_have_text("not connected")
        expect(page.locator("#banner")).to_contain_text("Not connected since")
        expect(page.locator("#banner")).to_contain_text("flexquant-serve")
        expect(page.locator("#position")).not_to_have_text("…")
        with page.expect_request("**/v1/models"):
            page.get_by_role("button", name="Try now").click()
    with running_daemon(second, port, "--pin=5") as daemon:
        # By itself, ten seconds after a try that failed at the latest.
        expect(page.locator("#link-word")).to_have_text("live", timeout=15_000)
        expect(page.locator("#banner")).to_be_hidden()
        expect(page.locator("#position")).to_have_text("5")
        page.get_by_label("Your message").fill("What is a trait?")
        page.keyboard.press("Enter")
        expect(page.locator(".message.answer small")).to_contain_text("position 5 · ")
