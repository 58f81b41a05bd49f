"""From a request's fields to the engine and back: what completions and chat completions share."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from flexquant.engine.errors import ContextLengthError
from flexquant.engine.grammar_constraint import CompiledGrammar
from flexquant.engine.sampling import SamplingParams
from flexquant.server.api_error import CLIENT_GONE, ApiError, client_gone
from flexquant.server.api_types import GenerationFields
from flexquant.server.daemon_state import DaemonState
from flexquant.server.engine_thread import EngineThread
from flexquant.server.generation_request import (
    Cut,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    Started,
    Text,
)
from flexquant.server.job import Job
from flexquant.server.streaming import HEADERS, HEARTBEAT_S, MEDIA_TYPE, server_sent
from flexquant.server.token_marks import MarkedToken
from flexquant.server.totals import Totals

POSITION_HEADER: Final = "x-flexquant-position"
_MANY_TOKENS: Final = 100
"""Tokens, such as an echoed prompt's, whose log-probabilities take more than a millisecond to put into words."""
FinishReason = Literal["stop", "length", "tool_calls"]
_Phrased = TypeVar("_Phrased")


class Shape(Protocol):
    """How one endpoint phrases the answers to a request: the parts of its JSON that differ from the other's."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def whole(self, index: int, text: str, tokens: Sequence[MarkedToken], reason: FinishReason) -> dict[str, Any]:
        """A choice of an answer that is not streamed."""
        ...

    def opening(self, index: int) -> list[dict[str, Any]]:
        """What is streamed before a choice's text."""
        ...

    def pieces(self, index: int, text: str, tokens: Sequence[MarkedToken]) -> list[dict[str, Any]]:
        """What is streamed of a part of a choice's text; nothing while it is held back."""
        ...

    def closing(self, index: int, reason: FinishReason) -> list[dict[str, Any]]:
        """What ends a choice's stream."""
        ...


