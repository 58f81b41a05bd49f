"""What the daemon is busy with, from its metrics."""

import asyncio

import pytest

from flexquant.clients.load import Load
from support import told
from support.fake_daemon import fake_daemon


def test_only_requests_for_answers_count() -> None:
    assert Load.from_metrics(told.metrics(running=2, waiting=3, chats=4, tokens=7)) == Load(2, 3, 5, 7)


def test_a_metric_that_is_missing_is_named() -> None:
    text = told.metrics().replace("flexquant_requests_waiting", "other")
    with pytest.raises(ValueError, match="flexquant_requests_waiting"):
        Load.from_metrics(text)


async def _scrape() -> str:
    with fake_daemon() as daemon:
        async with daemon.client() as client:
            await client.get("/v1/elastic")
            await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 3, "ignore_eos": True})
            return (await client.get("/metrics")).text


def test_what_a_daemon_says_is_understood() -> None:
    load = Load.from_metrics(asyncio.run(_scrape()))
    assert (load.running, load.waiting, load.requests, load.generated_tokens) == (0, 0, 1, 3)
