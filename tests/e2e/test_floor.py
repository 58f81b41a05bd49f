"""Memory that stays critical when nothing is left to give: new work is refused, and taken again when it is well."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flexquant.clients import Client, Elastic, OverloadedError
from support.daemon import running_daemon
from support.hog import Hog

pytestmark = pytest.mark.e2e

MIB = 1 << 20
MACHINE = 512 * MIB
FLAGS = ("--reserve-critical=16MiB", "--reserve-low=24MiB", "--reserve-target=32MiB", "--reserve-high=40MiB")
PATIENCE = 120.0
"""Seconds after which something is broken, on whatever machine this runs."""


def _until(client: Client, condition: Callable[[Elastic], bool]) -> Elastic:
    began = time.monotonic()
    while not condition(state := client.elastic()):
        assert time.monotonic() - began < PATIENCE, state
        time.sleep(0.05)
    return state


def test_the_floor_refuses_new_work_and_takes_it_again(tmp_path: Path) -> None:
    with (
        Hog(limit=MACHINE) as hog,
        running_daemon(
            tmp_path, *FLAGS, f"--simulated-memory={MACHINE}", f"--simulated-pids={hog.pid}", "--context=512"
        ) as daemon,
        Client(daemon.url) as client,
    ):
        best = _until(client, lambda state: state.available_bytes is not None)
        stream = client.completions("On and on", max_tokens=450, ignore_eos=True, stream=True)
        next(stream)
        hog.take((best.available_bytes or 0) - 4 * MIB, per_second=1 << 30)
        last = list(stream)[-1]
        assert last.usage is not None
        assert last.usage.completion_tokens == 450, "what has begun is finished"

        floor = _until(client, lambda state: state.phase == "floor")
        assert floor.position == floor.max_position
        with pytest.raises(OverloadedError, match="machine: ") as refused:
            client.completions("On", max_tokens=1)
        assert refused.value.code == "memory_critical"
        assert refused.value.retry_after

        hog.give_back()
        _until(client, lambda state: state.phase != "floor")
        assert client.completions("On", max_tokens=1, ignore_eos=True).finish_reason == "length"
    assert daemon.process.returncode == 0
    assert daemon.lines_with("floor: position 57 to 57")
    assert daemon.lines_with("resume: position 57 to 57")
