"""Every error leaves the daemon in the envelope: what FastAPI and its router raise, too."""

from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flexquant.engine.errors import FlexQuantError
from flexquant.server.api_error import ApiError, as_api_error, client_gone, validation_error

_SHOWN: Final = 200
"""Characters of a path that an error repeats."""


def error_response(error: ApiError) -> JSONResponse:
    """The envelope as a response."""
    return JSONResponse(error.body(), error.status, headers=error.headers)


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of `app` in the envelope, those of the router (404, 405) included."""

    async def on_validation(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(validation_error(error.errors()))

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, ApiError):  # raised while FastAPI read the body
            return error_response(error.__cause__)
        if isinstance(error.__cause__, ClientDisconnect):
            return error_response(client_gone())
        message = f"{request.method} {request.scope['path'][:_SHOWN]}: {error.detail}."
        if error.status_code == HTTPStatus.BAD_REQUEST:
            message = (
                "The body is not valid JSON: it is not UTF-8, is nested too deeply or has a number that is too long."
            )
        return error_response(ApiError(error.status_code, message, headers=error.headers))

    async def on_known(_: Request, error: Exception) -> JSONResponse:
        return error_response(as_api_error(error))

    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ApiError, on_known)
    app.add_exception_handler(FlexQuantError, on_known)


class LastResort:
    """ASGI middleware: what no handler knows becomes a logged traceback and a 500 in the envelope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            response = error_response(as_api_error(error))
            if started or scope["type"] != "http":
                raise
            await response(scope, receive, send)
