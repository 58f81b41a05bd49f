"""How much of a body is taken, and for how long: counted and timed while it arrives, whatever Content-Length says."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flexquant.server.api_error import CLOSE, ApiError, too_slow
from flexquant.server.error_envelope import error_response


class BodyLimits:
    """ASGI middleware: 413 for a body that is too large, 408 for one that takes too long.

    Who reads the body gets the ApiError. After the answer has begun nobody could be told: the client counts as gone.

    Args:
        app: What requests are passed on to.
        max_body: Most bytes of a body.
        client_timeout: Seconds that a body may take to arrive.
    """

    def __init__(self, app: ASGIApp, *, max_body: int, client_timeout: float) -> None:
        self._app = app
        self._max_body = max_body
        self._client_timeout = client_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_body:
            await error_response(self._too_large())(scope, receive, send)
            return
        arrived, complete, answering = 0, False, False
        deadline = asyncio.get_running_loop().time() + self._client_timeout

        async def limited() -> Message:
            nonlocal arrived, complete
            if complete:  # what comes now is the client's leaving
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                return refused(too_slow("body", self._client_timeout))
            arrived += len(message.get("body", b""))
            if arrived > self._max_body:
                return refused(self._too_large())
            complete = not message.get("more_body", False)
            return message

        def refused(error: ApiError) -> Message:
            if answering:
                return {"type": "http.disconnect"}
            raise error

        async def watched(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        await self._app(scope, limited, watched)

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The body is larger than {self._max_body} bytes, the limit of --max-body.",
            code="request_too_large",
            headers=CLOSE,
        )
