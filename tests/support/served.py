"""The fake daemon behind the real HTTP server, on a thread of this process: for what happens on sockets."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from flexquant.server.http_server import server_config
from flexquant.server.settings import load_settings
from support.fake_daemon import FakeDaemon, fake_daemon

WAIT = 30.0
"""Seconds after which something is broken."""


@dataclass(frozen=True, slots=True)
class Served:
    """Where it listens."""

    daemon: FakeDaemon
    port: int

    def connect(self) -> socket.socket:
        """A new connection, with a small buffer."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(WAIT)
        connection.connect(("127.0.0.1", self.port))
        return connection


@contextmanager
def served(*arguments: str) -> Iterator[Served]:
    """Serve until the block ends; `arguments` are settings of `flexquant-serve`."""
    with fake_daemon(*arguments) as daemon, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # soon full where nobody reads
        server = uvicorn.Server(server_config(daemon.app, load_settings(["--model", "demo", *arguments])))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Served(daemon, listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(WAIT)
            assert not thread.is_alive()


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the other side closes, orderly or not."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received
