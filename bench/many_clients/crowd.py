"""The clients themselves: asyncio tasks of this process, each with a connection and a will of its own."""

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from bench.many_clients.answers import Answer, WrongAnswerError, check_refusal, kind_of
from bench.many_clients.asks import PROBES, TEXT, Ask, Imagination, Served
from bench.many_clients.report import Report
from flexquant.engine.memory.process import anonymous_bytes

PATIENCE: Final = 120.0
"""Seconds without a byte after which something is broken, on whatever machine this runs."""
_JSON: Final = {"content-type": "application/json"}
_KEEP_ALIVE_S: Final = 2.0
"""Well below what the daemon keeps an idle connection for: none is used just as it is closed."""
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
    return asyncio.run(_Crowd(url, pid, plan).run())


class _Crowd:
    def __init__(self, url: str, pid: int, plan: Plan) -> None:
        self._url = url
        self._pid = pid
        self._plan = plan
        self._report = Report(plan.clients)
        self._references: dict[int, list[str]] = {}
        self._served = Served(context=1, max_position=0)
        self._exact = True

    async def run(self) -> Report:
        report, plan = self._report, self._plan
        async with self._connect() as control:
            self._served = await _look(control)
            await self._settle(control)
            await self._ask_references(control)
            await self._ask_all_at_once(control, plan.warm_up_s, "warm-up")
            await self._settle(control)
            report.start_measuring()
            report.anonymous_at_start = anonymous_bytes(self._pid)
            began = time.perf_counter()
            await self._ask_all_at_once(control, plan.seconds, "measured")
            report.seconds = time.perf_counter() - began
            await self._settle(control)
            report.anonymous_at_end = anonymous_bytes(self._pid)
            await self._ask_references(control)
        return report

    def _connect(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._url,
            timeout=PATIENCE,
            trust_env=False,
            verify=False,
            limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_S),
        )

    # --- phases

    async def _settle(self, control: httpx.AsyncClient) -> None:
        """Bring the daemon to a state that can be compared: nobody asks, position 0, and no KV pages."""
        await asyncio.sleep(1.0)  # the daemon notices who has gone away
        # Answered after all that was given up before has been ended.
        await self._ask(control, Ask(path=TEXT, body={"prompt": "a", "max_tokens": 1, "ignore_eos": True}))
        # Leaving position 0 gives back all KV pages, and who moved about may have left the model anywhere.
        for position in (0, self._served.max_position, 0):
            await self._move(control, position)

    async def _ask_references(self, control: httpx.AsyncClient) -> None:
        """The answers of a daemon that nobody else talks to; the second time they must be the same."""
        for probe in PROBES:
            await self._ask(control, probe)

    async def _ask_all_at_once(self, control: httpx.AsyncClient, seconds: float, phase: str) -> None:
        deadline = time.perf_counter() + seconds
        watchers = [
            asyncio.create_task(self._move_about(control, random.Random(f"{self._plan.seed}/{phase}/moves"))),
            asyncio.create_task(self._watch_memory()),
        ]
        clients = [
            self._client(random.Random(f"{self._plan.seed}/{phase}/{number}"), deadline)
            for number in range(self._plan.clients)
        ]
        try:
            await asyncio.gather(*clients)
        finally:
            for watcher in watchers:
                watcher.cancel()
            ended = await asyncio.gather(*watchers, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                self._report.wrong(f"while moving or watching: {error!r}")

    async def _move_about(self, control: httpx.AsyncClient, rng: random.Random) -> None:
        """Half of the time at position 0."""
        while True:
            await asyncio.sleep(rng.uniform(*_MOVE_S))
            await self._move(control, rng.randint(1, self._served.max_position))
            self._report.moves += 1
            await asyncio.sleep(rng.uniform(*_MOVE_S))
            await self._move(control, 0)
            self._report.moves += 1

    async def _move(self, control: httpx.AsyncClient, position: int) -> None:
        answer = await control.post("/v1/elastic/target", json={"position": position})
        if answer.status_code != 200 or answer.json()["position"] != position:
            self._report.wrong(f"move to {position}: {answer.status_code} {answer.text:.300}")

    async def _watch_memory(self) -> None:
        while True:
            self._report.anonymous_peak = max(self._report.anonymous_peak, anonymous_bytes(self._pid))
            await asyncio.sleep(_SAMPLE_S)

    # --- one client

    async def _client(self, rng: random.Random, deadline: float) -> None:
        imagination = Imagination(rng, self._served)
        async with self._connect() as http:
            await asyncio.sleep(rng.random())
            while time.perf_counter() < deadline:
                ask, is_turn = imagination.next()
                retry_after, answer = await self._ask(http, ask)
                if retry_after:
                    await asyncio.sleep(retry_after * rng.uniform(0.5, 1.5))  # a fast one, too, asks too early
                elif is_turn and answer is not None and answer.usage is not None:
                    text = rng.choice(answer.texts)
                    imagination.conversation.heard(text, answer.usage["total_tokens"])
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.expovariate(1 / 0.5))

    async def _ask(self, http: httpx.AsyncClient, ask: Ask) -> tuple[float, Answer | None]:
        """Ask and note what becomes of it. Returns seconds after which to try again, and the answer if there is one."""
        report, exchange = self._report, _Exchange(ask, self._served)
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

    def _note(self, exchange: "_Exchange") -> tuple[float, Answer | None]:
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


