"""From httpx's failures and raw answers to the client's errors and types."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from flexquant.clients import errors

T = TypeVar("T")
Raw = TypeVar("Raw")
Json = Mapping[str, Any]


@contextmanager
def speaking(url: str) -> Iterator[None]:
    """Turn every failure of the connection to `url` into an error of `flexquant.clients.errors`."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise errors.NoAnswerError(f"{url}: no answer in time", hint="The daemon may be busy; ask again.") from error
    except httpx.ConnectError as error:
        raise errors.UnreachableError(
            f"{url}: no daemon answers ({error})", hint="Start one: flexquant-serve --model demo"
        ) from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise errors.UnreachableError(
            f"{url}: no valid URL ({error})", hint="Write it like http://127.0.0.1:8000."
        ) from error
    except httpx.HTTPError as error:
        raise errors.UnexpectedAnswerError(f"{url}: the connection broke: {error}") from error


def parse(text: str, url: str) -> Json:
    """The JSON object in `text`.

    Raises:
        UnexpectedAnswerError: It is none.
    """
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise errors.UnexpectedAnswerError(f"{url}: what answers there is no FlexQuant daemon")
    return data


def shaped(make: Callable[[Raw], T], data: Raw, url: str) -> T:
    """`make(data)`.

    Raises:
        UnexpectedAnswerError: A field is missing or of the wrong shape.
    """
    try:
        return make(data)
    except (LookupError, TypeError, ValueError) as error:
        raise errors.UnexpectedAnswerError(
            f"{url}: the answer does not fit: {type(error).__name__}: {error}",
            hint="Client and daemon may be of different versions.",
        ) from error


def refusal(response: httpx.Response) -> errors.ClientError:
    """The error that an answer with an error status tells."""
    kind = errors.BY_STATUS.get(response.status_code, errors.ApiError)
    wait = response.headers.get("retry-after", "")
    try:
        data = parse(response.text, str(response.request.url))
    except errors.UnexpectedAnswerError as error:
        return error
    return api_error(data, kind, status=response.status_code, retry_after=float(wait) if wait.isdigit() else None)


def api_error(
    data: Json,
    kind: type[errors.ApiError] = errors.ApiError,
    status: int | None = None,
    retry_after: float | None = None,
) -> errors.ClientError:
    """The error in OpenAI's envelope."""
    told = data.get("error")
    if not isinstance(told, dict) or not isinstance(told.get("message"), str):
        return errors.UnexpectedAnswerError(f"an error without a message came back (status {status})")
    return kind(told["message"], status=status, code=told.get("code"), param=told.get("param"), retry_after=retry_after)
