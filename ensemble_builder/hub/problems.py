"""What the hub's library raises, told to a person."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from json import JSONDecodeError

from httpx2 import HTTPError
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from flexquant.engine.errors import FlexQuantError, InputError
from flexquant.engine.hub_id import HubId


@contextmanager
def told(source: HubId) -> Iterator[None]:
    """Turn errors of the hub's library into ours.

    Raises:
        InputError: The hub does not give this model.
        FlexQuantError: The hub cannot be reached, or fails.
    """
    try:
        yield
    except FlexQuantError:
        raise
    except Exception as error:  # the library wraps errors in others of many kinds
        problem = _problem(source, _innermost(error))
        if problem is None:
            raise
        raise problem from error


def _innermost(error: BaseException) -> BaseException:
    """What the library wrapped: the hub's answer, or why there was none."""
    while error.__cause__ is not None and not isinstance(error, HfHubHTTPError | HTTPError):
        error = error.__cause__
    return error


def _problem(source: HubId, error: BaseException) -> FlexQuantError | None:
    hub = constants.ENDPOINT
    match error:
        case GatedRepoError():
            return InputError(
                f"{source}: this model is gated: {hub} gives it to those who accepted its terms",
                hint=f"Accept them at {hub}/{source.repository}, then log in with 'hf auth login' or set HF_TOKEN.",
            )
        case RepositoryNotFoundError():
            return InputError(
                f"{source}: there is no such folder here, and {hub} has no such model or does not show it to you",
                hint="Check the name. For a private model log in with 'hf auth login' or set HF_TOKEN.",
            )
        case RevisionNotFoundError():
            return InputError(
                f"{source}: {source.repository} has no revision {source.revision}",
                hint=f"Its branches and tags are listed at {hub}/{source.repository}/tree/main",
            )
        case HFValidationError():
            return InputError(f"{source}: there is no such folder, and the hub has no such names: {error}")
        case HfHubHTTPError() if error.response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return InputError(
                f"{source}: {hub} refuses access ({error.response.status_code})",
                hint="Check HF_TOKEN, or log in anew with 'hf auth login'.",
            )
        case HfHubHTTPError():
            return FlexQuantError(
                f"{source}: {hub} answers {error.response.status_code}", hint="Try again; the download goes on."
            )
        case OfflineModeIsEnabled():
            return InputError(
                f"{source}: HF_HUB_OFFLINE is set, and {constants.HF_HUB_CACHE} does not have all of this model",
                hint="Unset HF_HUB_OFFLINE to download it.",
            )
        case HTTPError():
            return FlexQuantError(
                f"{source}: {hub} cannot be reached ({_reason(error)}), and {constants.HF_HUB_CACHE} does not have all "
                "of this model",
                hint="Check the connection and try again; the download goes on.",
            )
        case JSONDecodeError():
            return FlexQuantError(
                f"{source}: what {hub} answers is not the hub's",
                hint="Check HF_ENDPOINT, and whether this network wants you to log in first.",
            )
        case OSError(errno=None):  # the library's own complaint about a file
            return FlexQuantError(f"{source}: {_reason(error)}", hint="Try again; the download goes on.")
    return None


def _reason(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
