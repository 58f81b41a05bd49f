"""What a request that fails is answered with: OpenAI's envelope, `{"error": {"message", "type", "param", "code"}}`."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from flexquant.engine.errors import ClosedError, ContextLengthError, FlexQuantError, KVExhaustedError

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 1
CLIENT_GONE = 499
CODES: Final = {400: "invalid_value", 404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
"""Of errors that say nothing more special."""
CLOSE: Final = {"connection": "close"}
"""Header of answers after which there is no telling where the next request would begin."""


class ApiError(Exception):
    """An error that a request is answered with.

    Args:
        status: HTTP status.
        message: What is wrong, naming the field or limit, and what to do.
        param: The request's field, if one is to blame.
        code: A short word for programs.
        headers: Further response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code or CODES.get(status)
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The envelope."""
        return {"error": {"message": self.message, "type": _type(self.status), "param": self.param, "code": self.code}}


def _type(status: int) -> str:
    """OpenAI's word for the kind of error."""
    known = {401: "authentication_error", 403: "permission_error", 503: "unavailable_error"}
    return known.get(status, "invalid_request_error" if status < 500 else "server_error")


def unavailable(message: str, *, code: str, retry_after_s: int = RETRY_AFTER_SECONDS) -> ApiError:
    """503 with Retry-After."""
    return ApiError(503, message, code=code, headers={"retry-after": str(retry_after_s)})


def timed_out(limit_s: float) -> ApiError:
    """504: waiting and computing together took too long."""
    return ApiError(504, f"The answer took longer than {limit_s:g} s, the limit of --request-timeout.", code="timeout")


def too_slow(part: str, limit_s: float) -> ApiError:
    """408: `part` of the request did not arrive in time."""
    message = f"The request's {part} did not arrive within {limit_s:g} s, the limit of --client-timeout."
    return ApiError(408, message, code="request_timeout", headers=CLOSE)


def head_too_large(limit: str) -> ApiError:
    """431: more header lines or bytes than `limit` says."""
    return ApiError(
        431, f"The request's head is larger than {limit}, which is the limit.", code="head_too_large", headers=CLOSE
    )


def client_gone() -> ApiError:
    """499, for the log alone: nobody reads this answer."""
    return ApiError(CLIENT_GONE, "The client has closed the connection.")


def as_api_error(error: BaseException) -> ApiError:
    """What to tell a client about `error`; unknown ones are logged with their traceback and told as a plain 500."""
    match error:
        case ApiError():
            return error
        case ContextLengthError():
            return ApiError(400, error.message, code="context_length_exceeded")
        case KVExhaustedError():
            return unavailable(error.message, code="kv_cache_exhausted")
        case ClosedError():
            return unavailable("The daemon is stopping.", code="stopping")
        case FlexQuantError():
            log.error("%s", error.message)
            return ApiError(500, " ".join(filter(None, [error.message, error.hint])), code="engine_error")
        case _:
            log.error("internal error", exc_info=error)
            return ApiError(500, "The daemon made a mistake; its log has the details.", code="internal_error")


def validation_error(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of pydantic's `errors` as a 400 that names the field. What was sent is not repeated."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON: {first['ctx']['error']}.", code="invalid_json")
    location = [part for part in first["loc"] if part != "body"]
    if not location:
        if first["type"] == "missing":
            return ApiError(400, "The request has no body; send a JSON object.", code="invalid_json")
        return ApiError(
            400, "The body must be a JSON object, sent with `Content-Type: application/json`.", code="invalid_json"
        )
    param = ".".join(str(part) for part in location)
    return ApiError(400, f"{param}: {first['msg']}.", param=param)
