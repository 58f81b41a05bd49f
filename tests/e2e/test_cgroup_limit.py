"""A real limit of a control group: another program in the same container takes memory, and the daemon makes room."""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flexquant.clients import Client, Elastic
from support import daemon as daemons
from support.daemon import running_daemon
from support.ensembles import Shape, random_ensemble
from support.hog import Hog
from support.limited_group import CannotLimitError, LimitedGroup, limited_group

pytestmark = pytest.mark.e2e

MIB = 1 << 20
LIMIT = 768 * MIB
LOW = 16 * MIB
RESERVES = ("--reserve-critical=8MiB", "--reserve-low=16MiB", "--reserve-target=24MiB", "--reserve-high=32MiB")
SHAPE = Shape(hidden=768, intermediate=2048, layers=8, heads=12, kv_heads=4, vocab=512)
"""About 52 MB at 8 bits, 20 MB at 3 bits, in steps of 1 MB and less."""
PATIENCE = 120.0
"""Seconds after which something is broken, on whatever machine this runs."""


@pytest.fixture
def group() -> Iterator[LimitedGroup]:
    try:
        with limited_group(LIMIT) as made:
            yield made
    except CannotLimitError as error:
        pytest.skip(str(error))


def test_the_daemon_makes_room_below_a_real_limit(
    tmp_path: Path, group: LimitedGroup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = daemons.serve_command
    monkeypatch.setattr(daemons, "serve_command", lambda *arguments: group.command(plain(*arguments)))
    ensemble = random_ensemble(tmp_path / "ensemble", SHAPE)
    flags = [*RESERVES, "--grow-window=2", "--cooldown=2", "--context=256"]
    answers = 0

    def answer(client: Client) -> None:
        nonlocal answers
        assert client.completions("On and on", max_tokens=4, ignore_eos=True).finish_reason == "length"
        answers += 1

    with Hog(limit=LIMIT) as hog, running_daemon(tmp_path, *flags, model=str(ensemble)) as daemon:
        group.enter(hog.pid)
        assert set(group.pids()) == {hog.pid, daemon.process.pid}
        with Client(daemon.url) as client, ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            while (best := client.elastic()).position > 0 or best.available_bytes is None:
                assert time.monotonic() - began < PATIENCE, best
                answer(client)
            assert best.available_bytes < LIMIT, "the group is tighter than the machine"
            assert any(source.name.startswith("cgroup") for source in best.sources)

            taking = pool.submit(hog.take, best.available_bytes - LOW // 2, 1 << 30)
            began = taken = time.monotonic()
            while not _has_made_room(short := client.elastic()) or not taking.done():
                assert time.monotonic() - began < PATIENCE, short
                answer(client)
                if not taking.done():
                    taken = time.monotonic()
            seconds = time.monotonic() - taken
            answer(client)
    assert short.last_decision is not None
    assert short.last_decision.what in ("shrink", "critical")
    assert f"cgroup {group.path}" in short.last_decision.why
    assert daemon.process.returncode == 0
    assert group.kills() == 0
    freed = best.footprint_bytes - short.footprint_bytes
    with capsys.disabled():
        sys.stdout.write(
            f"\nlimit of {LIMIT // MIB} MiB (cgroup v{group.version}): position 0 to {short.position}, "
            f"{freed / MIB:.1f} MiB of weights released {seconds:.2f} s after the last byte was taken; "
            f"{(short.available_bytes or 0) / MIB:.1f} MiB available then; {answers} answers, nothing killed\n"
        )


def _has_made_room(state: Elastic) -> bool:
    return state.position == state.target > 0 and (state.available_bytes or 0) >= LOW
