"""Where what was typed is kept for the next time, readable by its owner alone."""

import os
from collections.abc import Mapping
from pathlib import Path


def history_path(environment: Mapping[str, str] = os.environ) -> Path:
    """The file: in the user's state folder, as the XDG Base Directory Specification has it."""
    given = environment.get("XDG_STATE_HOME", "")
    state = Path(given) if os.path.isabs(given) else Path.home() / ".local" / "state"
    return state / "flexquant" / "chat_history"


def prepare(path: Path) -> None:
    """Make the file if it is not there, and take it from everybody else.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # whoever made it earlier
    finally:
        os.close(descriptor)
