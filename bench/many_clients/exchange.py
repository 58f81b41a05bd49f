"""One request and its response, as a client sees them."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import httpx

from bench.many_clients.answers import Answer, WrongAnswerError, check_refusal
from bench.many_clients.asks import Ask, Served

_JSON: Final = {"content-type": "application/json"}


class Exchange:
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
            if not line or (line.startswith(":") and not done):
                continue  # a comment keeps a stream open that has nothing to say yet
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