@dataclass(frozen=True, slots=True)
class Frame:
    """The parts of an answer's JSON that are the same in each of its chunks."""

    id: str
    created: int
    model: str
    fingerprint: str

    def wrap(self, kind: str, choices: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        """An answer or a chunk."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **more,
        }


def generation_requests(
    fields: GenerationFields,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | None,
    daemon: DaemonState,
    *,
    logprobs: int | None,
    echo: bool = False,
    continues: bool = False,
    spelled_tokens: frozenset[int] = frozenset(),
    grammar: CompiledGrammar | None = None,
) -> list[GenerationRequest]:
    """What the engine is asked for: `n` choices of the first prompt, then of the next.

    Args:
        fields: Of the request. Choice i of a prompt has the seed plus i.
        prompts: Token ids.
        max_tokens: As the request limits it; None goes on to the end of the context, which limits in any case.
        daemon: Whose model, engine and controller they are for.
        logprobs: How many of the likeliest tokens the score of a token has; None scores none.
        echo: Answers begin with their prompts.
        continues: Answers go on in the text of their prompts, where there is any.
        spelled_tokens: Special tokens that are told as text.
        grammar: What each answer has to be; None for anything.

    Raises:
        ContextLengthError: A prompt leaves no room for an answer.
        ApiError: There are more sequences than the daemon could ever take at once, or a bias is for no token.
    """
    choices, most, context = fields.n or 1, daemon.engine.most_sequences, daemon.model.context
    if len(prompts) * choices > most:
        raise ApiError(
            400,
            f"{len(prompts)} prompts with {choices} choices each are {len(prompts) * choices} sequences; one request "
            f"can have {most} (--parallel and --max-queue).",
            param="n" if choices > 1 else "prompt",
        )
    outside = [token for token in fields.logit_bias or {} if token >= daemon.model.vocab_size]
    if outside:
        raise ApiError(
            400,
            f"logit_bias: token id {outside[0]} is outside the vocabulary of {daemon.model.vocab_size}.",
            param="logit_bias",
        )
    requests = []
    for prompt in prompts:
        room = context - len(prompt)
        least = 0 if max_tokens == 0 else 1
        if room < least:
            raise ContextLengthError(
                # Clients tell this error by its words: litellm by the first ones, LangChain by "prompt is too long".
                f"This model's maximum context length is {context} tokens, for prompt and answer together; "
                f"the prompt is too long: it has {len(prompt)}.",
                tokens=len(prompt) + least,
                limit=context,
            )
        for choice in range(choices):
            requests.append(
                GenerationRequest(
                    prompt=prompt,
                    max_tokens=room if max_tokens is None else min(max_tokens, room),
                    sampling=_sampling(fields, choice),
                    stops=tuple(fields.stops),
                    ignore_eos=bool(fields.ignore_eos),
                    exact=daemon.controller.pinned,
                    logprobs=logprobs,
                    echo=echo,
                    continues=continues and any(token != daemon.model.tokenizer.bos_id for token in prompt),
                    spelled_tokens=spelled_tokens,
                    constraint=None if grammar is None else grammar.start(ignore_eos=bool(fields.ignore_eos)),
                )
            )
    return requests


def _sampling(fields: GenerationFields, choice: int) -> SamplingParams:
    return SamplingParams(
        temperature=1.0 if fields.temperature is None else fields.temperature,
        top_k=fields.top_k or 0,
        top_p=1.0 if fields.top_p is None else fields.top_p,
        seed=None if fields.seed is None else fields.seed + choice,
        min_p=fields.min_p or 0.0,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        repetition_penalty=1.0 if fields.repetition_penalty is None else fields.repetition_penalty,
        logit_bias=tuple((fields.logit_bias or {}).items()),
    )


async def answer(
    request: Request,
    daemon: DaemonState,
    fields: GenerationFields,
    generations: Sequence[GenerationRequest],
    shape: Shape,
) -> Response:
    """Have `generations` done and answer `request` with them, streamed if it asks for that.

    The answer begins when the request's turn has come, so a full queue is a plain 503 for a streamed one too.
    """
    events = _events(request, daemon.engine, generations)
    first = await anext(events)
    assert first is not None
    started = first[1]
    assert isinstance(started, Started)
    frame = Frame(
        shape.id_prefix + request.scope["flexquant.id"],
        int(time.time()),
        daemon.model.id,
        daemon.model.fingerprint(started.position),
    )
    totals = Totals(fields.n or 1)
    headers = {POSITION_HEADER: str(started.position)}
    if fields.stream:
        chunks = _chunks(request, events, frame, shape, totals, include_usage=fields.include_usage)

        def cut_short() -> dict[str, Any] | None:
            if not (fields.include_usage and totals.known):
                return None
            return frame.wrap(shape.chunk_object, [], usage=totals.usage())

        return StreamingResponse(server_sent(chunks, cut_short), media_type=MEDIA_TYPE, headers=headers | HEADERS)
    texts = [""] * len(generations)
    tokens: list[list[MarkedToken]] = [[] for _ in generations]
    reasons: list[FinishReason] = ["stop"] * len(generations)
    async for happened in events:
        if happened is None:
            continue
        index, event = happened
        if isinstance(event, Text):
            texts[index] += event.text
            tokens[index].extend(event.tokens)
        elif isinstance(event, Finished):
            reasons[index] = event.reason
            totals.add(index, event)
    totals.log(request)
    parts = zip(range(len(generations)), texts, tokens, reasons, strict=True)
    choices = await _phrased(sum(map(len, tokens)), lambda: [shape.whole(*part) for part in parts])
    return JSONResponse(frame.wrap(shape.whole_object, choices, usage=totals.usage()), headers=headers)


async def _chunks(
    request: Request,
    events: AsyncIterator[tuple[int, Event] | None],
    frame: Frame,
    shape: Shape,
    totals: Totals,
    *,
    include_usage: bool,
) -> AsyncGenerator[Mapping[str, Any] | None, None]:
    """The stream's chunks. With `include_usage` each has a `usage`: null in all but the last. None is a heartbeat."""
    kind, no_usage = shape.chunk_object, {"usage": None} if include_usage else {}
    for choice in shape.opening(0):  # the first choice has started already
        yield frame.wrap(kind, [choice], **no_usage)
    async for happened in events:
        if happened is None:
            yield None
            continue
        index, event = happened
        if isinstance(event, Started):
            for choice in shape.opening(index):
                yield frame.wrap(kind, [choice], **no_usage)
        elif isinstance(event, Text):
            for choice in await _phrased(len(event.tokens), partial(shape.pieces, index, event.text, event.tokens)):
                yield frame.wrap(kind, [choice], **no_usage)
        elif isinstance(event, Finished):
            totals.add(index, event)
            for choice in shape.closing(index, event.reason):
                yield frame.wrap(kind, [choice], **no_usage)
        elif isinstance(event, Cut):
            totals.add(index, event)
    totals.log(request)
    if include_usage:
        yield frame.wrap(kind, [], usage=totals.usage())


async def _phrased(tokens: int, phrase: Callable[[], _Phrased]) -> _Phrased:
    """What `phrase` makes of so many log-probabilities; of many, not on the event loop."""
    return phrase() if tokens < _MANY_TOKENS else await asyncio.to_thread(phrase)


async def _events(
    request: Request, engine: EngineThread, generations: Sequence[GenerationRequest]
) -> AsyncGenerator[tuple[int, Event] | None, None]:
    """The events of all sequences, each with its number, until all have finished; None after a while without any.

    The first is always an event: nothing is sent before a request's turn has come. A client that goes away, or a
    closed iteration, gives them up.

    Raises:
        ApiError: What Failed carries, or what `submit` refuses with.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    def deliver(number: int, event: Event) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody listens any more
            loop.call_soon_threadsafe(events.put_nowait, (number, event))

    job = engine.submit(generations, deliver)
    watcher = asyncio.create_task(_cancel_when_gone(request, job, events))
    outcome, unfinished = "cancelled", len(generations)
    patience: float | None = None
    try:
        while unfinished:
            try:
                async with asyncio.timeout(patience):
                    number, event = await events.get()
            except TimeoutError:
                yield None
                continue
            patience = HEARTBEAT_S
            if isinstance(event, Failed):
                outcome = "cancelled" if event.error.status == CLIENT_GONE else "failed"
                raise event.error
            unfinished -= isinstance(event, Finished)
            yield number, event
    finally:
        request.scope["flexquant.log"].setdefault("finish", outcome)
        job.cancel()
        watcher.cancel()


async def _cancel_when_gone(request: Request, job: Job, events: asyncio.Queue[tuple[int, Event]]) -> None:
    """Wait for the client to close the connection, then cancel: while its request waits or is prefilled, too."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()
    events.put_nowait((0, Failed(client_gone())))  # of a job that waits, the engine says no more
