"""Who may talk to the daemon, and how much: ASGI middleware in front of everything else.

- Host header: a web page can make a name of its own resolve to 127.0.0.1 (DNS rebinding), and the browser then takes
  the daemon for the page's own server. Such a request still carries the foreign name in Host.
- Origin header: a foreign page may *send* a form to us even though it cannot read the answer.
- API key: compared in constant time.
- Body size: counted while it arrives, so that a wrong Content-Length does not help.
"""

import hashlib
import hmac
import ipaddress
import logging
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flexquant.engine.errors import UsageError
from flexquant.server.api_error import ApiError
from flexquant.server.error_envelope import error_response
from flexquant.server.settings import Settings

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", "/ready"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(host: str) -> bool:
    """Whether `host` is a name or address that only this machine reaches."""
    return host == "localhost" or _is_loopback_address(host)


def _is_loopback_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(settings: Settings) -> None:
    """Refuse to listen beyond loopback without a key, or warn where the settings insist.

    Raises:
        UsageError: The address is not loopback, no key is set, and the settings do not insist.
    """
    if is_loopback(settings.host) or settings.api_key:
        return
    if settings.allow_unauthenticated:
        log.warning("anyone who reaches %s may use this daemon: no API key is set", settings.host)
        return
    raise UsageError(
        f"--host {settings.host} lets other machines use this daemon, and no API key is set",
        hint="Set FLEXQUANT_API_KEY, or pass --allow-unauthenticated if the network is trusted.",
    )


class Security:
    """Refuses requests by Host, Origin, API key and body size before anything reads them.

    Args:
        app: What the others are passed on to.
        hosts: Names that the Host header may have beyond localhost and addresses; "*" allows any.
        api_key: The key that all but OPEN_PATHS ask for; None asks for none.
        max_body: Most bytes of a request body.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], api_key: str | None, max_body: int) -> None:
        self._app = app
        self._hosts = {host.lower().rstrip(".") for host in hosts}
        self._key = _digest(api_key) if api_key else None
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope["method"], scope["path"], Headers(scope=scope))
        except ApiError as refusal:
            await error_response(refusal)(scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _check(self, method: str, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise ApiError(
                403,
                f"The Host header {host!r} does not name this machine; --allow-host adds names.",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and method not in _READING and urlsplit(origin).netloc.lower() != host.lower():
            raise ApiError(403, f"Web pages of {origin!r} may not use this daemon.", code="origin_not_allowed")
        if self._key is not None and path not in OPEN_PATHS and not self._has_key(headers):
            raise ApiError(
                401,
                "A valid API key is needed: send `Authorization: Bearer KEY`.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_body:
            raise self._too_large()

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

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        assert self._key is not None
        return hmac.compare_digest(_digest(given), self._key)

    def _counted(self, receive: Receive) -> Receive:
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > self._max_body:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The body is larger than {self._max_body} bytes, the limit of --max-body.",
            code="request_too_large",
            headers={"connection": "close"},
        )


def _digest(key: str) -> bytes:
    """Of one length for every key, so that the comparison tells nothing about it."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def host_names(settings: Settings) -> set[str]:
    """Names that the Host header may have."""
    return {settings.host, socket.gethostname(), *settings.allow_host}
