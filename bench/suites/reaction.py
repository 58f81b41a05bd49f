"""From "another program needs the memory" to bytes given back, with four streams running.

The machine is a number (`--simulated-memory`), the daemon, and a hog that takes 1 GB/s: real bytes, on a machine that
is not short of any. Everything is seen from outside: RssAnon of both processes, two hundred times a second, when parts
of the answers arrive, and the daemon's log.

- crossing: the first look at which less than R_low is available (memory - RssAnon of daemon and hog);
- order: the law's first decision to shrink, by the daemon's log;
- given back: the first look at which the daemon's RssAnon is lower than at the order by 95 % of the difference between
  the footprints of that order's two positions.

The law looks ahead, so the order may come before the crossing, and the bytes too: then a time is negative. And what is
given back puts the crossing off; so the time is also told from where R_low would have been crossed without that: with
the daemon's RssAnon at the order instead of what it is later.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from bench.client import Client
from bench.figures import Figure, gaps, percentile
from bench.machine.decisions import Decision, decisions, first_shrink
from bench.machine.helpers import Hog, RunningDaemon, running_daemon
from bench.machine.series import crossing, given_back, longest_pause, rate_of_taking, without_release
from bench.machine.small_machine import Machine, footprints, under_pressure
from bench.machine.watch import Processes, Watch
from bench.row import Row
from bench.server_process import Server, ServerError
from bench.session import Session

STREAMS: Final = 4
_PER_SECOND: Final = 200
_TAKE: Final = 1_000_000_000
"""Bytes per second that the hog takes."""
_PIECE: Final = 32 << 20
_BEYOND: Final = 0.25
"""What the hog takes after the crossing was seen, as a share of R_low."""
_CONTEXT: Final = 2048
_RECENT: Final = 200
"""Looks; the hog's program asks for the crossing more often than that many pass."""
_STEADY_SECONDS: Final = 2.0
_GIVE_UP_SECONDS: Final = 20.0
_SHARE: Final = 0.95
_GOAL_MEDIAN, _GOAL_MOST = 0.3, 0.6


@dataclass(frozen=True, slots=True)
class Reaction:
    """One run; times in seconds, those between tokens in milliseconds."""

    crossing_to_bytes: float
    need_to_bytes: float
    """From where R_low would have been crossed if the daemon had given nothing back."""
    order_to_bytes: float
    crossing_to_order: float
    urgent: bool
    freed: int
    steady_ms: list[float]
    during_ms: list[float]
    pause: float
    looking: float
    """Share of a core that looking took."""
    rate: float


def run(session: Session) -> list[Row]:
    """So many runs of the model of two stores."""
    return _rows(reactions(session, session.scale.reaction_runs))


def reactions(session: Session, runs: int, *, nested: bool = False) -> list[Reaction]:
    """So many runs against one daemon, which comes back to position 0 between them."""
    session, machine = under_pressure(session)
    ensemble = session.written("nested") if nested else session.ensemble
    with tempfile.TemporaryDirectory() as folder, Hog(limit=machine.memory, seconds=3600) as hog:
        flags = [*machine.flags([hog.pid]), f"--parallel={STREAMS}", f"--context={_CONTEXT}"]
        flags += ["--grow-window=1", "--cooldown=1", f"--threads={session.threads}"]
        with running_daemon(Path(folder), *flags, model=str(ensemble)) as daemon:
            bench = _Bench(session, machine, daemon, hog, footprints(ensemble))
            found = [bench.once() for _ in range(1 + runs)][1:]  # the first one warms up
    suite = "nested reaction" if nested else "reaction"
    session.notes["machine of the reaction suite"] = machine.told
    session.notes[f"hog of the {suite} suite"] = _told([run.rate / 1e9 for run in found], "GB/s")
    session.notes[f"looking at the {suite}"] = (
        f"longest time between two looks {_told([1000 * run.pause for run in found], 'ms')}; "
        f"{100 * max(run.looking for run in found):.1f} % of a core at most"
    )
    urgent = sum(run.urgent for run in found)
    session.notes[f"first orders of the {suite} suite"] = (
        f"{_told([run.freed / 1e6 for run in found], 'MB')}; {urgent} of {len(found)} were critical ones"
    )
    return found


def _told(samples: Sequence[float], unit: str) -> str:
    figure = Figure.of(samples)
    return f"{figure.median:.3g} ({figure.least:.3g} to {figure.most:.3g}) {unit}"


