"""Which error becomes which answer."""

import logging

import pytest

from flexquant.engine.errors import ClosedError, ContextLengthError, KVExhaustedError, SwapError
from flexquant.server.api_error import ApiError, as_api_error, unavailable, validation_error
from flexquant.server.error_envelope import error_response


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (ContextLengthError("long", tokens=9, limit=8), 400, "invalid_request_error", "context_length_exceeded"),
        (KVExhaustedError("full"), 503, "unavailable_error", "kv_cache_exhausted"),
        (SwapError("stuck", hint="look"), 500, "server_error", "engine_error"),
        (ClosedError("closed"), 503, "unavailable_error", "stopping"),
        (KeyError("private"), 500, "server_error", "internal_error"),
        (ApiError(404, "gone"), 404, "invalid_request_error", "not_found"),
        (ApiError(401, "who"), 401, "authentication_error", None),
    ],
)
def test_error_has_its_status_type_and_code(error: Exception, status: int, kind: str, code: str | None) -> None:
    found = as_api_error(error)
    body = found.body()["error"]
    assert (found.status, body["type"], body["code"]) == (status, kind, code)
    assert "private" not in body["message"]


def test_hint_reaches_the_client() -> None:
    assert as_api_error(SwapError("stuck.", hint="Look.")).message == "stuck. Look."


def test_unknown_error_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        as_api_error(KeyError("inner"))
    assert "KeyError: 'inner'" in caplog.text


def test_unavailable_says_when_to_come_back() -> None:
    assert error_response(unavailable("full", code="queue_full")).headers["retry-after"] == "1"


def test_validation_error_names_the_place() -> None:
    error = validation_error([{"type": "missing", "loc": ("body", "messages", 0, "role"), "msg": "Field required"}])
    assert (error.status, error.param, error.message) == (400, "messages.0.role", "messages.0.role: Field required.")
