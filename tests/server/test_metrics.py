"""GET /metrics says what a script of requests and moves did; probes are no activity."""

import asyncio
import logging
import re
from typing import Any, Final

import httpx
import pytest

from support.fake_daemon import FakeDaemon, fake_daemon
from support.prometheus import Scraped, scraped

COMPLETIONS: Final = "/v1/completions"


def request(daemon: FakeDaemon, method: str, path: str, **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with daemon.client() as client:
            return await client.request(method, path, **options)

    return asyncio.run(run())


def complete(daemon: FakeDaemon, **fields: object) -> dict[str, Any]:
    answer = request(daemon, "POST", COMPLETIONS, json={"prompt": "Hello", "ignore_eos": True, **fields})
    usage: dict[str, Any] = answer.json()["usage"]
    return usage


def move(daemon: FakeDaemon, **target: object) -> None:
    assert request(daemon, "POST", "/v1/elastic/target", json=target).status_code == 200


def metrics(daemon: FakeDaemon) -> Scraped:
    answer = request(daemon, "GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return scraped(answer.text)


def test_tokens_are_those_of_the_answers() -> None:
    with fake_daemon() as daemon:
        first, second = complete(daemon, max_tokens=3), complete(daemon, max_tokens=5)
        complete(daemon, max_tokens=0)
        found = metrics(daemon)
    prompts = 3 * first["prompt_tokens"]
    assert found.value("flexquant_prompt_tokens_total") == prompts
    assert found.value("flexquant_cached_prompt_tokens_total") == 0
    assert (
        found.value("flexquant_generated_tokens_total") == first["completion_tokens"] + second["completion_tokens"] == 8
    )
    assert found.value("flexquant_time_to_first_token_seconds_count") == 2
    assert found.value("flexquant_inter_token_latency_seconds_count") == 2 + 4


def test_each_choice_counts() -> None:
    with fake_daemon() as daemon:
        usage = complete(daemon, max_tokens=4, n=3)
        found = metrics(daemon)
    assert found.value("flexquant_prompt_tokens_total") == 3 * usage["prompt_tokens"]
    assert found.value("flexquant_generated_tokens_total") == usage["completion_tokens"] == 12
    assert found.value("flexquant_time_to_first_token_seconds_count") == 3


def test_requests_are_counted_by_pattern_and_status_and_nothing_from_a_request_is_a_label() -> None:
    with fake_daemon() as daemon:
        for _ in range(2):
            complete(daemon, max_tokens=1)
        request(daemon, "POST", COMPLETIONS, json={})
        request(daemon, "GET", COMPLETIONS)
        for name in ("docs-llama", "secret-1", "secret-2"):
            request(daemon, "GET", f"/v1/models/{name}")
        for path in ("/secret-3", "/secret-4/", "/v1/secret-5"):
            request(daemon, "GET", path)
        request(daemon, "POST", "/v1/elastic/target", headers={"host": "secret-6.example"}, json={})
        text = request(daemon, "GET", "/metrics").text
        found = scraped(text)
    assert "secret" not in text
    counted = {
        (dict(labels)["endpoint"], dict(labels)["status"]): value
        for (_, labels), value in found.families["flexquant_requests_total"].samples.items()
    }
    assert counted == {
        (COMPLETIONS, "200"): 2,
        (COMPLETIONS, "400"): 1,
        (COMPLETIONS, "405"): 1,
        ("/v1/models/{name:path}", "200"): 1,
        ("/v1/models/{name:path}", "404"): 2,
        ("other", "404"): 3,
        ("/v1/elastic/target", "403"): 1,
    }


def test_moves_and_the_bytes_of_their_steps() -> None:
    with fake_daemon() as daemon:
        for position in (3, 1, 2):
            move(daemon, position=position)
        move(daemon, position=2)
        found = metrics(daemon)
    assert [found.value("flexquant_swap_total", direction=way) for way in ("down", "up")] == [2, 1]
    assert [found.value("flexquant_swap_bytes_total", direction=way) for way in ("down", "up")] == [4000, 2000]
    assert found.value("flexquant_swap_seconds_count") == 3
    assert found.value("flexquant_swap_failures_total") == 0
    assert found.value("flexquant_position") == 2
    assert (
        found.value("flexquant_memory_target_bytes") == found.value("flexquant_resident_bytes", part="weights") == 2000
    )
    assert [found.value("flexquant_modules", level=level) for level in ("8.0", "4.0")] == [1, 2]
    assert found.value("flexquant_estimated_perplexity") == 12.0
    assert found.value("flexquant_estimated_kl_nats") == pytest.approx(0.2)
    assert found.value("flexquant_pinned") == 1
    assert found.value("flexquant_memory_available_bytes", source="plenty") == 12 * 2**30
    assert found.value("flexquant_memory_pressure_level") == 0


def test_memory_that_nobody_has_read_is_absent() -> None:
    with fake_daemon() as daemon:
        found = metrics(daemon)
    assert not found.families["flexquant_memory_available_bytes"].samples
    assert not found.families["flexquant_memory_pressure_level"].samples


def test_running_and_waiting() -> None:
    async def run(daemon: FakeDaemon) -> Scraped:
        daemon.model.gate.clear()
        async with daemon.client() as client:
            body = {"prompt": "Hello", "max_tokens": 1}
            asked = [asyncio.create_task(client.post(COMPLETIONS, json=body)) for _ in range(3)]
            while daemon.engine.running + daemon.engine.waiting < len(asked) or daemon.engine.running < 1:
                await asyncio.sleep(0.01)
            found = scraped((await client.get("/metrics")).text)
            daemon.model.gate.set()
            await asyncio.gather(*asked)
        return found

    with fake_daemon("--parallel", "1") as daemon:
        found = asyncio.run(run(daemon))
    assert (found.value("flexquant_requests_running"), found.value("flexquant_requests_waiting")) == (1, 2)


def test_counters_never_fall() -> None:
    with fake_daemon() as daemon:
        before = metrics(daemon).rising()
        for round_ in range(6):
            complete(daemon, max_tokens=round_)
            request(daemon, "GET", f"/nothing/{round_}")
            move(daemon, position=round_ % 4)
            after = metrics(daemon).rising()
            assert set(before) <= set(after)
            assert all(after[key] >= value for key, value in before.items())
            assert after != before
            before = after


def test_probes_are_neither_counted_nor_logged(caplog: pytest.LogCaptureFixture) -> None:
    with fake_daemon() as daemon, caplog.at_level(logging.DEBUG, logger="flexquant"):
        before = metrics(daemon)
        for path in ("/health", "/ready", "/metrics"):
            assert request(daemon, "GET", path).status_code == 200
        daemon.gate.refuse("Memory is critical.")
        assert request(daemon, "GET", "/ready").status_code == 503
        assert metrics(daemon).rising() == before.rising()
        assert not caplog.messages
        request(daemon, "GET", "/health", headers={"host": "evil.example"})
        assert len(caplog.messages) == 1, "what was refused is news"


def test_with_a_key_metrics_are_closed_and_probes_are_open() -> None:
    with fake_daemon("--api-key", "k") as daemon:
        assert request(daemon, "GET", "/metrics").status_code == 401
        assert request(daemon, "GET", "/metrics", headers={"authorization": "Bearer k"}).status_code == 200
        assert request(daemon, "GET", "/ready").status_code == request(daemon, "GET", "/health").status_code == 200


def test_ready_says_what_a_request_would_be_told() -> None:
    with fake_daemon() as daemon:
        daemon.gate.refuse("Memory is critical.")
        ready, refused = request(daemon, "GET", "/ready"), request(daemon, "POST", COMPLETIONS, json={"prompt": "a"})
        assert ready.status_code == refused.status_code == 503
        assert ready.json() == refused.json()
        assert ready.json()["error"]["code"] == "memory_critical"
        assert ready.headers["retry-after"] == refused.headers["retry-after"]
        assert request(daemon, "GET", "/health").status_code == 200, "a new start would not help"
        daemon.gate.refuse(None)
        assert request(daemon, "GET", "/ready").status_code == 200
        daemon.engine.stop("The daemon is stopping.")
        assert request(daemon, "GET", "/ready").json()["error"]["code"] == "stopping"
        assert request(daemon, "GET", "/health").status_code == 200, "it is still answering others"


def test_health_and_ready_are_503_after_the_engine_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("on purpose")

    with fake_daemon() as daemon:
        monkeypatch.setattr(daemon.model, "safe_point", fail)
        assert request(daemon, "POST", COMPLETIONS, json={"prompt": "a"}).status_code == 503
        for path in ("/health", "/ready"):
            answer = request(daemon, "GET", path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_failed")


def test_names_follow_prometheus_conventions() -> None:
    with fake_daemon() as daemon:
        for name, family in metrics(daemon).families.items():
            assert re.fullmatch(r"flexquant_[a-z_]+", name)
            assert name.endswith("_total") == (family.kind == "counter")