class _Bench:
    def __init__(
        self, session: Session, machine: Machine, daemon: RunningDaemon, hog: Hog, sizes: Sequence[int]
    ) -> None:
        self._machine = machine
        self._daemon = daemon
        self._hog = hog
        self._footprints = sizes
        server = Server(daemon.process, httpx.URL(daemon.url).port or 0, time.perf_counter())
        self._client = Client(session.scale, server, count())
        self._answer = _CONTEXT - session.scale.prompt_tokens

    def once(self) -> Reaction:
        """Bring the model to position 0, let streams run, and take memory until it has been given back."""
        self._rest()
        pids = (self._daemon.process.pid, self._hog.pid)
        with Watch(Processes(pids), _PER_SECOND) as watch, self._client.running(STREAMS, self._answer) as streams:
            for stream in streams:
                stream.wait_for_pieces(4)
            calm = time.monotonic()
            time.sleep(_STEADY_SECONDS)
            began, since = time.monotonic(), time.time()
            self._press(watch)
            ended_taking = time.monotonic()
            order = self._order(since)
            freed = self._footprints[order.begin] - self._footprints[order.end]
            ordered = order.monotonic
            back = self._given_back(watch, ordered, freed)
            for stream in streams:  # a pause that began before is measured to its own end
                stream.wait_for_pieces(len(stream.pieces) + 1)
            end = max(back, ended_taking)
        memory, low = self._machine.memory, self._machine.low
        crossed, needed = (
            crossing(looks, memory, low) for looks in (watch.looks, without_release(watch.looks, ordered))
        )
        assert crossed is not None
        assert needed is not None
        return Reaction(
            crossing_to_bytes=back - crossed,
            need_to_bytes=back - needed,
            order_to_bytes=back - ordered,
            crossing_to_order=ordered - crossed,
            urgent=order.what == "critical",
            freed=freed,
            steady_ms=[1000 * gap for stream in streams for gap in gaps(stream.pieces, calm, began)],
            during_ms=[1000 * gap for stream in streams for gap in gaps(stream.pieces, began, end)],
            pause=longest_pause(watch.looks),
            looking=watch.seconds / (watch.looks[-1].time - watch.looks[0].time),
            rate=rate_of_taking(watch.looks, began, ended_taking),
        )

    def _rest(self) -> None:
        """Nobody takes anything, position 0, and the law is free to move again."""
        self._hog.give_back()
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while True:
            state = self._daemon.post("/v1/elastic/target", {"position": 0}).json()
            if state["position"] == 0 and state["available_bytes"] > self._machine.high:
                break
            if time.monotonic() > deadline:
                raise ServerError(f"the model does not come back to position 0: {json.dumps(state)}")
            time.sleep(0.1)
        self._daemon.post("/v1/elastic/target", {"mode": "auto"})

    def _press(self, watch: Watch) -> None:
        """Take memory until R_low was crossed, and somewhat more."""
        machine, taken = self._machine, 0
        while taken < machine.memory and crossing(watch.looks[-_RECENT:], machine.memory, machine.low) is None:
            taken = self._hog.take(_PIECE, per_second=_TAKE)
        self._hog.take(round(_BEYOND * machine.low), per_second=_TAKE)

    def _order(self, since: float) -> Decision:
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            order = first_shrink(decisions(self._daemon.log().splitlines()), since)
            if order is not None:
                return order
            time.sleep(0.05)
        raise ServerError("the daemon did not shrink")

    def _given_back(self, watch: Watch, ordered: float, freed: int) -> float:
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            back = given_back(watch.looks, ordered, _SHARE * freed)
            if back is not None:
                return back
            time.sleep(0.05)
        raise ServerError(f"{freed} bytes were ordered, and were not given back in {_GIVE_UP_SECONDS:g} s")


def _rows(found: Sequence[Reaction]) -> list[Row]:
    runs = f"{len(found)} runs"
    back = [run.crossing_to_bytes for run in found]
    needed = [run.need_to_bytes for run in found]
    p99 = between_tokens(found)
    return [
        Row(
            f"reaction, from crossing R_low to bytes given back, {STREAMS} streams, {runs}",
            "s",
            Figure.of(back),
            Figure.exact(_GOAL_MEDIAN),
            "the goal for the median",
            less_is_better=True,
        ),
        Row(
            "reaction, from crossing R_low to bytes given back, the slowest run",
            "s",
            Figure.exact(max(back)),
            Figure.exact(_GOAL_MOST),
            "the goal",
            less_is_better=True,
        ),
        Row(
            "reaction, from where R_low would have been crossed without giving back, to bytes given back",
            "s",
            Figure.of(needed),
            Figure.exact(_GOAL_MEDIAN),
            "the goal for the median",
            less_is_better=True,
        ),
        Row(
            "reaction, from where R_low would have been crossed without giving back, the slowest run",
            "s",
            Figure.exact(max(needed)),
            Figure.exact(_GOAL_MOST),
            "the goal",
            less_is_better=True,
        ),
        Row(
            "reaction, from the order to bytes given back",
            "s",
            Figure.of([run.order_to_bytes for run in found]),
            None,
            "nothing: no peer resizes a live model",
            less_is_better=True,
        ),
        Row(
            "reaction, from crossing R_low to the order; negative: the law acted ahead",
            "s",
            Figure.of([run.crossing_to_order for run in found]),
            None,
            "nothing: no peer resizes a live model",
            less_is_better=True,
        ),
        Row(
            f"reaction, p99 time between tokens of {STREAMS} running streams, while the hog takes memory",
            "ms",
            Figure.exact(p99.during),
            Figure.exact(p99.steady),
            f"the same streams in the {_STEADY_SECONDS:g} s before",
            less_is_better=True,
        ),
    ]


class BetweenTokens(NamedTuple):
    """99th percentile of the time between tokens of all streams, in milliseconds."""

    during: float
    """While the hog takes memory."""
    steady: float
    """In the seconds before."""


def between_tokens(found: Sequence[Reaction]) -> BetweenTokens:
    """Of all runs together."""
    during = [gap for run in found for gap in run.during_ms]
    steady = [gap for run in found for gap in run.steady_ms]
    return BetweenTokens(percentile(during, 0.99), percentile(steady, 0.99))