async def _look(control: httpx.AsyncClient) -> Served:
    models = (await control.get("/v1/models")).json()
    elastic = (await control.get("/v1/elastic")).json()
    return Served(context=models["data"][0]["context_length"], max_position=elastic["max_position"])


class _Exchange:
    """One request and its response.

    Args:
        ask: The request.
        served: Of whom.
    """

    def __init__(self, ask: Ask, served: Served) -> None:
        self.ask = ask
        self.answer = Answer(ask, served)
        self.code: str | None = None
        """Of a refusal."""
        self.retry_after = 0.0
        self.begun = self.sent = False
        """Whether some of the request was sent, and all of it."""
        self.answered = False
        """Whether the response has begun."""
        self.left = False
        self.first_token_s: float | None = None
        self._began = self._ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since it began, until it ended."""
        return (self._ended if self._ended > self._began else time.perf_counter()) - self._began

    async def do(self, http: httpx.AsyncClient) -> None:
        """Send and receive.

        Raises:
            WrongAnswerError: The response is not what the API promises.
            httpx.HTTPError: There is none.
        """
        self._began = self._ended = time.perf_counter()
        content = self.ask.content
        async with http.stream(
            "POST", self.ask.path, content=content, headers=_JSON, extensions={"trace": self._trace}
        ) as response:
            self.answered = True
            if response.status_code != 200:
                refusal = await response.aread()
                self.code = check_refusal(response.status_code, response.headers, refusal, self.ask.refusal)
                self.retry_after = float(response.headers.get("retry-after", 0))
            elif self.ask.refusal is not None:
                raise WrongAnswerError(f"an answer instead of {self.ask.refusal}")
            elif self.ask.fields.get("stream"):
                await self._read_stream(response)
            else:
                self.answer.whole(await response.aread())
        self._ended = time.perf_counter()
        if self.code is None and not self.left:
            self.answer.finish()

    async def _read_stream(self, response: httpx.Response) -> None:
        chunks, done = 0, False
        async for line in response.aiter_lines():
            if not line:
                continue
            if done or not line.startswith("data: "):
                raise WrongAnswerError(f"no event, or one too many: {line!r:.300}")
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                done = True
                continue
            if self.answer.event(data) and self.first_token_s is None:
                self.first_token_s = time.perf_counter() - self._began
            chunks += 1
            if self.ask.leave_after_chunks is not None and chunks > self.ask.leave_after_chunks:
                self.left = True
                return
            if self.ask.pause_s:
                await asyncio.sleep(self.ask.pause_s)
        if not done:
            raise WrongAnswerError(f"the stream ended without [DONE] after {chunks} chunks")

    async def _trace(self, event: str, _: Mapping[str, Any]) -> None:
        self.begun = self.begun or event == "http11.send_request_headers.started"
        self.sent = self.sent or event == "http11.send_request_body.complete"
