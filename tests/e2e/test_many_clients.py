"""Many clients of every kind at once: nothing but complete answers and documented refusals, and memory is bounded."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bench.many_clients.crowd import Plan
from bench.many_clients.soak import soak
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.kv_cache import page_bytes
from flexquant.engine.prefix_cache import PAGE_TOKENS
from flexquant.server.model_source import DEMO, resolve

pytestmark = pytest.mark.e2e

MIB = 1 << 20
GROWTH = 8 * MIB
"""Between two moments without clients, KV pages not counted, after as many requests of all kinds as the warm-up had:
what the allocators of Python and libc keep in half-empty blocks. Three short runs grew by 1.6 to 2.4 MiB, 64 clients
within three minutes by 4.6."""
UNDER_LOAD = 24 * MIB
"""Beyond the KV pages, while clients ask: request bodies, token lists, and half-read streams of 64 clients."""


@pytest.mark.parametrize(
    ("clients", "seconds", "warm_up_s"),
    [
        pytest.param(16, 15, 5, id="short"),
        pytest.param(64, 600, 60, id="full", marks=[pytest.mark.slow, pytest.mark.timeout(1500)]),
    ],
)
def test_many_clients(
    tmp_path: Path, clients: int, seconds: float, warm_up_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    report, log = soak(tmp_path, Plan(clients, seconds, warm_up_s))
    with capsys.disabled():
        sys.stdout.write(f"\n{report.table()}\n")
    assert not report.details, "\n".join(report.details)
    assert report.outcomes["WRONG"] == 0
    for kind in ("complete answer, streamed", "complete answer, whole"):
        assert report.outcomes[kind] > 0
    assert report.cached_tokens > 0
    assert report.probes > 0
    assert report.growth <= GROWTH
    assert report.anonymous_peak <= report.anonymous_at_start + _kv_bytes(log) + UNDER_LOAD


def _kv_bytes(log: str) -> int:
    """Of all KV pages that the daemon may map, by what it said at its start."""
    tokens = int(log.split("room for ", 1)[1].split(" ", 1)[0])
    return tokens // PAGE_TOKENS * page_bytes(Ensemble.open(resolve(DEMO)).config, np.float16)
