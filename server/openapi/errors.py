"""Which errors an operation can answer with."""

from collections.abc import Mapping
from typing import Any, Final

from flexquant.server.security import OPEN_PATHS

EVERYWHERE: Final[Mapping[int, str]] = {
    403: "The Host or Origin header is foreign, or the admin key is needed.",
    405: "The path has other methods: see the Allow header.",
    431: "The head is too large.",
    500: "The daemon made a mistake; its log has the details.",
    503: "Not now: stopping, no memory, a full queue, too many connections. Retry-After says when to try again.",
}
WITH_KEYS: Final[Mapping[int, str]] = {401: "A valid key is needed."}
WITH_BODY: Final[Mapping[int, str]] = {
    400: "The body is not valid: `param` names the field.",
    404: "The model is not served here.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
}
WITH_NAME: Final[Mapping[int, str]] = {404: "The model is not served here."}
GENERATION: Final[Mapping[int, str]] = {504: "The answer took longer than --request-timeout."}


def errors_of(path: str, operation: Mapping[str, Any]) -> dict[int, str]:
    """Statuses that the operation can answer with when something is wrong, and what they mean."""
    found = dict(EVERYWHERE)
    if path not in OPEN_PATHS:
        found |= WITH_KEYS
    if "{" in path:
        found |= WITH_NAME
    if "requestBody" in operation:
        found |= WITH_BODY
    if path.endswith("/completions"):
        found |= GENERATION
    return dict(sorted(found.items()))
