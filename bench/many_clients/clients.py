"""Clients that ask at once: asyncio tasks of this process, each with a connection and a will of its own."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import httpx

from bench.many_clients.answers import Answer, WrongAnswerError, kind_of
from bench.many_clients.asks import Ask, Imagination, Served
from bench.many_clients.exchange import Exchange
from bench.many_clients.report import Report

PATIENCE: Final = 120.0
"""Seconds without a byte after which something is broken, on whatever machine this runs."""
_KEEP_ALIVE_S: Final = 2.0
"""Well below what the daemon keeps an idle connection for: none is used just as it is closed."""


def connect(url: str) -> httpx.AsyncClient:
    """A client's connections to a daemon."""
    return httpx.AsyncClient(
        base_url=url,
        timeout=PATIENCE,
        trust_env=False,
        verify=False,
        limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_S),
    )


async def look(control: httpx.AsyncClient) -> Served:
    """What a daemon says about its model."""
    models = (await control.get("/v1/models")).json()
    elastic = (await control.get("/v1/elastic")).json()
    return Served(context=models["data"][0]["context_length"], max_position=elastic["max_position"])


class Clients:
    """Everything that asks one daemon.

    Args:
        url: Of the daemon.
        served: What it says about itself.
        report: Is filled.
        compare: Called with every complete answer that has a usage.
    """

    def __init__(self, url: str, served: Served, report: Report, compare: Callable[[Answer], None]) -> None:
        self._url = url
        self._served = served
        self._report = report
        self._compare = compare

    async def run(self, seeds: Sequence[str], deadline: float) -> None:
        """One client per seed, until the deadline (of `time.perf_counter`) and the end of its last request."""
        await asyncio.gather(*(self._client(random.Random(seed), deadline) for seed in seeds))

    async def _client(self, rng: random.Random, deadline: float) -> None:
        imagination = Imagination(rng, self._served)
        async with connect(self._url) as http:
            await asyncio.sleep(rng.random())
            while time.perf_counter() < deadline:
                ask, is_turn = imagination.next()
                retry_after, answer = await self.ask(http, ask)
                if retry_after:
                    await asyncio.sleep(retry_after * rng.uniform(0.5, 1.5))  # a fast one, too, asks too early
                elif is_turn and answer is not None and answer.usage is not None:
                    text = rng.choice(answer.texts)
                    imagination.conversation.heard(text, answer.usage["total_tokens"])
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.expovariate(1 / 0.5))

    async def ask(self, http: httpx.AsyncClient, ask: Ask) -> tuple[float, Answer | None]:
        """Ask and note what becomes of it. Returns seconds after which to try again, and the answer if there is one."""
        report, exchange = self._report, Exchange(ask, self._served)
        try:
            try:
                async with asyncio.timeout(ask.leave_after_s):
                    await exchange.do(http)
            finally:
                report.begun += exchange.begun
                report.sent += exchange.sent
        except TimeoutError:
            report.outcomes["client left in the middle" if exchange.answered else "client left while waiting"] += 1
        except (WrongAnswerError, httpx.HTTPError, LookupError, TypeError, AttributeError) as error:
            report.wrong(f"{error!r:.600} after {exchange.seconds:.1f} s, to {ask.path} {ask.content[:600]!r}")
        else:
            return self._note(exchange)
        return 0.0, None

    def _note(self, exchange: Exchange) -> tuple[float, Answer | None]:
        report, ask, answer = self._report, exchange.ask, exchange.answer
        if exchange.code is not None:
            expected = ask.refusal is not None and ask.refusal.code == exchange.code
            status = ask.refusal.status if ask.refusal is not None and expected else 503
            report.outcomes[f"{status} as expected" if expected else f"503 {exchange.code}"] += 1
            return exchange.retry_after, None
        if exchange.left:
            report.outcomes["client left in the middle"] += 1
            return 0.0, None
        report.outcomes[f"complete answer, {kind_of(ask)}"] += 1
        if exchange.first_token_s is not None:
            report.first_token_s.append(exchange.first_token_s)
        else:
            report.whole_s.append(exchange.seconds)
        if answer.usage is not None:
            usage: Mapping[str, Any] = answer.usage
            report.sequences += len(answer.choices)
            report.prompt_tokens += usage["prompt_tokens"]
            report.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
            report.completion_tokens += usage["completion_tokens"]
            self._compare(answer)
        return 0.0, answer
