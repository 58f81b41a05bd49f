"""From a request's fields to the engine and back: what completions and chat completions share."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from flexquant.engine.errors import ContextLengthError
from flexquant.engine.sampling import SamplingParams
from flexquant.server.api_types import GenerationFields
from flexquant.server.daemon_state import DaemonState, ServedModel
from flexquant.server.engine_thread import EngineThread, Job
from flexquant.server.error_envelope import CLIENT_GONE
from flexquant.server.generation_request import Event, Failed, Finished, GenerationRequest, Started, Text, Usage
from flexquant.server.request_log import usage_fields
from flexquant.server.streaming import HEADERS, MEDIA_TYPE, server_sent

POSITION_HEADER: Final = "x-flexquant-position"
FinishReason = Literal["stop", "length"]


class Shape(Protocol):
    """How one endpoint phrases answers: the parts of its JSON that differ from the other's."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def whole(self, text: str, reason: FinishReason) -> dict[str, Any]:
        """The choice of an answer that is not streamed."""
        ...

    def opening(self) -> list[dict[str, Any]]:
        """Choices that are streamed before any text."""
        ...

    def piece(self, text: str) -> dict[str, Any]:
        """The choice that streams a part of the text."""
        ...

    def closing(self, reason: FinishReason) -> dict[str, Any]:
        """The choice that ends the stream."""
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


def generation_request(
    fields: GenerationFields, prompt: Sequence[int], max_tokens: int | None, model: ServedModel
) -> GenerationRequest:
    """What the engine is asked for.

    Args:
        fields: Of the request.
        prompt: Token ids.
        max_tokens: As the request limits it; None goes on to the end of the context, which limits in any case.
        model: The model.

    Raises:
        ContextLengthError: The prompt leaves no room for an answer.
    """
    room = model.context - len(prompt)
    if room < 1:
        raise ContextLengthError(
            f"The prompt has {len(prompt)} tokens; the context holds {model.context} for prompt and answer together.",
            tokens=len(prompt) + 1,
            limit=model.context,
        )
    return GenerationRequest(
        prompt=prompt,
        max_tokens=room if max_tokens is None else min(max_tokens, room),
        sampling=SamplingParams(
            temperature=1.0 if fields.temperature is None else fields.temperature,
            top_k=fields.top_k or 0,
            top_p=1.0 if fields.top_p is None else fields.top_p,
            seed=fields.seed,
        ),
        stops=tuple(fields.stops),
        ignore_eos=bool(fields.ignore_eos),
    )


async def answer(
    request: Request, daemon: DaemonState, fields: GenerationFields, generation: GenerationRequest, shape: Shape
) -> Response:
    """Have `generation` done and answer `request` with it, streamed if it asks for that.

    The answer begins when the request's turn has come, so a full queue is a plain 503 for a streamed one too.
    """
    events = _events(request, daemon.engine, generation)
    started = await anext(events)
    assert isinstance(started, Started)
    frame = Frame(
        shape.id_prefix + request.scope["flexquant.id"],
        int(time.time()),
        daemon.model.id,
        daemon.model.fingerprint(started.position),
    )
    headers = {POSITION_HEADER: str(started.position)}
    if fields.stream:
        chunks = _chunks(request, events, frame, shape, include_usage=fields.include_usage)
        return StreamingResponse(server_sent(chunks), media_type=MEDIA_TYPE, headers=headers | HEADERS)
    text, finished = "", None
    async for event in events:
        if isinstance(event, Text):
            text += event.text
        elif isinstance(event, Finished):
            finished = event
    assert finished is not None
    _log(request, finished)
    choice = shape.whole(text, finished.reason)
    return JSONResponse(frame.wrap(shape.whole_object, [choice], usage=_usage(finished.usage)), headers=headers)


async def _chunks(
    request: Request, events: AsyncIterator[Event], frame: Frame, shape: Shape, *, include_usage: bool
) -> AsyncGenerator[Mapping[str, Any], None]:
    """The stream's chunks. With `include_usage` each has a `usage`: null in all but the last."""
    kind, no_usage = shape.chunk_object, {"usage": None} if include_usage else {}
    for choice in shape.opening():
        yield frame.wrap(kind, [choice], **no_usage)
    async for event in events:
        if isinstance(event, Text):
            yield frame.wrap(kind, [shape.piece(event.text)], **no_usage)
        elif isinstance(event, Finished):
            _log(request, event)
            yield frame.wrap(kind, [shape.closing(event.reason)], **no_usage)
            if include_usage:
                yield frame.wrap(kind, [], usage=_usage(event.usage))


async def _events(request: Request, engine: EngineThread, generation: GenerationRequest) -> AsyncGenerator[Event, None]:
    """The events of `generation` up to Finished. A client that goes away, or a closed iteration, gives it up.

    Raises:
        ApiError: What Failed carries, or what `submit` refuses with.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event] = asyncio.Queue()

    def deliver(event: Event) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody listens any more
            loop.call_soon_threadsafe(events.put_nowait, event)

    job = engine.submit(generation, deliver)
    watcher = asyncio.create_task(_cancel_when_gone(request, job))
    outcome = "cancelled"
    try:
        while True:
            event = await events.get()
            if isinstance(event, Failed):
                outcome = "cancelled" if event.error.status == CLIENT_GONE else "failed"
                raise event.error
            yield event
            if isinstance(event, Finished):
                return
    finally:
        request.scope["flexquant.log"].setdefault("finish", outcome)
        job.cancel()
        watcher.cancel()


async def _cancel_when_gone(request: Request, job: Job) -> None:
    """Wait for the client to close the connection, then cancel: while its request waits or is prefilled, too."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "flexquant": {
            "position_start": usage.position_start,
            "position_end": usage.position_end,
            "position_worst": usage.position_worst,
        },
    }


def _log(request: Request, finished: Finished) -> None:
    request.scope["flexquant.log"].update(finish=finished.reason, **usage_fields(finished.usage))
