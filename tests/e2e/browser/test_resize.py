"""The page shows a resize as it happens, and orders one."""

import re

import pytest
from playwright.sync_api import Page, expect

from support.daemon import RunningDaemon

pytestmark = pytest.mark.clients


def state(daemon: RunningDaemon) -> dict[str, object]:
    found: dict[str, object] = daemon.get("/v1/elastic").json()
    return found


def test_a_resize_is_shown_as_it_happens(page: Page, daemon: RunningDaemon) -> None:
    last = daemon.get("/v1/elastic").json()["max_position"]
    daemon.post("/v1/elastic/target", {"position": 0})
    expect(page.locator("#position")).to_have_text("0")
    here = page.locator("#sequence-chart circle.here").first
    left = float(here.get_attribute("cx") or "")
    # Whatever the page shows from now on it has heard from the stream of events: it looks once a second only.
    page.evaluate("() => { window.seen = []; }")
    page.evaluate(
        """() => new MutationObserver(() => window.seen.push(document.getElementById("position").textContent))
               .observe(document.getElementById("position"), {childList: true, characterData: true, subtree: true})"""
    )
    small = daemon.post("/v1/elastic/target", {"position": last}).json()
    expect(page.locator("#position")).to_have_text(str(last))
    expect(page.locator("#weights")).to_have_text(f"{small['footprint_bytes'] / 2**20:.2f} MiB")
    expect(page.locator("#decisions-list li").first).to_contain_text(f"Moved: 0 → {last}")
    expect(page.locator("#memory-chart text.mark.wish").last).to_be_attached()
    assert float(here.get_attribute("cx") or "") > left
    assert page.evaluate("() => window.seen.at(-1)") == str(last)


def test_keys_alone_pin_a_position_and_let_go(page: Page, daemon: RunningDaemon) -> None:
    daemon.post("/v1/elastic/target", {"position": 0})
    expect(page.locator("#position")).to_have_text("0")
    slider = page.get_by_role("slider", name="Position to hold")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", re.compile(r"^Position 3 of \d+: [\d.]+ MiB, KL"))
    assert state(daemon)["position"] == 0, "nothing moves before it is ordered"
    page.keyboard.press("Enter")
    expect(page.locator("#control-outcome")).to_contain_text("Pinned to 3. Now at position 3")
    assert state(daemon)["pinned_position"] == 3

    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    expect(page.locator("#choice")).to_contain_text("Position 3:")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Follow memory")).to_be_focused()
    page.keyboard.press("Space")
    expect(page.locator("#follow")).to_have_attribute("aria-pressed", "true")
    assert state(daemon)["mode"] == "auto"


def test_bytes_pin_what_fits(page: Page, daemon: RunningDaemon) -> None:
    page.get_by_label("Weights of at most").fill("5")
    page.get_by_role("button", name="Pin what fits").click()
    expect(page.locator("#control-outcome")).to_contain_text("Pinned to")
    found = daemon.get("/v1/elastic").json()
    sizes = [position["footprint_bytes"] for position in daemon.get("/v1/elastic/sequence").json()["positions"]]
    assert found["position"] == next(k for k, size in enumerate(sizes) if size <= 5 * 2**20)


def test_a_limit_holds_and_a_refusal_is_told_in_words(page: Page, daemon: RunningDaemon) -> None:
    page.get_by_label("Never beyond position").fill("4")
    page.get_by_role("button", name="Set limit").click()
    expect(page.locator("#control-outcome")).to_contain_text("Never beyond position 4")
    expect(page.locator("#sequence-chart .forbidden").first).to_be_attached()
    assert state(daemon)["worst_position"] == 4

    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(page.locator("#control-outcome")).to_contain_text("is beyond worst_position 4. Raise the limit")
    expect(page.locator("#control-outcome")).to_have_class("problem")

    page.get_by_role("button", name="No limit").click()
    expect(page.locator("#control-outcome")).to_contain_text("No limit")
    assert state(daemon)["worst_position"] == state(daemon)["max_position"]


def test_a_pin_may_have_an_end(page: Page, daemon: RunningDaemon) -> None:
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_label("Hold for").select_option("one minute")
    page.locator("#pin").click()
    expect(page.locator("#control-outcome")).to_contain_text("Pinned to 1")
    ttl = state(daemon)["ttl_seconds"]
    assert isinstance(ttl, float)
    assert 0 < ttl <= 60
