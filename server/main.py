"""`flexquant-serve`: from settings to a daemon that answers, and to an exit code."""

import errno
import logging
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from flexquant.engine.errors import FlexQuantError, PortInUseError, UsageError
from flexquant.engine.memory.heap import share_heap
from flexquant.engine.thread_waiting import sleep_while_waiting
from flexquant.server.logging_setup import set_up_logging
from flexquant.server.settings import Settings, load_settings

if TYPE_CHECKING:
    from flexquant.server.keys import Keys
    from flexquant.server.startup import Daemon

log = logging.getLogger(__name__)

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon until it is told to stop; returns the process's exit code (see engine/errors.py)."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        serve(load_settings(given), given)
    except FlexQuantError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201  # for the person at the terminal
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201  # as above
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def serve(settings: Settings, arguments: Sequence[str] = ()) -> None:
    """Load the model and answer requests until SIGTERM or SIGINT.

    Args:
        settings: Of the daemon.
        arguments: The command line that they come from, to warn of keys on it.

    Raises:
        FlexQuantError: The daemon cannot start; nothing is left behind.
    """
    if sys.platform == "win32":
        raise UsageError("FlexQuant does not run on Windows itself", hint="Run it in WSL2.")
    sleep_while_waiting()
    share_heap()
    # Imported late, so that --help and wrong flags are answered before anything heavy is loaded.
    from flexquant.server.keys import load_keys, warn_of_command_line
    from flexquant.server.model_source import resolve
    from flexquant.server.security import check_exposure

    set_up_logging(settings.log_level, settings.log_format)
    signal.signal(signal.SIGTERM, _leave)
    warn_of_command_line(arguments)
    keys = load_keys(settings)
    check_exposure(settings, keys)
    with listen_on(settings.host, settings.port) as listener:
        folder = resolve(settings.model, device=settings.device)

        from flexquant.server.startup import start

        # Reading the weights leaves the interpreter idle: it can load the HTTP server meanwhile.
        threading.Thread(target=_import_http_server, name="import", daemon=True).start()
        daemon = start(settings, folder)
        try:
            _answer_requests(daemon, settings, keys, listener)
        finally:
            daemon.close()


def _import_http_server() -> None:
    import flexquant.server.http_server  # noqa: F401  # to be there when it is needed


def listen_on(host: str, port: int) -> socket.socket:
    """A socket bound to the address: taken before the model is loaded, so that a busy port is noticed at once.

    Raises:
        PortInUseError: Another program listens there.
        UsageError: The address is not one of this machine's, or may not be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise _port_in_use(host, port) from error
        raise UsageError(f"--host {host} --port {port}: {error.strerror}") from error
    return listener


def _port_in_use(host: str, port: int) -> PortInUseError:
    return PortInUseError(f"{host}:{port} is in use by another program", hint="Choose another with --port.")


def _answer_requests(daemon: "Daemon", settings: Settings, keys: "Keys", listener: socket.socket) -> None:
    from flexquant.server.http_server import HttpServer

    server = HttpServer(daemon, settings, keys)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        log.info("stopped")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise _port_in_use(settings.host, settings.port) from error  # taken while the model was loading


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM: while loading, leave at once; later the HTTP server has drained before it passes the signal on."""
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
