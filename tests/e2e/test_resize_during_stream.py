"""The position goes 0 → N → 0 while a stream runs: nothing is lost, and nothing is different afterwards."""

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.daemon import RunningDaemon, running_daemon

pytestmark = pytest.mark.e2e

TOKENS = 900
GREEDY = {"prompt": "Iterators in Rust are", "max_tokens": 64, "temperature": 0, "ignore_eos": True}


def stream(daemon: RunningDaemon, started: threading.Event) -> list[dict[str, Any]]:
    """All chunks of a long stream; `started` is set at the first."""
    body = {
        "prompt": "The function returns",
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    chunks: list[dict[str, Any]] = []
    with httpx.stream("POST", f"{daemon.url}/v1/completions", json=body, timeout=120) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                chunks.append(json.loads(line.removeprefix("data: ")))
                started.set()
        assert line == "" or line == "data: [DONE]"
    return chunks


def test_resize_while_900_tokens_stream(tmp_path: Path) -> None:
    moved_folder, still_folder = tmp_path / "moved", tmp_path / "still"
    moved_folder.mkdir()
    still_folder.mkdir()
    with running_daemon(moved_folder, "--pin", "0") as daemon, running_daemon(still_folder, "--pin", "0") as still:
        last = daemon.get("/v1/elastic").json()["max_position"]
        started = threading.Event()
        chunks: list[dict[str, Any]] = []
        reader = threading.Thread(target=lambda: chunks.extend(stream(daemon, started)))
        reader.start()
        assert started.wait(60)
        down = daemon.post("/v1/elastic/target", {"position": last}).json()
        up = daemon.post("/v1/elastic/target", {"position": 0}).json()
        assert reader.is_alive(), "the stream ended before the moves did"
        reader.join()
        assert (down["position"], up["position"]) == (last, 0)
        assert all("error" not in chunk for chunk in chunks)
        usage = chunks[-1]["usage"]
        assert usage["completion_tokens"] == TOKENS
        assert usage["flexquant"] == {"position_start": 0, "position_end": 0, "position_worst": last}
        assert sum(bool(chunk["choices"][0]["text"]) for chunk in chunks[:-1]) > TOKENS // 2, "text came token by token"
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"

        after = daemon.post("/v1/completions", GREEDY).json()
        never_moved = still.post("/v1/completions", GREEDY).json()
        assert after["choices"] == never_moved["choices"]
        assert after["system_fingerprint"] == never_moved["system_fingerprint"]
        assert daemon.log().count("move position_start=") >= 2
