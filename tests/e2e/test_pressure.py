"""Another program takes memory while the daemon answers, and gives it back."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from flexquant.clients import Client, Elastic, Usage
from flexquant.engine.memory.process import anonymous_bytes
from support.daemon import running_daemon
from support.ensembles import Shape, random_ensemble
from support.hog import Hog

pytestmark = pytest.mark.e2e

MIB = 1 << 20
MACHINE = 1 << 30
LOW, TARGET = 16 * MIB, 24 * MIB
RESERVES = (
    "--reserve-critical",
    "8MiB",
    "--reserve-low",
    "16MiB",
    "--reserve-target",
    "24MiB",
    "--reserve-high",
    "32MiB",
)
SHAPE = Shape(hidden=768, intermediate=2048, layers=8, heads=12, kv_heads=4, vocab=512)
"""About 52 MB at 8 bits, 20 MB at 3 bits, in steps of 1 MB and less."""
PATIENCE = 120.0
"""Seconds after which something is broken, on whatever machine this runs."""
TOKENS = 4


@dataclass
class Talker:
    """Streams one short answer after the other on a thread of its own."""

    url: str
    usages: list[Usage] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    _enough: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Talker":
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _talk(self) -> None:
        try:
            with Client(self.url) as client:
                while not self._enough.is_set():
                    pieces = list(client.completions("On and on", stream=True, max_tokens=TOKENS, ignore_eos=True))
                    assert [piece.finish_reason for piece in pieces][-2:] == ["length", None]
                    assert pieces[-1].usage is not None
                    self.usages.append(pieces[-1].usage)
        except BaseException as error:
            self.errors.append(error)


def _until(client: Client, talker: Talker, condition: Callable[[Elastic], bool]) -> tuple[Elastic, float]:
    """The first state that meets the condition, and the seconds until then."""
    began = time.monotonic()
    while not condition(state := client.elastic()):
        assert not talker.errors, talker.errors
        assert time.monotonic() - began < PATIENCE, (state, len(talker.usages))
        time.sleep(0.02)
    return state, time.monotonic() - began


def test_the_daemon_shrinks_under_a_hog_and_grows_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ensemble = random_ensemble(tmp_path / "ensemble", SHAPE)
    with Hog(limit=MACHINE) as hog:
        flags = [*RESERVES, f"--simulated-memory={MACHINE}", f"--simulated-pids={hog.pid}"]
        flags += ["--grow-window=2", "--cooldown=2", "--context=256"]
        with running_daemon(tmp_path, *flags, model=str(ensemble)) as daemon, Client(daemon.url) as client:
            pid = daemon.process.pid
            with Talker(daemon.url) as talker:
                # The first answers can be faster than the first look at the memory.
                best, _ = _until(
                    client,
                    talker,
                    lambda state: state.position == 0 and bool(talker.usages) and state.available_bytes is not None,
                )
                assert best.available_bytes is not None
                private = anonymous_bytes(pid)

                hog.take(best.available_bytes - LOW // 2, per_second=1 << 30)
                short, shrinking = _until(
                    client,
                    talker,
                    lambda state: state.position == state.target > 0 and (state.available_bytes or 0) >= LOW,
                )
                given_back = private - anonymous_bytes(pid)
                answered = len(talker.usages)
                _until(client, talker, lambda state: len(talker.usages) >= answered + 2 and state.position > 0)

                hog.give_back()
                grown, growing = _until(client, talker, lambda state: state.position == 0)
            freed = best.footprint_bytes - short.footprint_bytes
    assert not talker.errors, talker.errors
    assert all(usage.completion_tokens == TOKENS for usage in talker.usages)
    assert max(usage.position_worst for usage in talker.usages) > 0
    assert short.last_decision is not None
    assert short.last_decision.what in ("shrink", "critical")
    assert "machine" in short.last_decision.why
    assert given_back >= freed / 2
    assert grown.last_decision is not None
    assert grown.last_decision.what == "grow"
    with capsys.disabled():
        sys.stdout.write(
            f"\npressure: position 0 to {short.position} and room made {shrinking:.2f} s after the last byte was taken "
            f"at 1 GiB/s; {freed / MIB:.1f} MiB of weights released, {given_back / MIB:.1f} MiB less private memory; "
            f"back at position 0 after {growing:.1f} s; {len(talker.usages)} answers, none failed\n"
        )


def test_a_budget_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ensemble = random_ensemble(tmp_path / "ensemble", replace(SHAPE, layers=14), bits=(8, 2))

    def settle(*flags: str) -> tuple[Elastic, int]:
        """State and private bytes after an answer, once the position has not changed for longer than growth waits."""
        always = ("--profile=greedy", "--grow-window=1", "--cooldown=1", "--context=256")
        with running_daemon(tmp_path, *always, *flags, model=str(ensemble)) as daemon, Client(daemon.url) as client:
            position, since = -1, 0.0
            began = time.monotonic()
            while position == -1 or time.monotonic() - since < 5.0:
                assert time.monotonic() - began < PATIENCE
                client.completions("On and on", max_tokens=TOKENS, ignore_eos=True)
                state = client.elastic()
                if state.position != position:
                    position, since = state.position, time.monotonic()
            return state, anonymous_bytes(daemon.process.pid)

    free, unlimited = settle()
    assert free.position == 0
    budget = unlimited - 12 * MIB
    held, private = settle(f"--memory-budget={budget}")
    assert 0 < held.position < held.max_position
    assert private <= budget + MIB, "one MiB for what is allocated between two ticks"
    with capsys.disabled():
        sys.stdout.write(
            f"\nbudget of {budget / MIB:.1f} MiB: {private / MIB:.1f} MiB used at position {held.position} of "
            f"{held.max_position}; without a budget {unlimited / MIB:.1f} MiB at position 0\n"
        )
