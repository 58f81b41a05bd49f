"""The HTTP application."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from flexquant.server.body_limits import BodyLimits
from flexquant.server.daemon_state import DaemonState
from flexquant.server.error_envelope import LastResort, install_error_handlers
from flexquant.server.keys import Keys
from flexquant.server.request_log import RequestLog
from flexquant.server.routes import (
    chat,
    completions,
    dashboard,
    elastic,
    events,
    health,
    metrics,
    models,
    tokens,
    trace,
)
from flexquant.server.security import Security, host_names
from flexquant.server.settings import Settings

_PARTS = (completions, chat, models, health, metrics, elastic, events, tokens, trace, dashboard)


def create_app(daemon: DaemonState, settings: Settings, keys: Keys) -> FastAPI:
    """The application over a daemon's parts.

    Args:
        daemon: What the routes work with.
        settings: For the security rules.
        keys: Whoever holds one of these is let in.
    """

    app = FastAPI(
        title="FlexQuant", version=version("flexquant"), docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.daemon = daemon
    for part in _PARTS:
        app.include_router(part.router)
    install_error_handlers(app)
    # The last one added is the first to see a request.
    app.add_middleware(LastResort)
    app.add_middleware(BodyLimits, max_body=settings.max_body, client_timeout=settings.client_timeout)
    app.add_middleware(Security, hosts=host_names(settings), keys=keys)
    app.add_middleware(
        RequestLog, requests=daemon.counts.requests, routes=[route for part in _PARTS for route in part.router.routes]
    )
    app.openapi = lambda: _openapi(app, keyed=bool(keys.plain))  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def _openapi(app: FastAPI, *, keyed: bool) -> dict[str, Any]:
    """The document, made when somebody asks for it first: few do."""
    from flexquant.server.openapi.document import openapi_document

    if app.openapi_schema is None:
        app.openapi_schema = openapi_document(app, keyed=keyed)
    return app.openapi_schema
