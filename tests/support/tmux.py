"""A real terminal, without anybody in front of it: tmux, detached, with a server of its own."""

import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.daemon import clean_environment

SHELL_PROMPT = "ready$"


@dataclass(frozen=True, slots=True)
class Terminal:
    """One window.

    Args:
        socket: Of its tmux server.
    """

    socket: Path

    def screen(self, *, colours: bool = False) -> str:
        """What it shows; with `colours` as escape sequences."""
        return self._tmux("capture-pane", "-p", *(["-e"] if colours else []), "-t", "0")

    def type(self, text: str) -> None:
        """Type characters."""
        self._tmux("send-keys", "-t", "0", "-l", text)

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names for them: Enter, Escape, Up, C-c, M-Enter."""
        self._tmux("send-keys", "-t", "0", *keys)

    def enter(self, text: str) -> None:
        """Type a line."""
        self.type(text)
        self.press("Enter")

    def paste(self, text: str) -> None:
        """Paste, as a terminal does for programs that ask to be told of it."""
        self._tmux("set-buffer", text)
        self._tmux("paste-buffer", "-p", "-t", "0")

    def resize(self, columns: int, rows: int) -> None:
        """Give the window another size."""
        self._tmux("resize-window", "-t", "0", "-x", str(columns), "-y", str(rows))

    def until(self, shown: str | Callable[[str], bool], seconds: float = 40.0) -> str:
        """Wait until the screen has this text, or is like that; return it."""
        deadline = time.monotonic() + seconds
        while True:
            screen = self.screen()
            if shown in screen if isinstance(shown, str) else shown(screen):
                return screen
            assert time.monotonic() < deadline, f"not seen: {shown}\n{screen}"
            time.sleep(0.05)

    def run(self, *command: str) -> None:
        """Run a command in the window's shell."""
        self.enter(shlex.join(command))

    def _tmux(self, *arguments: str) -> str:
        return _tmux(self.socket, *arguments)


@contextmanager
def terminal(
    folder: Path, *, columns: int = 80, rows: int = 24, environment: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """A window with a shell, until the block ends.

    Args:
        folder: For the socket, and where the shell is.
        columns: Of the window.
        rows: Of the window.
        environment: Variables to add for the shell.
    """
    socket = folder / "tmux"
    variables = clean_environment({"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"})
    variables = {name: value for name, value in variables.items() if name != "NO_COLOR"}
    shell = ["env", f"PS1={SHELL_PROMPT} ", *[f"{name}={value}" for name, value in (environment or {}).items()], "sh"]
    size = ["-x", str(columns), "-y", str(rows)]
    subprocess.run(
        ["tmux", "-S", str(socket), "-f", "/dev/null", "new-session", "-d", *size, "-c", str(folder), *shell],
        check=True,
        env=variables,
    )
    window = Terminal(socket)
    try:
        window.until(SHELL_PROMPT)
        yield window
    finally:
        _tmux(socket, "kill-server")


def _tmux(socket: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["tmux", "-S", str(socket), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
