"""What a real daemon tells of itself: metrics, JSON logs, and where its probes are while it stops."""

import json
import time
from pathlib import Path

import httpx
import pytest

from support.daemon import RunningDaemon, running_daemon
from support.prometheus import scraped

pytestmark = pytest.mark.e2e


def refuses_connections(daemon: RunningDaemon, path: str) -> bool:
    """True once nothing listens; a connection that was queued as the listener closed is cut, which is no answer yet."""
    try:
        daemon.get(path)
    except httpx.ConnectError:
        return True
    except (httpx.ReadError, httpx.RemoteProtocolError):
        return False
    return False


def test_metrics_logs_and_probes_of_a_life(tmp_path: Path) -> None:
    with running_daemon(tmp_path, "--log-format", "json", "--pin", "0") as daemon:
        body = {"prompt": "private", "max_tokens": 20, "ignore_eos": True}
        usage = daemon.post("/v1/completions", body).json()["usage"]
        smallest = daemon.get("/v1/elastic").json()["max_position"]
        memory = [daemon.post("/v1/elastic/target", {"position": place}).json() for place in (smallest, 0)]
        found = scraped(daemon.get("/metrics").text)
        assert found.value("flexquant_generated_tokens_total") == usage["completion_tokens"] == 20
        assert found.value("flexquant_prompt_tokens_total") == usage["prompt_tokens"]
        assert [found.value("flexquant_swap_total", direction=way) for way in ("down", "up")] == [1, 1]
        bytes_moved = memory[1]["memory"]["elastic"] - memory[0]["memory"]["elastic"]
        for way in ("down", "up"):
            assert found.value("flexquant_swap_bytes_total", direction=way) == bytes_moved > 0
        parts = ("weights", "fixed", "kv", "scratch")
        resident = [found.value("flexquant_resident_bytes", part=part) or 0 for part in parts]
        assert sum(resident) == daemon.get("/v1/elastic").json()["memory"]["registry"]
        levels = found.families["flexquant_modules"].samples.values()
        assert sorted(levels) == [0, smallest]

        long = {**body, "max_tokens": 1500, "stream": True}
        with httpx.stream("POST", f"{daemon.url}/v1/completions", json=long, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            daemon.process.terminate()
            deadline = time.monotonic() + 30
            while not refuses_connections(daemon, "/ready"):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert refuses_connections(daemon, "/health")
            assert [line for line in lines if line][-1] == "data: [DONE]"
        daemon.process.wait(60)
        logged = [json.loads(line) for line in daemon.log().splitlines()]
    messages = [line["message"] for line in logged]
    assert messages.count("move") == 2
    assert messages.count("request") == 4, "those of /v1/elastic, which programs poll, are told at debug level"
    assert not {line.get("path") for line in logged} & {"/health", "/ready", "/metrics"}
    assert "private" not in daemon.log()
