"""What can go wrong for a person, drawn as one tree.

FlexQuantError                  exit code 1
├── UsageError                  2   a flag, setting or combination that cannot work
├── InputError                  3   a file, folder or model of the hub is missing, damaged or of the wrong kind
│   ├── CheckpointError             a model checkpoint
│   │   └── UnsupportedModelError   readable, but of an architecture that the engine does not run
│   └── EnsembleError               an ensemble folder or its manifest
├── MemoryShortError            4   does not fit, even at the smallest position
├── PortInUseError              5   another program listens there
├── SwapError                   1   a module could not be loaded; the position stays where it was
│   └── ClosedError                 the model was closed before it got there (HTTP 503)
├── ContextLengthError          1   more tokens than the context holds (HTTP 400)
├── KVExhaustedError            1   no free KV pages (HTTP 503)
├── GrammarError                1   a grammar, regular expression or JSON schema cannot be used (HTTP 400)
└── ConstraintError             1   an answer cannot go on under its grammar

Every message says what happened and names the file, field or limit; `hint` says what to do next.
Command lines print both without a traceback and exit with `exit_code`.
"""

from typing import ClassVar


class FlexQuantError(Exception):
    """Base of all errors that are meant for a person.

    Args:
        message: What happened, naming the file, field or limit.
        hint: What to do next; printed on its own line.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(FlexQuantError):
    """A flag, a setting or a combination of them cannot work."""

    exit_code = 2


class InputError(FlexQuantError):
    """A file or folder is missing, damaged or of the wrong kind."""

    exit_code = 3


class CheckpointError(InputError):
    """A model checkpoint cannot be read."""


class UnsupportedModelError(CheckpointError):
    """A checkpoint is readable but its architecture is not supported."""


class EnsembleError(InputError):
    """An ensemble folder or its manifest cannot be used."""


class MemoryShortError(FlexQuantError):
    """The model does not fit, even at its smallest position.

    Args:
        message: As for FlexQuantError.
        needed: Bytes that would be needed.
        available: Bytes that are available.
    """

    exit_code = 4

    def __init__(self, message: str, *, needed: int, available: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.needed = needed
        self.available = available


class PortInUseError(FlexQuantError):
    """Another program already listens on the address."""

    exit_code = 5


class SwapError(FlexQuantError):
    """A module variant could not be loaded; the model stays at its position."""


class ClosedError(SwapError):
    """The model was closed before it got to the position."""


class ContextLengthError(FlexQuantError):
    """A request needs more tokens than the context holds.

    Args:
        message: As for FlexQuantError.
        tokens: Tokens the request needs.
        limit: Tokens the context holds.
    """

    def __init__(self, message: str, *, tokens: int, limit: int) -> None:
        super().__init__(message)
        self.tokens = tokens
        self.limit = limit


class KVExhaustedError(FlexQuantError):
    """No KV pages are free for the tokens that were asked for."""


class GrammarError(FlexQuantError):
    """A grammar, a regular expression or a JSON schema has a mistake, is too complex, or asks for the unsupported."""


class ConstraintError(FlexQuantError):
    """An answer cannot go on: its grammar allows no token of the vocabulary, or is too complex at this place."""
