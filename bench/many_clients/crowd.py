"""A run of many clients: a warm-up, then the measured part, while somebody moves the model."""

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Final

import httpx

from bench.many_clients.answers import Answer
from bench.many_clients.asks import PROBES, TEXT, Ask, Served
from bench.many_clients.clients import Clients, connect, look
from bench.many_clients.report import Report
from flexquant.engine.memory.process import anonymous_bytes

_SAMPLE_S: Final = 0.25
_MOVE_S: Final = (1.0, 4.0)
"""Seconds between moves: at least and at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run.

    Args:
        clients: At a time.
        seconds: Of the measured part.
        warm_up_s: Seconds of the same before, after which memory should not grow any more.
        seed: Of all that is random.
    """

    clients: int
    seconds: float
    warm_up_s: float
    seed: int = 0


def run(url: str, pid: int, plan: Plan) -> Report:
    """Let many clients ask a daemon, and return what they saw.

    The position is pinned all the time: to 0 before, in between and afterwards, and to random ones while clients ask.

    Args:
        url: Of a daemon that is ready, and that nobody else talks to.
        pid: Its process.
        plan: Who asks, and for how long.
    """
    return asyncio.run(_crowd(url, pid, plan))


async def _crowd(url: str, pid: int, plan: Plan) -> Report:
    async with connect(url) as control:
        return await _Crowd(url, pid, plan, control, await look(control)).run()


class _Crowd:
    def __init__(self, url: str, pid: int, plan: Plan, control: httpx.AsyncClient, served: Served) -> None:
        self._pid = pid
        self._plan = plan
        self._control = control
        self._served = served
        self._report = Report(plan.clients)
        self._references: dict[int, list[str]] = {}
        self._clients = Clients(url, served, self._report, self._compare)

    async def run(self) -> Report:
        report, plan = self._report, self._plan
        await self._settle()
        await self._ask_references()
        await self._ask_all_at_once(plan.warm_up_s, "warm-up")
        await self._settle()
        report.start_measuring()
        report.anonymous_at_start = await self._beyond_pages()
        began = time.perf_counter()
        await self._ask_all_at_once(plan.seconds, "measured")
        report.seconds = time.perf_counter() - began
        await self._settle()
        report.anonymous_at_end = await self._beyond_pages()
        await self._ask_references()
        return report

    # --- phases

    async def _settle(self) -> None:
        """Bring the daemon to a state that can be compared: nobody asks, and position 0."""
        await asyncio.sleep(1.0)  # the daemon notices who has gone away
        # Answered after all that was given up before has been ended.
        await self._clients.ask(
            self._control, Ask(path=TEXT, body={"prompt": "a", "max_tokens": 1, "ignore_eos": True})
        )
        # Who moved about may have left the model anywhere.
        for position in (0, self._served.max_position, 0):
            await self._move(position)

    async def _beyond_pages(self) -> int:
        """The daemon's private bytes without KV pages: it keeps some for later prompts, now more and now fewer."""
        answer = await self._control.get("/v1/elastic")
        kept: int = answer.json()["memory"]["kv"]
        return anonymous_bytes(self._pid) - kept

    async def _ask_references(self) -> None:
        """The answers of a daemon that nobody else talks to; the second time they must be the same."""
        for probe in PROBES:
            await self._clients.ask(self._control, probe)

    async def _ask_all_at_once(self, seconds: float, phase: str) -> None:
        deadline = time.perf_counter() + seconds
        watchers = [
            asyncio.create_task(self._move_about(random.Random(f"{self._plan.seed}/{phase}/moves"))),
            asyncio.create_task(self._watch_memory()),
        ]
        try:
            await self._clients.run(
                [f"{self._plan.seed}/{phase}/{number}" for number in range(self._plan.clients)], deadline
            )
        finally:
            for watcher in watchers:
                watcher.cancel()
            ended = await asyncio.gather(*watchers, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                self._report.wrong(f"while moving or watching: {error!r}")

    async def _move_about(self, rng: random.Random) -> None:
        """Half of the time at position 0."""
        while True:
            await asyncio.sleep(rng.uniform(*_MOVE_S))
            await self._move(rng.randint(1, self._served.max_position))
            self._report.moves += 1
            await asyncio.sleep(rng.uniform(*_MOVE_S))
            await self._move(0)
            self._report.moves += 1

    async def _move(self, position: int) -> None:
        answer = await self._control.post("/v1/elastic/target", json={"position": position})
        if answer.status_code != 200 or answer.json()["position"] != position:
            self._report.wrong(f"move to {position}: {answer.status_code} {answer.text:.300}")

    async def _watch_memory(self) -> None:
        while True:
            self._report.anonymous_peak = max(self._report.anonymous_peak, anonymous_bytes(self._pid))
            await asyncio.sleep(_SAMPLE_S)

    def _compare(self, answer: Answer) -> None:
        """An answer that was computed at position 0 alone is the same as its reference."""
        probe = answer.ask.probe
        if probe is None or not answer.all_at_best:
            return
        if "-torch-" in answer.fingerprint:  # its rows are not independent of those beside them
            return
        reference = self._references.setdefault(probe, answer.texts)
        self._report.probes += 1
        if answer.texts != reference:
            self._report.wrong(f"probe {probe} was answered {answer.texts!r:.600} and once {reference!r:.600}")
