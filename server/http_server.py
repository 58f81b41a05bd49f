"""uvicorn, set up for this daemon: one ready line, and a shutdown that ends streams properly."""

import asyncio
import logging
import socket

import uvicorn

from flexquant.server.app import create_app
from flexquant.server.settings import Settings
from flexquant.server.startup import Daemon

log = logging.getLogger(__name__)

_GRACE_SECONDS = 5
"""For the last bytes, after the last answers were ended."""


class HttpServer(uvicorn.Server):
    """Serves the application of `daemon`.

    After SIGTERM it takes no more connections, lets running requests finish for `shutdown_timeout`, then ends what is
    left with an error that says so.
    """

    def __init__(self, daemon: Daemon, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(daemon.state, settings),
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=round(settings.shutdown_timeout) + _GRACE_SECONDS,
            )
        )
        self._daemon = daemon
        self._timeout = settings.shutdown_timeout

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            log.info("ready: %s on http://%s:%d", self._daemon.state.model.id, shown, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("stopping: no new requests, up to %g s for those that run", self._timeout)
        self._daemon.state.controller.events.close()  # these streams would never end by themselves
        loop = asyncio.get_running_loop()
        # Closing also ends moves: who has ordered one waits for it, and there are no more safe points.
        last_call = loop.call_later(self._timeout, loop.run_in_executor, None, self._daemon.close)
        await super().shutdown(sockets)
        last_call.cancel()
