"""The page as such: what it loads, how soon it shows, on which screens it fits, and whether everybody can use it."""

import sys
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from support.browser import Watched
from support.daemon import RunningDaemon

pytestmark = pytest.mark.clients

PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
CONTROLS = {"button", "checkbox", "combobox", "link", "slider", "spinbutton", "textbox", "DisclosureTriangle"}


def first_paint_ms(page: Page) -> float:
    """From the start of the navigation until something was shown."""
    found: float = page.evaluate(PAINT)
    return found


def test_it_loads_without_a_complaint_and_asks_no_other_host(
    watch: Callable[..., Watched], daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = watch()
    page = watched.open(daemon.url)
    expect(page.locator("#memory-chart svg")).to_be_visible()
    expect(page.locator("#sequence-chart svg")).to_be_visible()
    page.wait_for_timeout(2500)  # a few looks at the memory
    assert watched.complaints == []
    assert watched.hosts == {urlsplit(daemon.url).netloc}
    first, requests = first_paint_ms(page), len(watched.asked)
    page.reload()
    expect(page.locator("#link-word")).to_have_text("live")
    with capsys.disabled():
        sys.stdout.write(
            f"\ndashboard: first paint after {first:.0f} ms, {first_paint_ms(page):.0f} ms when it is loaded again; "
            f"{requests} requests in the first seconds\n"
        )


def test_it_says_what_the_daemon_says(page: Page, daemon: RunningDaemon) -> None:
    state = daemon.post("/v1/elastic/target", {"position": 7}).json()
    expect(page.locator("#position")).to_have_text("7")
    expect(page.locator("#position-more")).to_contain_text(f"of {state['max_position']}, pinned to 7")
    expect(page.locator("#weights")).to_have_text(f"{state['footprint_bytes'] / 2**20:.2f} MiB")
    expect(page.locator("#model")).to_have_text(daemon.get("/v1/models").json()["data"][0]["id"])


def test_charts_have_a_text_and_a_table(page: Page, daemon: RunningDaemon) -> None:
    positions = daemon.get("/v1/elastic/sequence").json()["positions"]
    chart = page.get_by_role("img", name="Transition sequence")
    expect(chart).to_have_accessible_description(page.locator("#sequence-caption").text_content() or "?")
    page.locator("#sequence-details summary").click()
    expect(page.locator("#sequence-table tbody tr")).to_have_count(len(positions))
    page.locator("#memory-details summary").click()
    expect(page.locator("#memory-table tbody tr").first).to_be_visible()
    expect(page.locator("#memory-caption")).to_contain_text("The weights take")


@pytest.mark.parametrize("width", [360, 700, 1100, 1400])
def test_it_fits_without_scrolling_sideways(watch: Callable[..., Watched], daemon: RunningDaemon, width: int) -> None:
    page = watch(viewport={"width": width, "height": 800}).open(daemon.url)
    expect(page.locator("#memory-chart svg")).to_be_visible()
    for details in ("#memory-details", "#sequence-details"):
        page.locator(f"{details} summary").click()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_every_control_has_a_name(page: Page) -> None:
    page.locator("#question").fill("On and on")
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")
    nodes = [node for node in tree["nodes"] if not node["ignored"]]
    controls = [node for node in nodes if node["role"]["value"] in CONTROLS]
    assert len(controls) >= 12
    nameless = [node["role"]["value"] for node in controls if not node.get("name", {}).get("value")]
    assert nameless == []
    roles = [node["role"]["value"] for node in nodes]
    assert {"banner", "main", "log", "status"} <= set(roles)
    assert roles.count("region") == 5


def test_the_tab_key_comes_everywhere_and_on(page: Page) -> None:
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        where = page.evaluate("() => document.activeElement.id || document.activeElement.textContent.trim()")
        outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        if where == page.evaluate("() => document.body.textContent.trim()"):
            break  # past the last one: the browser's own controls come next
        assert outline != "none", f"nothing shows that {where} has the focus"
        seen.append(where)
    wanted = ["clear", "chat-log", "question", "most-tokens", "send", "position-slider", "pin", "follow", "ttl", "size"]
    wanted += ["worst", "decisions-list"]
    assert [where for where in seen if where in wanted] == wanted
    assert len(seen) < 60


def test_changes_are_told_once_and_figures_are_not(page: Page, daemon: RunningDaemon) -> None:
    live = page.locator("[aria-live]:not([aria-live=off]), [role=status], [role=alert]")
    assert live.filter(has=page.locator("#position")).count() == 0
    daemon.post("/v1/elastic/target", {"position": 9})
    expect(page.locator("#announcement")).to_contain_text("Position 9 of")
