"""A soak from the start of the daemon to its end."""

import asyncio
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from bench.machine.decisions import decisions
from bench.machine.helpers import Hog, RunningDaemon, running_daemon
from bench.machine.small_machine import Machine, footprints
from bench.many_clients.asks import TEXT, Ask
from bench.many_clients.clients import Clients, connect, look
from bench.many_clients.report import Report
from bench.server_process import ServerError
from bench.soak.accounts import Books, Handles, handles
from bench.soak.disturb import Disturber
from bench.soak.log import Seen
from bench.soak.pinned import POSITIONS, Pinned
from bench.soak.schedule import HOGS, schedule
from bench.streams import Stream

_LOOK_S: Final = 0.25
_QUIET_S: Final = 6.0
"""After the last request: connections that were kept are closed by then."""
_WISHES_AT_ONCE: Final = 16
"""In the warm-up: as many threads as the daemon ever has for them."""
_DRAIN_STREAMS: Final = 2
_DRAIN_TOKENS: Final = 64
_DRAIN_S: Final = 30.0
_BAD: Final = (" ERROR ", " CRITICAL ", "Traceback", "Exception", "Warning: ", "MemoryError", "out of memory")


@dataclass(frozen=True, slots=True)
class Plan:
    """A soak.

    Args:
        ensemble: To serve.
        machine: To serve it on.
        seconds: Of the measured part.
        clients: At a time.
        seed: Of all that is random.
        flags: Further ones of the daemon.
    """

    ensemble: Path
    machine: Machine
    seconds: float
    clients: int
    seed: int
    flags: Sequence[str] = ()

    @property
    def warm_up_s(self) -> float:
        """Seconds of the same load before."""
        return min(60.0, max(10.0, 0.1 * self.seconds))


def soak(plan: Plan) -> tuple[Seen, str]:
    """Start a daemon, do everything to it at once, and stop it. Returns what was seen, and the daemon's log."""
    seen = Seen(Report(plan.clients))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        seconds = round(plan.seconds + plan.warm_up_s) + 1800
        hogs = [stack.enter_context(Hog(plan.machine.memory, seconds)) for _ in range(HOGS)]
        flags = [*plan.machine.flags([hog.pid for hog in hogs]), "--alias=demo", *plan.flags]
        daemon = stack.enter_context(running_daemon(folder, *flags, model=str(plan.ensemble)))
        try:
            asyncio.run(_Soak(plan, daemon, hogs, seen).run())
        except (ServerError, httpx.HTTPError, ExceptionGroup, LookupError, ValueError, RuntimeError, OSError) as error:
            seen.fault(f"the soak ended early: {error!r}")
        seen.drained = _drain(daemon)
        log = daemon.log()
    for line in log.splitlines():
        if any(word in line for word in _BAD):
            seen.fault(f"in the log: {line}")
    return seen, log


