"""What can go wrong between a program and the daemon, drawn as one tree.

ClientError
├── UnreachableError            no daemon answers at the address
├── NoAnswerError               the daemon did not answer in time
├── UnexpectedAnswerError       something answers that is no FlexQuant daemon, or a stream broke off
└── ApiError                    the daemon refused; has `status`, `code` and `param`
    ├── BadRequestError         400, 413: a field or limit, named in the message
    ├── AuthenticationError     401, 403: the API key is missing or wrong, or the host is not allowed
    ├── NotFoundError           404: no such model or path
    └── OverloadedError         503: the queue is full or the daemon is stopping; has `retry_after`
"""


class ClientError(Exception):
    """Base of all errors of the client.

    Args:
        message: What happened.
        hint: What to do next, if that is known.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UnreachableError(ClientError):
    """No daemon answers at the address."""


class NoAnswerError(ClientError):
    """The daemon did not answer in time."""


class UnexpectedAnswerError(ClientError):
    """What came back is not what a FlexQuant daemon says."""


class ApiError(ClientError):
    """The daemon refused the request.

    Args:
        message: The daemon's words.
        status: HTTP status; None for an error in the middle of a stream.
        code: The daemon's short word for programs.
        param: The request's field, if one is to blame.
        retry_after: Seconds after which to try again, if the daemon says so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after


class BadRequestError(ApiError):
    """A field or a limit; the message names it."""


class AuthenticationError(ApiError):
    """The API key is missing or wrong, or this host may not ask."""


class NotFoundError(ApiError):
    """No such model or path."""


class OverloadedError(ApiError):
    """The queue is full or the daemon is stopping; try again after `retry_after` seconds."""


BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequestError,
    413: BadRequestError,
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    503: OverloadedError,
}
