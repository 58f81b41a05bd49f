"""The HTTP application."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from flexquant.server.daemon_state import DaemonState
from flexquant.server.error_envelope import LastResort, install_error_handlers
from flexquant.server.request_log import RequestLog
from flexquant.server.routes import chat, completions, elastic, events, health, metrics, models, tokens, trace
from flexquant.server.security import Security, host_names
from flexquant.server.settings import Settings

_PARTS = (completions, chat, models, health, metrics, elastic, events, tokens, trace)


def create_app(daemon: DaemonState, settings: Settings) -> FastAPI:
    """The application over a daemon's parts.

    Args:
        daemon: What the routes work with.
        settings: For the security rules.
    """

    app = FastAPI(title="FlexQuant", version=version("flexquant"), docs_url=None, redoc_url=None)
    app.state.daemon = daemon
    for part in _PARTS:
        app.include_router(part.router)
    install_error_handlers(app)
    # The last one added is the first to see a request.
    app.add_middleware(LastResort)
    app.add_middleware(
        Security,
        hosts=host_names(settings),
        api_key=settings.api_key.get_secret_value() if settings.api_key else None,
        max_body=settings.max_body,
    )
    app.add_middleware(
        RequestLog, requests=daemon.counts.requests, routes=[route for part in _PARTS for route in part.router.routes]
    )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The document, with our error envelope in place of FastAPI's 422."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = _ERROR_SCHEMA
    error = {
        "description": "Error",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["4XX"] = error
            operation["responses"]["5XX"] = error
    app.openapi_schema = document
    return document


_TEXT_OR_NULL = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _TEXT_OR_NULL,
                "code": _TEXT_OR_NULL,
            },
        }
    },
}