class _Soak:
    def __init__(self, plan: Plan, daemon: RunningDaemon, hogs: Sequence[Hog], seen: Seen) -> None:
        self._plan = plan
        self._daemon = daemon
        self._hogs = hogs
        self._seen = seen

    async def run(self) -> None:
        plan, seen = self._plan, self._seen
        async with connect(self._daemon.url) as control, connect(self._daemon.url) as http:
            served = await look(control)
            clients = Clients(self._daemon.url, served, seen.load, lambda _: None)
            pinned = Pinned(http, seen, served.max_position)
            await self._settle(control, clients, served.max_position)
            await pinned.learn()
            await self._warm_up(clients, control)
            await self._settle(control, clients, served.max_position)
            state = await self._state(control)
            seen.at_start = Books.of(time.monotonic(), state), await self._handles()
            seen.load.start_measuring()

            sizes = footprints(plan.ensemble)
            disturber = Disturber(
                http,
                self._hogs,
                seen,
                pinned,
                slack=state["available_bytes"] - plan.machine.low,
                elastic=sizes[0] - sizes[-1],
            )
            await control.post("/v1/elastic/target", json={"mode": "auto"})
            began, since = time.perf_counter(), time.time()
            watcher = asyncio.create_task(self._watch(control))
            planned = schedule(plan.seed, plan.seconds, POSITIONS)
            seeds = [f"{plan.seed}/{number}" for number in range(plan.clients)]
            try:
                await asyncio.gather(clients.run(seeds, began + plan.seconds), disturber.run(planned))
            finally:
                watcher.cancel()
                await asyncio.wait([watcher])
            if not watcher.cancelled() and (error := watcher.exception()) is not None:
                raise error
            seen.seconds = seen.load.seconds = time.perf_counter() - began
            lines = self._daemon.log().splitlines()
            seen.decisions = [decision for decision in decisions(lines) if decision.when >= since]

            await disturber.leave()
            await self._settle(control, clients, served.max_position)
            seen.at_end = Books.of(time.monotonic(), await self._state(control)), await self._handles()
            for number, position in enumerate(pinned.positions):
                await control.post("/v1/elastic/target", json={"position": position})
                await pinned.compare(number, position)

    async def _warm_up(self, clients: Clients, control: httpx.AsyncClient) -> None:
        """Everything that a daemon takes once, it takes now."""
        plan = self._plan
        seeds = [f"{plan.seed}/warm-up/{number}" for number in range(plan.clients)]
        deadline = time.perf_counter() + plan.warm_up_s
        wishes = [control.post("/v1/elastic/target", json={"position": 0}) for _ in range(_WISHES_AT_ONCE)]
        await asyncio.gather(clients.run(seeds, deadline), *wishes)

    async def _settle(self, control: httpx.AsyncClient, clients: Clients, max_position: int) -> None:
        """Bring the daemon to a state that can be compared: nobody asks, position 0 pinned, and no KV pages."""
        await asyncio.sleep(1.0)  # the daemon notices who has gone away
        # Answered after all that was given up before has been ended.
        await clients.ask(control, Ask(path=TEXT, body={"prompt": "a", "max_tokens": 1, "ignore_eos": True}))
        for position in (0, max_position, 0):  # leaving a position gives back all KV pages
            answer = await control.post("/v1/elastic/target", json={"position": position})
            if answer.status_code != httpx.codes.OK or answer.json()["position"] != position:
                self._seen.fault(f"a quiet daemon does not go to {position}: {answer.text:.300}")

    async def _state(self, control: httpx.AsyncClient) -> Mapping[str, Any]:
        answer = await control.get("/v1/elastic")
        answer.raise_for_status()
        state: Mapping[str, Any] = answer.json()
        return state

    async def _handles(self) -> Handles:
        """Of the daemon, when nobody is connected any more."""
        await asyncio.sleep(_QUIET_S)
        process = Path("/proc", str(self._daemon.process.pid))
        names = []
        for link in (process / "fd").iterdir():
            with suppress(FileNotFoundError):
                names.append(os.readlink(link))
        return handles(names, len(list((process / "task").iterdir())))

    async def _watch(self, control: httpx.AsyncClient) -> None:
        due = time.monotonic()
        while True:
            self._seen.looks.append(Books.of(time.monotonic(), await self._state(control)))
            due = max(due + _LOOK_S, time.monotonic())
            await asyncio.sleep(due - time.monotonic())


def _drain(daemon: RunningDaemon) -> str:
    """SIGTERM while answers stream and a swap is under way. Returns what went wrong: nothing, an empty text."""
    if daemon.process.poll() is not None:
        return f"the daemon had ended before, with exit code {daemon.process.returncode}"
    port = httpx.URL(daemon.url).port or 0
    body = {"prompt": "On and on", "max_tokens": _DRAIN_TOKENS, "ignore_eos": True}
    with ExitStack() as stack:
        try:
            daemon.post("/v1/elastic/target", {"position": 0})
            streams = [stack.enter_context(Stream(port, body)) for _ in range(_DRAIN_STREAMS)]
            for stream in streams:
                stream.wait_for_pieces(1)
            last = daemon.get("/v1/elastic").json()["max_position"]
            threading.Thread(target=_move, args=(daemon, last), daemon=True).start()
            time.sleep(0.02)
            daemon.process.send_signal(signal.SIGTERM)
            tokens = [stream.finish() for stream in streams]
            code = daemon.process.wait(_DRAIN_S)
        except (ServerError, httpx.HTTPError, OSError, subprocess.TimeoutExpired) as error:
            return repr(error)
    if tokens != [_DRAIN_TOKENS] * _DRAIN_STREAMS:
        return f"streams of {tokens} tokens instead of {_DRAIN_TOKENS}"
    return "" if code == 0 else f"exit code {code}"


def _move(daemon: RunningDaemon, position: int) -> None:
    with suppress(httpx.HTTPError):  # the daemon may end first
        daemon.post("/v1/elastic/target", {"position": position})
