"""One log line per request: what was asked, what it took, at which positions. Never what was said."""

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from http.client import BAD_REQUEST, INTERNAL_SERVER_ERROR
from typing import Any, Final

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flexquant.server.exposition import Counter
from flexquant.server.generation_request import Usage
from flexquant.server.logging_setup import Fields
from flexquant.server.security import DASHBOARD

log = logging.getLogger(__name__)

PROBES: Final = frozenset({"/health", "/ready", "/metrics"})
"""Paths that no work comes from: not counted, and logged only where they were refused."""
_QUIET: Final = frozenset({"/v1/elastic"})
"""Paths that programs poll: logged at debug level while they succeed, as the files of the dashboard are."""
GONE: Final = "gone"
"""The status of a request whose client went away before there was one."""
OTHER: Final = "other"
"""What the endpoint of a path is called that the daemon does not have: the metrics' labels are of a fixed set."""


class RequestLog:
    """ASGI middleware: gives every request an id (`x-request-id` of the answer) and logs it when it has ended.

    It also counts them, when their answers begin: who has the answer finds it counted.

    Routes find the id in `scope["flexquant.id"]` and add fields to the line through `scope["flexquant.log"]`, a dict.

    Args:
        app: What the requests are passed on to.
        requests: Counts them by endpoint and status.
        routes: Whose patterns are the endpoints.
        clock: Steady seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        requests: Counter,
        routes: Sequence[BaseRoute],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._requests = requests
        self._routes = routes
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
                self._count(scope, str(status))
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        began = self._clock()
        try:
            await self._app(scope, receive, watched)
        finally:
            if status is None:
                self._count(scope, GONE)
            level = _level(scope["path"], status)
            if level is not None:
                log.log(
                    level,
                    "request %s",
                    Fields(
                        id=request_id,
                        method=scope["method"],
                        path=scope["path"][:200],
                        status=status or GONE,
                        seconds=self._clock() - began,
                        **said,
                    ),
                )

    def _count(self, scope: Scope, status: str) -> None:
        if scope["path"] not in PROBES:
            self._requests.add(1, self._endpoint(scope), status)

    def _endpoint(self, scope: Scope) -> str:
        """By the path alone: a request that was refused has not come to its route."""
        found = (route for route in self._routes if route.matches(scope)[0] is not Match.NONE)
        return str(getattr(next(found, None), "path", OTHER))


def _level(path: str, status: int | None) -> int | None:
    """Of the line about a request; None for no line."""
    if path in PROBES and not (status is not None and BAD_REQUEST <= status < INTERNAL_SERVER_ERROR):
        return None
    quiet = (path in _QUIET or path.startswith(DASHBOARD)) and status is not None and status < BAD_REQUEST
    return logging.DEBUG if quiet else logging.INFO


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
