"""uvicorn, set up for this daemon: one ready line, and a shutdown that ends streams properly."""

import asyncio
import logging
import socket
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from flexquant.server.app import create_app
from flexquant.server.http_protocol import GuardedProtocol
from flexquant.server.keys import Keys
from flexquant.server.security import MAX_HEAD_BYTES
from flexquant.server.settings import Settings
from flexquant.server.startup import Daemon

log = logging.getLogger(__name__)

_GRACE_SECONDS: Final = 4.0
"""For the last answers to end, and as long again for their last bytes; then connections are cut."""
_HURRIED_SECONDS: Final = 0.5
"""For the last bytes at least, also after a second signal."""


def server_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves `app`."""
    protocol = partial(
        GuardedProtocol, max_connections=settings.max_connections, client_timeout=settings.client_timeout
    )
    return uvicorn.Config(
        app,
        http=protocol,  # type: ignore[arg-type]  # it is only ever called
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        # Never reached: connections are cut before.
        timeout_graceful_shutdown=round(settings.shutdown_timeout + 3 * _GRACE_SECONDS),
    )


class HttpServer(uvicorn.Server):
    """Serves the application of `daemon`.

    After SIGTERM or SIGINT it takes no more connections and ends what waits for its turn, lets running requests finish
    for `shutdown_timeout`, then ends what is left with an error that says so. A second signal ends the waiting.
    """

    def __init__(self, daemon: Daemon, settings: Settings, keys: Keys) -> None:
        super().__init__(server_config(create_app(daemon.state, settings, keys), settings))
        self._daemon = daemon
        self._timeout = settings.shutdown_timeout
        self._hurry = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            log.info("ready: %s on http://%s:%d", self._daemon.state.model.id, shown, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come: the first one begins to stop, a second one ends the waiting for running requests."""
        if self.should_exit:
            self._hurry.set()
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("stopping: no new requests, up to %g s for those that run", self._timeout)
        self._daemon.state.controller.events.close()  # these streams would never end by themselves
        self._daemon.state.engine.drain("The daemon is stopping.")
        ending = asyncio.create_task(self._end_what_is_left())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_what_is_left(self) -> None:
        await self._wait_for_hurry(self._timeout)
        if self._hurry.is_set():
            log.info("stopping now: there was another signal")
        # Closing also ends moves: who has ordered one waits for it, and there are no more safe points.
        closing = asyncio.get_running_loop().run_in_executor(None, self._daemon.close)
        await asyncio.wait([closing], timeout=_GRACE_SECONDS)
        await self._wait_for_hurry(_GRACE_SECONDS)
        await asyncio.sleep(_HURRIED_SECONDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def _wait_for_hurry(self, seconds: float) -> None:
        """Wait for a second signal, for so long at most."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), seconds)
