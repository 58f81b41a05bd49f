"""One log line per request: what was asked, what it took, at which positions. Never what was said."""

import logging
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flexquant.server.generation_request import Usage
from flexquant.server.logging_setup import fields

log = logging.getLogger(__name__)

_QUIET: Final = frozenset({"/health", "/ready", "/v1/elastic"})
"""Paths that programs poll: logged at debug level while they succeed."""


class RequestLog:
    """ASGI middleware: gives every request an id (`x-request-id` of the answer) and logs it when it has ended.

    Routes find the id in `scope["flexquant.id"]` and add fields to the line through `scope["flexquant.log"]`, a dict.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        said: dict[str, Any] = {}
        scope["flexquant.id"] = request_id
        scope["flexquant.log"] = said
        status: int | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        began = self._clock()
        try:
            await self._app(scope, receive, watched)
        finally:
            quiet = scope["path"] in _QUIET and status is not None and status < 400
            log.log(
                logging.DEBUG if quiet else logging.INFO,
                "request %s",
                fields(
                    id=request_id,
                    method=scope["method"],
                    path=repr(scope["path"][:200]),
                    status=status or "gone",
                    seconds=self._clock() - began,
                    **said,
                ),
            )


def usage_fields(usage: Usage) -> dict[str, int]:
    """What the line says about an answer."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "position_start": usage.position_start,
        "position_end": usage.position_end,
        "position_worst": usage.position_worst,
    }
