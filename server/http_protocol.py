"""One connection: uvicorn's protocol over h11, with time limits, a limit of connections, and errors in the envelope.

uvicorn alone waits for ever for the rest of a head or body, and for a client that does not read; it answers what is not
HTTP in plain text. Here

- a head and a body have `client_timeout` seconds each from their first byte on, and so has the first head of a
  connection from the connection on: drops that trickle in do not help (slow loris);
- an answer that the client does not take for so long is given up with its connection;
- beyond `max_connections` a connection is told 503 at once and closed.
"""

import asyncio
import json
import sys
from typing import Any, Final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from flexquant.server.api_error import ApiError, head_too_large, too_slow, unavailable

_GRACE_S: Final = 2.0
"""A body that is late is answered by the application, which has the same limit; then the connection goes."""
_ARRIVING: Final = (h11.IDLE, h11.SEND_BODY)
"""What h11 calls the client's side while a head, or a body, is not complete."""


class GuardedProtocol(H11Protocol):
    """Serves one connection. uvicorn makes one for each.

    Args:
        max_connections: Most that are open at a time.
        client_timeout: Seconds; see above.
        config: This and the rest is what uvicorn gives its protocols.
    """

    def __init__(
        self,
        *,
        max_connections: int,
        client_timeout: float,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._max_connections = max_connections
        self._client_timeout = client_timeout
        self._awaited: object = None
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            self._refuse(
                unavailable(
                    f"{self._max_connections} connections are open already (--max-connections).",
                    code="too_many_connections",
                )
            )
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Called while h11's error is being handled; it knows which status fits."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if status == 431:
            self._refuse(head_too_large(f"{self.config.h11_max_incomplete_event_size} bytes"))
        else:
            self._refuse(ApiError(status, f"This is not a valid HTTP request: {error or msg}.", code="invalid_http"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(self._client_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _should_upgrade(self) -> bool:
        """There are no websockets here; the request is answered as if it had not asked for one."""
        return False

    def _watch(self) -> None:
        """Give what the client has to send now its time. A connection that is kept alive has uvicorn's own limit."""
        state = self.conn.their_state
        idle = state is h11.IDLE and self.timeout_keep_alive_task is not None
        awaited = state if state in _ARRIVING and not idle and not self.transport.is_closing() else None
        if awaited is self._awaited:
            return
        self._stop_watching()
        self._awaited = awaited
        if awaited is not None:
            seconds = self._client_timeout + (_GRACE_S if awaited is h11.SEND_BODY else 0.0)
            self._deadline = self.loop.call_later(seconds, self._give_up)

    def _stop_watching(self) -> None:
        self._awaited = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        nothing_came = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        if nothing_came:  # such as a browser's connection in advance: nobody waits for an answer
            self.transport.close()
        else:
            self._refuse(too_slow("head" if self.conn.their_state is h11.IDLE else "body", self._client_timeout))

    def _refuse(self, error: ApiError) -> None:
        """Answer with `error`, unless an answer has begun, and close: what the application still says goes nowhere."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            self.transport.write(_response(error))
        self.transport.close()


def _response(error: ApiError) -> bytes:
    """The envelope as a whole HTTP response, without h11: its books may be in the state of an error."""
    body = json.dumps(error.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    headers["connection"] = "close"
    lines = [f"HTTP/1.1 {error.status} ", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
