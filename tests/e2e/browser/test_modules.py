"""The page's own logic, module by module, run in the browser."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

from support.daemon import RunningDaemon

pytestmark = pytest.mark.clients

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.fixture(scope="module")
def idle(browser: Browser, daemon: RunningDaemon) -> Iterator[Page]:
    """A page without the dashboard's code, which may import its modules."""
    page = browser.new_page()
    page.goto(f"{daemon.url}/dashboard/icon.svg")
    yield page
    page.close()


def run(page: Page, module: str, code: str, *arguments: object) -> Any:
    """What `code`, a function of the module and the arguments, returns."""
    script = f"async (given) => ({code})(await import('/dashboard/{module}.js'), ...given)"
    return page.evaluate(script, list(arguments))


@QUICK
@given(
    data=st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=6), max_size=2), max_size=4),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
def test_events_are_the_same_however_they_are_cut(idle: Page, data: list[dict[str, str]], cuts: list[int]) -> None:
    text = ": a comment\n\n" + "".join(
        f"event: state\ndata: {json.dumps(item)}\n\n" if index % 2 else f"data: {json.dumps(item)}\n\n"
        for index, item in enumerate(data)
    )
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[start:end] for start, end in pairwise(ends)]
    code = (
        "({EventParser}, pieces) => { const p = new EventParser(); return pieces.flatMap((piece) => p.push(piece)); }"
    )
    found = run(idle, "event-stream", code, pieces)
    assert [json.loads(event["data"]) for event in found] == data
    assert [event["kind"] for event in found] == ["state" if index % 2 else "message" for index in range(len(data))]


@QUICK
@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 1000)), min_size=2, max_size=12),
)
def test_a_rate_lies_between_the_slowest_and_the_fastest_step(idle: Page, steps: list[tuple[int, int]]) -> None:
    code = """({Rate}, steps) => {
        const rate = new Rate(3000);
        let [time, total] = [0, 0];
        let last = rate.add(0, 0);
        for (const [wait, more] of steps) last = rate.add((time += wait), (total += more));
        return last;
    }"""
    found = run(idle, "metrics", code, [list(step) for step in steps])
    speeds = [1000 * more / wait for wait, more in steps]
    assert min(speeds) - 1e-6 <= found <= max(speeds) + 1e-6


def test_a_counter_that_falls_has_begun_anew(idle: Page) -> None:
    code = (
        "({Rate}, seen) => { const rate = new Rate(3000); return seen.map(([time, total]) => rate.add(time, total)); }"
    )
    assert run(idle, "metrics", code, [[0, 90], [1000, 100], [2000, 5], [3000, 9]]) == [None, 10, None, 4]


def test_metrics_are_read_with_and_without_labels(idle: Page, daemon: RunningDaemon) -> None:
    text = daemon.get("/metrics").text
    found = run(idle, "metrics", "({parseMetrics}, text) => Object.fromEntries(parseMetrics(text))", text)
    assert found["flexquant_max_position"] == daemon.get("/v1/elastic").json()["max_position"]
    assert found['flexquant_swap_total{direction="down"}'] >= 0


decision = st.fixed_dictionaries(
    {
        "what": st.sampled_from(["shrink", "grow"]),
        "why": st.just("because"),
        "when": st.integers(0, 50).map(float),
        "from_position": st.integers(0, 2),
        "to_position": st.integers(0, 2),
    }
)


@QUICK
@given(known=st.lists(decision, max_size=6), found=st.lists(decision, max_size=6))
def test_decisions_are_there_once_and_the_newest_first(idle: Page, known: list[Any], found: list[Any]) -> None:
    code = """({withDecisions}, known, found) => {
        const once = withDecisions(withDecisions([], known), found);
        return [once, withDecisions(once, found.map((one) => ({...one, when: one.when + 0.01})))];
    }"""
    once, twice = run(idle, "state", code, known, found)
    assert once == twice
    keys = [tuple(sorted(item.items())) for item in once]
    assert len(keys) == len(set(keys))
    assert set(keys) == {tuple(sorted(item.items())) for item in known + found}
    assert [item["when"] for item in once] == sorted((item["when"] for item in once), reverse=True)


def test_runs_of_what_moves_nothing_are_one_item(idle: Page) -> None:
    seen = [("caches", 3, 3), ("caches", 3, 3), ("shrink", 1, 3), ("shrink", 0, 1), ("caches", 0, 0), ("floor", 0, 0)]
    decisions = [{"what": what, "from_position": start, "to_position": end} for what, start, end in seen]
    code = "({runsOf}, decisions) => runsOf(decisions).map(({decision, times}) => [decision.what, times])"
    found = run(idle, "decisions", code, decisions)
    assert found == [["caches", 2], ["shrink", 1], ["shrink", 1], ["caches", 1], ["floor", 1]]


@QUICK
@given(most=st.floats(1, 2**45), count=st.integers(1, 5))
def test_ticks_are_few_even_and_within(idle: Page, most: float, count: int) -> None:
    found = run(idle, "axes", "({byteTicks}, most, count) => byteTicks(most, count)", most, count)
    assert found[0] == 0
    assert 1 <= len(found) <= count + 1
    assert found[-1] <= most * 1.01
    steps = {round(later - earlier, 6) for earlier, later in pairwise(found)}
    assert len(steps) <= 1


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (6_738_672, "6.43 MiB"),
        (536_870_912, "512 MiB"),
        (13_314_398_617, "12.4 GiB"),
        (-1024, "\u22121.00 KiB"),
    ],
)
def test_bytes_have_three_digits(idle: Page, count: int, text: str) -> None:
    assert run(idle, "format", "({bytes}, count) => bytes(count)", count) == text


def test_the_recording_gives_what_the_daemon_saw(idle: Page, daemon: RunningDaemon) -> None:
    positions = daemon.get("/v1/elastic/sequence").json()["positions"]
    daemon.post("/v1/elastic/target", {"position": 11})
    daemon.post("/v1/elastic/target", {"position": 12})
    text = daemon.get("/v1/elastic/trace").text
    code = "({readRecording}, text, positions) => readRecording(text, positions, new Map())"
    found = run(idle, "recording", code, text, positions)
    samples = [row for row in map(json.loads, text.splitlines()) if "sample" in row]
    assert [point["position"] for point in found["points"]] == [row["sample"]["position"] for row in samples]
    assert all(point["footprint"] == positions[point["position"]]["footprint_bytes"] for point in found["points"])
    assert [point["time"] for point in found["points"]] == sorted(point["time"] for point in found["points"])
    newest = daemon.get("/v1/elastic").json()["last_decision"]
    last = found["decisions"][-1]
    assert (last["what"], last["from_position"], last["to_position"]) == ("pin", 11, 12)
    assert abs(last["when"] - newest["when"]) < 1
