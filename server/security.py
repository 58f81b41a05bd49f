"""Who may talk to the daemon: ASGI middleware in front of everything else.

- Host header: a web page can make a name of its own resolve to 127.0.0.1 (DNS rebinding), and the browser then takes
  the daemon for the page's own server. Such a request still carries the foreign name in Host.
- Origin header: a foreign page may *send* a form to us even though it cannot read the answer.
- API key: see keys.py. What changes the daemon may ask for a key of its own.
- Head: its lines and bytes are limited. `http_protocol.py` limits what arrives piece by piece; this is for the rest.
"""

import ipaddress
import logging
import socket
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from flexquant.engine.errors import UsageError
from flexquant.server.api_error import ApiError, head_too_large
from flexquant.server.error_envelope import error_response
from flexquant.server.keys import Keys
from flexquant.server.settings import Settings

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", "/ready"})
DASHBOARD: Final = "/dashboard/"
"""What lies below, and "/", is the same for everyone who installs this version: the page, without any data."""
MAX_HEADERS: Final = 100
MAX_HEAD_BYTES: Final = 32 * 1024
"""Of the request line's target and all header lines together; browsers and clients send a few hundred bytes."""
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_ADMIN_PREFIX: Final = "/v1/elastic"


def is_open(path: str) -> bool:
    """Whether a path asks for no key."""
    return path in OPEN_PATHS or path == "/" or path.startswith(DASHBOARD)


def is_loopback(host: str) -> bool:
    """Whether `host` is a name or address that only this machine reaches."""
    return host == "localhost" or _is_loopback_address(host)


def _is_loopback_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(settings: Settings, keys: Keys) -> None:
    """Refuse to listen beyond loopback without a key, or warn where the settings insist.

    Raises:
        UsageError: The address is not loopback, no key is set, and the settings do not insist.
    """
    if is_loopback(settings.host) or keys.plain:
        return
    if settings.allow_unauthenticated:
        log.warning("anyone who reaches %s may use this daemon: no API key is set", settings.host)
        return
    raise UsageError(
        f"--host {settings.host} lets other machines use this daemon, and no API key is set",
        hint="Set FLEXQUANT_API_KEY or --api-key-file, or pass --allow-unauthenticated if the network is trusted.",
    )


class Security:
    """Refuses requests by head, Host, Origin and key before anything reads them.

    Args:
        app: What the others are passed on to.
        hosts: Names that the Host header may have beyond localhost and addresses; "*" allows any.
        keys: All but OPEN_PATHS and the files of the dashboard ask for one of them, as far as there are any.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], keys: Keys) -> None:
        self._app = app
        self._hosts = {host.lower().rstrip(".") for host in hosts}
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            _check_head(scope)
            self._check(scope["method"], scope["path"], Headers(scope=scope))
        except ApiError as refusal:
            await error_response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, method: str, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise ApiError(
                403,
                f"The Host header {host!r} does not name this machine; --allow-host adds names.",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and method not in _READING and not _same_origin(origin, host):
            raise ApiError(403, f"Web pages of {origin!r} may not use this daemon.", code="origin_not_allowed")
        if not is_open(path):
            self._check_key(method, path, headers)

    def _check_key(self, method: str, path: str, headers: Headers) -> None:
        changes = path.startswith(_ADMIN_PREFIX) and method not in _READING
        admin_only = changes and bool(self._keys.admin)
        if not (self._keys.plain or admin_only):
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if self._keys.is_admin(given) or (self._keys.opens(given) and not admin_only):
            return
        if self._keys.opens(given):
            raise ApiError(
                403, "Changing the daemon needs the admin key, sent in place of the API key.", code="admin_key_needed"
            )
        kind = "admin" if admin_only else "API"
        raise ApiError(
            401,
            f"A valid {kind} key is needed: send `Authorization: Bearer KEY`.",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )

    def _is_ours(self, host_header: str) -> bool:
        """Addresses are fine: rebinding needs a name."""
        try:
            host = (urlsplit(f"//{host_header}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if not host:
            return False
        if "*" in self._hosts or host in self._hosts or host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True


def _check_head(scope: Scope) -> None:
    """Raise ApiError (431) for too many or too long header lines."""
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS:
        raise head_too_large(f"{MAX_HEADERS} lines")
    target = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    if target + sum(len(name) + len(value) for name, value in headers) > MAX_HEAD_BYTES:
        raise head_too_large(f"{MAX_HEAD_BYTES} bytes")


def _same_origin(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def host_names(settings: Settings) -> set[str]:
    """Names that the Host header may have."""
    return {settings.host, socket.gethostname(), *settings.allow_host}
